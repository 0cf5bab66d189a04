"""Learner and residual node are killed in the middle: the arm goes on, and every logged step is learned once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from residual_lab import BASE_ID, Watch, nodes_of, view_and_normalizer, write_residual

from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import NodeSpec
from armature_ros.residual_node import LOG_NAME
from armature_ros.up import RunningGraph
from policies.durable_learner import DurableLearner
from policies.replay import Layout, NStep, Step
from policies.residual_folder import load_residual
from policies.step_link import Block, StepReceiver
from policies.step_log import CUT, TERMINATED, LogHead, StepLog

pytestmark = pytest.mark.ros

STEPS = 20
NODES = ("sim_node", "policy_node", "control_node", "residual_node", "learner_node")


def open_log(residual: Path) -> StepLog:
    view, _ = view_and_normalizer()
    spec = load_residual(residual).spec
    head = LogHead("lift", spec.fingerprint, BASE_ID, view.observation_dim, view.action_dim)
    return StepLog(residual / "log" / LOG_NAME, head)


def expected_rows(log: StepLog) -> np.ndarray:
    """Return what a learner that nothing ever happened to has made of a log."""
    head = log.head
    layout = Layout(head.observation_dim, head.action_dim)
    block = Block(head, 0, log.read_bytes(0, len(log)))
    rows = []
    nstep = NStep(layout, 3, 0.99)
    for record in StepReceiver(head, 0).take(block):
        flags = int(record["flags"])
        step = Step(record["observation"], record["base"], record["action"], float(record["reward"]))
        rows += nstep.add(step, record["next_observation"], record["next_base"],
                          terminated=bool(flags & TERMINATED), cut=bool(flags & CUT))  # fmt: skip
    return np.stack(rows)


def count_ready(said: list[tuple[str, str]], node: str) -> int:
    """Count how often a node has said that it was ready."""
    return sum(name == node and line.endswith(": ready") for name, line in said)


@pytest.mark.slow
@pytest.mark.fault(row=40)
def test_after_both_were_killed_every_logged_step_is_one_row_of_the_replay(
    environment: dict[str, str], tmp_path: Path
) -> None:
    residual = write_residual(tmp_path / "residual", noise_std=0.1)
    overrides = ("learner_node.flush_period_s=0.2", "learner_node.weights_period_s=0.5",
                 "control_node.residual_timeout_s=0.3")  # fmt: skip
    nodes = nodes_of(residual, *NODES, horizon_steps=STEPS, overrides=overrides)
    said: list[tuple[str, str]] = []
    with (
        RunningGraph(nodes, environment, log=lambda *line: said.append(line)) as graph,
        EpisodeDriver(records=False, check=graph.check) as driver,
    ):
        watch = Watch(driver)
        watch.wait(lambda: watch.status, "residual node")
        watch.wait(lambda: count_ready(said, "learner_node") == 1, "learner")
        driver.run_episode()
        watch.wait(lambda: watch.status["records"] == watch.status["taken"] == STEPS - 1, "acknowledgement")

        for victim in ("learner_node", "residual_node"):
            known = len(watch.executed)
            episode = driver.start_episode()
            watch.wait(lambda known=known: len(watch.executed) > known + 5, "commands")
            os.kill(graph.pids()[victim], signal.SIGKILL)
            result = driver._await_result(episode)
            assert (result["steps"], result["fault"]) == (STEPS, "")
            driver._accepted("control_node/disarm")
            watch.wait(lambda victim=victim: count_ready(said, victim) == 2, f"{victim} again")

        again = "node learner_node was killed by SIGKILL; it is started again, 4 more times at most"
        assert ("learner_node", again) in said
        before = watch.status["records"]

        def is_logged(known: int) -> bool:
            return watch.status["records"] >= known + STEPS - 1

        # A node that has just started may not have met the others: an episode that it misses is the base's alone.
        for _ in range(5):
            driver.run_episode()
            until_s = time.monotonic() + 3.0
            watch.wait(lambda end=until_s: is_logged(before) or time.monotonic() > end, "records")
            if is_logged(before):
                break
        assert is_logged(before)
        watch.wait(lambda: watch.status["records"] == watch.status["taken"], "acknowledgement")
        watch.wait(lambda: watch.status["version"] > 0 or watch.status["waiting_version"], "weights")
        records = watch.status["records"]
    log = open_log(residual)
    assert len(log) == records
    # The first, the learner's and the last episode whole, of that in which the log's writer was killed the beginning.
    assert 3 * (STEPS - 1) <= records <= 5 * (STEPS - 1)
    stamps = log.read(0, records)["stamp_ns"]
    assert (np.diff(stamps) > 0).all()
    learner = DurableLearner.open(residual)
    assert learner.taken(log.head.log_id) == learner.rows == records
    assert np.array_equal(learner._replay._rows[:records], expected_rows(log))
    log.close()


@dataclass(frozen=True)
class OnSmallDisk(NodeSpec):
    """A node whose folder `mount` is a disk of 16 KiB of its own."""

    mount: str = ""

    def command(self) -> list[str]:
        script = f'mount -t tmpfs -o size=16k small {self.mount} && exec "$@"'
        return ["unshare", "-Urm", "sh", "-c", script, "sh", *super().command()]


@pytest.mark.slow
def test_on_a_full_disk_the_residual_goes_on_claims_nothing_and_tells_at_its_end(
    environment: dict[str, str], tmp_path: Path
) -> None:
    residual = write_residual(tmp_path / "residual")
    disk = tmp_path / "small"
    disk.mkdir()
    within = ["unshare", "-Urm", "sh", "-c", f"mount -t tmpfs none {disk}"]
    if shutil.which("unshare") is None or subprocess.run(within, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a tmpfs in a name space of one's own (unshare -Urm)")
    overrides = (f"residual_node.log_folder={disk}/log", "residual_node.control_every=0")
    nodes = [
        OnSmallDisk(**vars(node), mount=str(disk)) if node.name == "residual_node" else node
        for node in nodes_of(residual, horizon_steps=80, overrides=overrides)
    ]
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=False, check=graph.check) as driver:
        watch = Watch(driver)
        watch.wait(lambda: watch.status, "residual node")
        size = open_size(residual)
        result = driver.run_episode().result
        watch.wait(lambda: "No space left on device" in watch.status["fault"], "fault")
        assert result["fault"] == ""
        assert len(watch.corrections) == result["steps"]
        assert 16_384 // size >= watch.status["records"] > 20
        assert watch.status["fault"].startswith("steps are not logged: ")
    assert graph.faulty() == ["residual_node"]


def open_size(residual: Path) -> int:
    """Return the bytes of a record."""
    view, _ = view_and_normalizer()
    return LogHead("lift", "", BASE_ID, view.observation_dim, view.action_dim).record.itemsize
