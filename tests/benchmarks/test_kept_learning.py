"""A residual that is kept is taken again only for the base and the demonstrations that it was learned with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import judged
import kept_learning
import numpy as np
import pytest
import residual
from learning_curves import Curve, table_of
from residual import CASES, Weak, _criteria

from armature.errors import ConfigError
from armature.provenance import git_commit
from policies.residual_learner import LearnerConfig
from policies.residual_td3 import ResidualConfig
from policies.train_residual import ResidualTrainConfig

ORIGINS = {"base": "hrdt-1", "demonstrations": "0123"}


def kept(folder: Path) -> ResidualTrainConfig:
    """Return what was learned into a folder."""
    folder.mkdir(exist_ok=True)
    config = ResidualTrainConfig(base=None, dataset=folder, out=folder, task="lift", steps=10)
    told = {"base": None, "dataset": str(folder), "out": str(folder), "task": "lift", "steps": 10}
    (folder / "config.json").write_text(json.dumps(told))
    return config


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[ResidualTrainConfig]:
    """Learn nothing, and take note of what was to be learned."""
    asked: list[ResidualTrainConfig] = []

    def train(config: ResidualTrainConfig) -> list[SimpleNamespace]:
        asked.append(config)
        config.out.mkdir(exist_ok=True)
        return [SimpleNamespace(step=config.steps)]

    monkeypatch.setattr(kept_learning, "train_residual", train)
    monkeypatch.setattr(kept_learning, "_origins", lambda _: dict(ORIGINS))
    return asked


def test_what_was_learned_is_kept_with_its_commit(tmp_path: Path, trainings: list[ResidualTrainConfig]) -> None:
    config = kept(tmp_path)
    assert kept_learning.train_once(config) == git_commit()
    assert json.loads((tmp_path / "done").read_text()) == {**ORIGINS, "commit": git_commit()}
    (tmp_path / "done").write_text(json.dumps({**ORIGINS, "commit": "an older one"}))
    assert kept_learning.train_once(config) == "an older one"
    assert trainings == [config]


@pytest.mark.parametrize(("name", "other"), [("base", "hrdt-2"), ("demonstrations", "4567")])
def test_another_base_and_other_demonstrations_are_refused(
    tmp_path: Path, trainings: list[ResidualTrainConfig], name: str, other: str
) -> None:
    (tmp_path / "done").write_text(json.dumps({**ORIGINS, name: other, "commit": "any"}))
    with pytest.raises(ConfigError, match=rf"other {name} \({other}\) than asked for \({ORIGINS[name]}\); remove it"):
        kept_learning.train_once(kept(tmp_path))
    assert trainings == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 20}, "steps 10, asked for is 20"),
        # An option that is younger than the training had its default.
        ({"learner": LearnerConfig(td3=ResidualConfig(scale=0.5))}, "learner.td3.scale 0.03, asked for is 0.5"),
    ],
)
def test_other_options_are_refused_by_name(
    tmp_path: Path, trainings: list[ResidualTrainConfig], changes: dict[str, Any], named: str
) -> None:
    config = kept(tmp_path)
    (tmp_path / "done").write_text(json.dumps({**ORIGINS, "commit": "any"}))
    assert kept_learning.train_once(replace(config, threads=2)) == "any"
    with pytest.raises(ConfigError, match=f"was learned with {named}; remove it"):
        kept_learning.train_once(replace(config, **changes))
    assert trainings == []


def test_what_was_ended_before_its_first_evaluation_is_begun_anew(
    tmp_path: Path, trainings: list[ResidualTrainConfig]
) -> None:
    config = replace(kept(tmp_path / "run"), out=tmp_path / "run")
    (config.out / "curve.jsonl").touch()
    kept_learning.train_once(config)
    assert [path.name for path in config.out.iterdir()] == ["done"]
    assert trainings == [config]


def test_a_training_that_was_gone_on_with_by_another_commit_names_both(
    tmp_path: Path, trainings: list[ResidualTrainConfig]
) -> None:
    config = replace(kept(tmp_path / "run"), out=tmp_path / "run")
    (config.out / "state").mkdir()
    (tmp_path / "run.commits").write_text("an-older-one")
    assert kept_learning.train_once(config) == f"an-older-one {git_commit()}"
    assert trainings == [replace(config, resume=True)]


def test_a_folder_that_says_nothing_of_them_is_refused(tmp_path: Path, trainings: list[ResidualTrainConfig]) -> None:
    (tmp_path / "done").touch()
    with pytest.raises(ConfigError, match="does not say which base and demonstrations it was learned with; remove it"):
        kept_learning.train_once(kept(tmp_path))
    assert trainings == []


def test_a_residual_is_judged_on_its_own_policy_alone() -> None:
    policy, folder = SimpleNamespace(policy_id="hrdt-1"), SimpleNamespace(base_id="hrdt-2")
    with pytest.raises(ConfigError, match="corrects policy 'hrdt-2', to be judged is 'hrdt-1'"):
        judged.successes(policy, folder, None, 0.0, range(2))  # type: ignore[arg-type]


def curve(successes: list[int], judged: tuple[int, int, int] | None = None) -> Curve:
    """Return a curve of 50 starts, judged every 100 steps."""
    points = [
        {"step": 100 * k, "successes": found, "episodes": 50, "low": 0.5, "high": 0.9}
        for k, found in enumerate(successes)
    ]
    return Curve("lift", "residual", 0, 1000, points, judged, "c0ffee")


def test_a_base_that_is_good_enough_has_not_been_learned() -> None:
    assert np.isnan(curve([46, 40]).steps_to(0.9))
    assert curve([46, 40, 45]).steps_to(0.9) == 1200


def test_what_was_judged_has_intervals_and_a_base_has_to_be_weak() -> None:
    weak, strong = curve([30, 48], (53, 98, 100)), curve([30, 48], (80, 98, 100))
    (low, high), (best_low, _) = weak.judged_intervals
    assert (low, high) == (pytest.approx(0.433, abs=1e-3), pytest.approx(0.625, abs=1e-3))
    assert best_low == pytest.approx(0.930, abs=1e-3)
    *_, shown, commit = table_of([weak]).columns
    assert "base 53 of 100, 0.43 to 0.62" in next(iter(shown.cells))
    assert next(iter(commit.cells)) == "c0ffee"
    for found, is_weak in ((weak, True), (strong, False)):
        verdicts = {each.name: each.ok for each in _criteria([found])}
        assert verdicts["lift, base alone, 100 other starts"] is is_weak
        assert verdicts["lift, best residual, 100 other starts"]


def test_the_deepest_dip_of_all_trainings_counts_and_the_mean_of_their_steps() -> None:
    """Below the 0.5 that the interval begins at: 0.02 and 0.12; to 90 %: 1,100 steps and never."""
    shallow, deep = curve([30, 24, 45], (53, 98, 100)), curve([30, 19, 40], (53, 98, 100))
    for found, depth, is_met in (([shallow], 0.02, True), ([shallow, deep], 0.12, False)):
        criterion = next(each for each in _criteria(found) if "deepest" in each.name)
        assert (criterion.value, criterion.ok) == (pytest.approx(depth), is_met)
    can = [replace(each, case="can") for each in (shallow, deep)]
    for found, is_met in (([can[0]], True), (can, False)):
        assert next(each for each in _criteria(found) if "steps to 90 %" in each.name).ok is is_met


def test_what_was_judged_is_not_judged_again_unless_it_is_of_other_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    best = SimpleNamespace(weights=SimpleNamespace(base_id="hrdt-1", version=7, share=0.5))

    def successes(_policy: Any, _best: Any, _td3: Any, share: float, seeds: range) -> np.ndarray:
        counts.append(len(seeds))
        return np.arange(len(seeds)) < (90 if share else 50)

    for name, stub in {"successes": successes, "learned": lambda _: None, "load_residual": lambda _: best}.items():
        monkeypatch.setattr(residual, name, stub)
    monkeypatch.setattr(residual, "load_policy", lambda _: SimpleNamespace(reset=lambda _: None))
    config = replace(kept(tmp_path), base=tmp_path)
    (tmp_path / "judged.json").write_text("[52, 100, 100]")  # as it was written before it said of what it is
    assert [residual._judged(config, False) for _ in range(2)] == [(50, 90, 100)] * 2
    assert counts == [100, 100]
    monkeypatch.setattr(residual, "FIRST_JUDGED_SEED", 7000)
    assert residual._judged(config, False) == (50, 90, 100)
    best.weights.version = 8
    residual._judged(config, False)
    assert counts == [100] * 6


def test_the_folder_of_a_base_says_what_makes_it_weak() -> None:
    assert CASES["lift"].weak.name == Weak("hrdt", 200, 600).name == "hrdt_200_600"
