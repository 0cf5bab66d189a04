"""A residual that is kept is taken again only for the base and the demonstrations that it was learned with."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import judged
import kept_learning
import numpy as np
import pytest
from learning_curves import Curve, table_of
from residual import CASES, Weak, _criteria

from armature.errors import ConfigError
from armature.provenance import git_commit
from policies.train_residual import ResidualTrainConfig

ORIGINS = {"base": "hrdt-1", "demonstrations": "0123"}


def kept(folder: Path) -> ResidualTrainConfig:
    """Return what was learned into a folder."""
    config = ResidualTrainConfig(base=None, dataset=folder, out=folder, task="lift", steps=10)
    (folder / "config.json").write_text(json.dumps({"steps": 10, "task": "lift"}))
    return config


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[ResidualTrainConfig]:
    """Learn nothing, and take note of what was to be learned."""
    asked: list[ResidualTrainConfig] = []

    def train(config: ResidualTrainConfig) -> list[SimpleNamespace]:
        asked.append(config)
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
    assert "base 53 of 100, 0.43 to 0.62" in next(iter(table_of([weak]).columns[-1].cells))
    for found, is_weak in ((weak, True), (strong, False)):
        verdicts = {each.name: each.ok for each in _criteria([found])}
        assert verdicts["lift, base alone, 100 other starts"] is is_weak
        assert verdicts["lift, best residual, 100 other starts"]


def test_the_folder_of_a_base_says_what_makes_it_weak() -> None:
    assert CASES["lift"].weak.name == Weak("hrdt", 200, 600).name == "hrdt_200_600"
