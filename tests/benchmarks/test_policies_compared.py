"""How benchmarks of policies judge: what is compared with what, with which interval."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import policy_latency
import pusht
import pytest
import steps_sweep
from embodiment_transfer import TransferArguments, difference_interval, measure

from armature.errors import ConfigError
from data_collection.store import create_dataset
from sim.tasks import SimConfig, robot_spec


def point(evaluations: int, coverages: tuple[float, ...], family: str = "hrdt") -> steps_sweep.Point:
    mean = float(np.mean(coverages))
    return steps_sweep.Point(family, evaluations, mean, 0.0, 1.0, 0, 1.0, coverages)


def test_a_goal_names_the_numbers_it_was_compared_with() -> None:
    points = [point(2, (0.8, 0.6)), point(3, (0.9, 0.9)), point(10, (0.84, 0.7)), point(50, (1.0, 1.0), "mode")]
    found = steps_sweep._criterion(points, "hrdt", 2)
    assert found.name == "hrdt: 2 evaluations against the best of 3, 10"
    assert found.value == pytest.approx(-20)
    assert not found.ok


@pytest.mark.parametrize("numbers", [(3, 10), (2,), (1, 2)], ids=["not measured", "alone", "the largest"])
def test_a_goal_without_what_it_needs_is_missed(numbers: tuple[int, ...]) -> None:
    found = steps_sweep._criterion([point(number, (0.8, 0.6)) for number in numbers], "hrdt", 2)
    assert math.isnan(found.value)
    assert not found.ok


def test_a_difference_to_the_best_is_of_the_same_starts() -> None:
    few, many = point(2, (0.1, 0.5, 0.7, 0.89)), point(10, (0.2, 0.6, 0.8, 1.0))
    gap = steps_sweep.against_best(few, [few, many])
    assert (gap.best, gap.points) == (10, pytest.approx(-10.25))
    assert -11 <= gap.low <= gap.points <= gap.high <= -10 + 1e-9
    assert steps_sweep.against_best(many, [few, many]) == steps_sweep.Gap(10, 0.0, 0.0, 0.0)


def test_quick_evaluations_include_those_of_every_goal() -> None:
    assert set(steps_sweep.ENOUGH.values()) < set(steps_sweep.QUICK_EVALUATIONS)
    assert max(steps_sweep.QUICK_EVALUATIONS) > max(steps_sweep.ENOUGH.values())


def outcomes(without: list[int], with_trunk: list[int]) -> np.ndarray:
    """Return which of 50 episodes of each training succeed (trainings, 2, 50)."""
    return np.array([[np.arange(50) < k for k in pair] for pair in zip(without, with_trunk, strict=True)])


def test_an_interval_is_as_wide_as_trainings_scatter() -> None:
    # Gains 0.2, 0, 0.1, 0.4, -0.1: mean 0.12, deviation 0.1924; Student's 97.5 % of 4 degrees of freedom is 2.7764.
    low, high = difference_interval(outcomes([10, 10, 10, 10, 10], [20, 10, 15, 30, 5]))
    assert low == pytest.approx(0.12 - 2.7764 * 0.19235 / 5**0.5, abs=1e-4)
    assert high == pytest.approx(0.12 + 2.7764 * 0.19235 / 5**0.5, abs=1e-4)
    low, _ = difference_interval(outcomes([10, 10, 10, 10, 10], [20, 21, 19, 20, 20]))
    assert low > 0.18
    assert TransferArguments().trainings == 5
    with pytest.raises(ConfigError, match="trainings is 1"):
        measure(True, TransferArguments(trainings=1), Path())


SCORE = pusht.Score("diffusion", 0, 1, 1, 1.0, 30.0, 0.86, 0.8, 0.9, 0.9, 1, (0.86,),
                    {"training": {"config": {"device": "cuda", "threads": 3}}})  # fmt: skip


def test_the_best_is_one_of_four_and_times_are_of_the_machine_that_trained() -> None:
    slow = {"training": {"config": {"device": "cpu", "threads": 1, "compiled": True}}}
    others = [replace(SCORE, family="bc", coverage=0.99), replace(SCORE, family="hrdt", coverage=0.89)]
    slowest = replace(SCORE, family="ebt", coverage=0.5, training_minutes=61.0, provenance=slow)
    found = {each.name: (each.value, each.ok) for each in pusht._criteria([SCORE, *others, slowest])}
    assert found == {
        "diffusion, coverage": (0.86, True),
        "best of diffusion, ebt, hrdt, coverage": (0.89, False),
        "longest training (ebt, cpu, threads: 1, compiled)": (61.0, False),
    }
    assert [each.name for each in pusht._criteria(others[:1])] == ["longest training (bc, cuda, threads: 3)"]


def test_seeds_of_a_family_count_by_their_mean() -> None:
    found = pusht._criteria([SCORE, replace(SCORE, seed=1, coverage=0.80)])
    assert found[0].value == pytest.approx(0.83)


def test_recordings_that_were_not_imported_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pusht, "open_source", lambda config: config.source)
    monkeypatch.setattr(pusht, "fingerprint_of", lambda source: source.name)
    arguments = pusht.PushtArguments(out=tmp_path)
    spec = robot_spec(SimConfig("pusht", cameras=False))
    path = create_dataset(tmp_path / "dataset", spec, "pusht", attributes={"import_key": "these"}).path
    for recordings in (None, Path("any/these")):
        assert pusht.dataset_of(replace(arguments, recordings=recordings)) == path
    with pytest.raises(ConfigError, match=r"other recordings \(these\) than any/others \(others"):
        pusht.dataset_of(replace(arguments, recordings=Path("any/others")))


@pytest.mark.parametrize(
    ("preset", "device", "is_bounded"),
    [
        ("bc_small", "cpu", True),
        ("bc_small", "cuda", False),
        ("mode_small", "cuda", True),
        ("bc_tiny", "cpu", False),
        ("mode_paper", "cuda", False),
    ],
)
def test_latency_has_bounds_for_small(preset: str, device: str, is_bounded: bool) -> None:
    assert policy_latency.is_bounded(preset, device) is is_bounded
