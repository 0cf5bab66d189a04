"""How benchmarks of the graph judge: a load that was not there and a fault named too early do not pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import recorder_load
import ros_transport

from armature.errors import ConfigError
from armature.provenance import git_commit


@pytest.fixture
def faults(of_the_graph: Callable[[str], Any]) -> Any:
    return of_the_graph("faults")


def test_streams_have_to_be_published_at_their_rates() -> None:
    published = {name: rate_hz * 10 for name, rate_hz in recorder_load.RATES_HZ.items()}
    assert all(each.ok for each in recorder_load.sent_criteria(published, 10.0))
    missed = [each for each in recorder_load.sent_criteria(published | {"joint/position": 4900}, 10.0) if not each.ok]
    assert [(each.name, each.value) for each in missed] == [("joint/position: published, of 500 Hz", 0.98)]


def test_traffic_has_to_be_sent_at_its_rates() -> None:
    sent_hz = {"left": 30.0, "right": 29.8, "wrist": 29.0, "joint_states": 100.0}
    assert [each.ok for each in ros_transport.sent_criteria(sent_hz)] == [True, True, False, True]


def test_results_of_another_commit_are_refused(faults: Any, tmp_path: Path) -> None:
    file, cases = tmp_path / "results.json", {"tests/test_a.py::test_x": {"outcome": "passed"}}
    file.write_text(json.dumps({"commit": git_commit(), "cases": cases}))
    assert faults.kept_results(file) == cases
    for told in ({"commit": "another", "cases": cases}, cases):
        file.write_text(json.dumps(told))
        with pytest.raises(ConfigError, match=r"results of commit .*, this source is"):
            faults.kept_results(file)


def test_the_exit_code_of_the_tests_counts(faults: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], check: bool) -> SimpleNamespace:
        case = {"rows": [1], "outcome": "passed", "figures": []}
        told = {"commit": git_commit(), "cases": {"tests/test_a.py::test_x": case}}
        Path(command[-1].partition("=")[2]).write_text(json.dumps(told))
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(faults, "subprocess", SimpleNamespace(run=run))
    results, (criterion,) = faults.run_tests()
    assert list(results) == ["tests/test_a.py::test_x"]
    assert not criterion.ok


@pytest.mark.parametrize(
    ("times_ms", "verdicts"),
    [([-100.0, 50.0], [True, True]), ([-120.0, 201.0], [False, False]), ([math.inf], [False, True])],
)
def test_a_fault_is_named_neither_late_nor_early(faults: Any, times_ms: list[float], verdicts: list[bool]) -> None:
    assert [each.ok for each in faults._named("any", times_ms)] == verdicts


def test_a_hold_begins_neither_early_nor_often_before_the_hit(of_the_graph: Callable[[str], Any]) -> None:
    stop_latency = of_the_graph("stop_latency")
    stop, key = of_the_graph("stop_lab").Stop, ("policy_node", "SIGKILL", "idle")
    for held_ms, is_met in ((-20.0, True), (-500.0, False)):
        found = {each.name: each.ok for each in stop_latency._criteria({key: [stop(held_ms), stop(10.0)]})}
        assert found["policy_node SIGKILL, idle: HOLD, least"] is is_met
    for held_before, is_met in ((2, True), (3, False)):
        lab = SimpleNamespace(held_before=held_before, died=[], judged=1, violations=[])
        assert stop_latency._of_all(lab, 100)[0].ok is is_met


def test_steps_are_excused_only_around_the_kill(of_the_graph: Callable[[str], Any], monkeypatch: Any) -> None:
    robot = of_the_graph("residual_robot")
    # Lost long before, on its way, while dead; back with two steps.
    executed = [(1, 9.5), (2, 9.95), (3, 12.0), (4, 15.0), (5, 15.05)]
    log = MagicMock(read=lambda *_: {"stamp_ns": np.array([4, 5])}, __len__=lambda _: 2)
    learner = SimpleNamespace(
        rows=1, taken=lambda _: 1, learner=SimpleNamespace(updates=0), _replay=SimpleNamespace(_rows=np.ones((1, 1)))
    )
    monkeypatch.setattr(robot, "_log_of", lambda _: log)
    monkeypatch.setattr(robot, "rows_of", lambda _: np.ones((1, 1)))
    monkeypatch.setattr(robot.DurableLearner, "open", lambda _: learner)
    worked = robot.Worked(executed=executed, killed_s={"residual_node": 10.0})
    worked.successes_ns = [1, 2, 3, 4, 5]
    found = robot.account_of(Path(), worked, 1)
    assert (found["missing"], found["excused"], found["back_s"]) == (1, 2, 5.0)
    worked.killed_s = {}
    found = robot.account_of(Path(), worked, 1)
    assert (found["missing"], found["excused"], math.isnan(found["back_s"])) == (3, 0, True)
