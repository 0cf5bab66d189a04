"""A residual beside a running control node, in lockstep: what it says is what acts, and every step is in its log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from residual_lab import BASE_ID, Watch, nodes_of, view_and_normalizer, write_residual
from std_srvs.srv import SetBool

from armature_ros.episodes import EpisodeDriver
from armature_ros.residual_node import LOG_NAME
from armature_ros.up import RunningGraph
from policies.residual_folder import load_residual
from policies.step_log import CORRECTED, CUT, ENDED, FIRST, LogHead, StepLog

pytestmark = pytest.mark.ros

STEPS = 12
NO_CONTROL = ("residual_node.control_every=0",)


def read_log(residual: Path) -> np.ndarray:
    """Return all records of a log whose writer has ended."""
    view, _ = view_and_normalizer()
    found = load_residual(residual)
    head = LogHead("lift", found.spec.fingerprint, BASE_ID, view.observation_dim, view.action_dim)
    log = StepLog(residual / "log" / LOG_NAME, head)
    records = log.read(0, len(log)).copy()
    log.close()
    return records


def test_a_correction_acts_exactly_at_its_tick_and_every_step_is_logged(
    environment: dict[str, str], tmp_path: Path
) -> None:
    residual = write_residual(tmp_path / "residual")
    nodes = nodes_of(residual, horizon_steps=STEPS, overrides=NO_CONTROL)
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=False, check=graph.check) as driver:
        watch = Watch(driver)
        watch.wait(lambda: watch.status, "residual node")
        result = driver.run_episode().result
        watch.wait(lambda: watch.status["records"] == STEPS - 1, "records")
        watch.wait(lambda: len(watch.requested) == STEPS, "requests")
        watch.wait(lambda: watch.control["counts"].get("residual: corrections used") == STEPS, "counts")
        label = driver._call(driver.node.create_client(SetBool, "residual_node/label"), SetBool.Request(data=True))
        assert (label.success, label.message.split(",")[0]) == (False, "the simulator tells how its episodes go")
    stamps = sorted(watch.base)
    assert result["steps"] == STEPS == len(stamps)
    for stamp in stamps:
        value, source = watch.corrections[stamp]
        assert source == "residual-v0"
        assert np.abs(value).max() > 1e-5
        assert np.array_equal(watch.requested[stamp], watch.base[stamp] + value)
        assert np.array_equal(watch.corrected[stamp][0], watch.executed[stamp])
    assert "residual_limit" not in watch.control["counts"]
    records = read_log(residual)
    assert records["stamp_ns"].tolist() == stamps[:-1]
    assert [int(flags) for flags in records["flags"]] == [
        CORRECTED | FIRST, *[CORRECTED] * (STEPS - 3), CORRECTED | CUT | ENDED,
    ]  # fmt: skip
    view, _ = view_and_normalizer()
    assert np.array_equal(records["next_observation"][:-1], records["observation"][1:])
    assert np.array_equal(records["next_base"][:-1], records["base"][1:])
    # At the first step nothing has been commanded yet: what is executed is counted from where the arm is.
    reach = records["action"] - records["base"]
    assert (np.abs(reach) <= 0.5 * view.frame.residual_max + 1e-6).all()
