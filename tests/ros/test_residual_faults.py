"""Corrections that are late, absent or no numbers, and processes that are killed: the arm goes on by the base alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from residual_lab import BASE_ID, Watch, actor_weights, nodes_of, write_residual
from trajectory_msgs.msg import JointTrajectory

from armature.control.residual import Correction
from armature_ros.control_corrections import base_action_from_msg, correction_to_msg
from armature_ros.episodes import EpisodeDriver
from armature_ros.qos import reliable_qos
from armature_ros.up import RunningGraph
from sim.tasks import SimConfig, robot_spec

pytestmark = pytest.mark.ros

ACTION = robot_spec(SimConfig(cameras=False)).action
STEPS = 20
"""Of an episode in lockstep."""


class Corrector:
    """Plays the residual: answers base actions as a test says."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._publisher = watch.node.create_publisher(JointTrajectory, "residual/correction", reliable_qos())
        self.answer = lambda stamp_ns: None
        watch.node.create_subscription(JointTrajectory, "control/base_action", self._on_base, reliable_qos())

    def say(self, stamp_ns: int, value: np.ndarray) -> None:
        self._publisher.publish(correction_to_msg(Correction(stamp_ns, value, "test"), ACTION))

    def _on_base(self, message: JointTrajectory) -> None:
        told = base_action_from_msg(message, ACTION.labels)
        assert told.policy_id == BASE_ID
        self.answer(told.stamp_ns)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_residual(tmp_path_factory.mktemp("faults") / "residual")


@pytest.fixture(scope="module")
def lockstep(module_environment: dict[str, str], residual: Path) -> Iterator[tuple[Watch, Corrector]]:
    """Simulator, policy and control node, without a residual node."""
    overrides = ("control_node.residual_timeout_s=0.3",)
    nodes = [n for n in nodes_of(residual, horizon_steps=STEPS, overrides=overrides) if n.name != "residual_node"]
    with (
        RunningGraph(nodes, module_environment) as graph,
        EpisodeDriver(records=False, check=graph.check) as driver,
    ):
        watch = Watch(driver)
        yield watch, Corrector(watch)


def run(watch: Watch) -> dict[str, int]:
    """Run an episode to its end; return by how much each count of the control node grew."""
    watch.wait(lambda: watch.control, "status")
    before = dict(watch.control["counts"])
    assert watch.driver.run_episode().result["steps"] == STEPS
    count = sum(before.get(f"residual: {name}", 0) for name in ("corrections used", "ticks without"))

    def is_told() -> bool:
        counts = watch.control["counts"]
        told = sum(counts.get(f"residual: {name}", 0) for name in ("corrections used", "ticks without"))
        return told == count + STEPS

    watch.wait(is_told, "counts")
    after = watch.control["counts"]
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


@pytest.mark.parametrize("late", [np.nan, np.inf])
def test_a_correction_that_is_no_number_is_refused_and_counted(lockstep: tuple[Watch, Corrector], late: float) -> None:
    watch, corrector = lockstep
    value = np.zeros(ACTION.dim)
    value[3] = late
    corrector.answer = lambda stamp_ns: corrector.say(stamp_ns, value)
    grown = run(watch)
    assert grown["residual: ticks without"] == STEPS
    assert grown["refused: residual/correction"] == STEPS
    assert "residual: corrections used" not in grown


def test_without_corrections_only_the_first_tick_waits_and_all_pass(lockstep: tuple[Watch, Corrector]) -> None:
    watch, corrector = lockstep
    corrector.answer = lambda stamp_ns: None
    watch.executed.clear()
    watch.requested.clear()
    assert run(watch)["residual: ticks without"] == STEPS
    watch.wait(lambda: len(watch.requested) == STEPS, "requests")
    assert all(np.array_equal(watch.requested[stamp], watch.base[stamp]) for stamp in watch.requested)


def test_corrections_that_come_back_in_the_middle_act_again(lockstep: tuple[Watch, Corrector]) -> None:
    watch, corrector = lockstep
    value = np.full(ACTION.dim, 1e-4)
    asked: list[int] = []

    def answer(stamp_ns: int) -> None:
        asked.append(stamp_ns)
        if len(asked) > 5:
            corrector.say(stamp_ns, value)

    corrector.answer = answer
    grown = run(watch)
    assert grown["residual: corrections used"] + grown["residual: ticks without"] == STEPS
    assert grown["residual: corrections used"] >= STEPS - 8


def test_a_correction_of_other_joints_or_of_no_base_action_is_refused(lockstep: tuple[Watch, Corrector]) -> None:
    watch, corrector = lockstep

    def answer(stamp_ns: int) -> None:
        corrector.say(stamp_ns + 50_000_000, np.zeros(ACTION.dim))
        message = correction_to_msg(Correction(stamp_ns, np.zeros(ACTION.dim), "test"), ACTION)
        message.joint_names[0] = "elbow"
        corrector._publisher.publish(message)
        corrector.say(stamp_ns, np.zeros(ACTION.dim))

    corrector.answer = answer
    grown = run(watch)
    assert grown["refused: residual/correction"] == 2 * STEPS
    assert grown["residual: corrections used"] == STEPS


@pytest.mark.slow
def test_in_real_time_a_late_correction_does_not_act_the_loop_goes_on_and_one_in_time_acts(
    environment: dict[str, str], residual: Path
) -> None:
    nodes = [n for n in nodes_of(residual, horizon_steps=60, lockstep=False) if n.name != "residual_node"]
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=False, check=graph.check) as driver:
        watch = Watch(driver)
        corrector = Corrector(watch)
        value = np.full(ACTION.dim, 1e-4)
        asked: list[int] = []

        def answer_late(stamp_ns: int) -> None:
            asked.append(stamp_ns)
            if len(asked) > 2:
                corrector.say(asked[-3], value)

        corrector.answer = answer_late
        assert driver.run_episode().result["fault"] == ""
        watch.wait(lambda: watch.control["counts"].get("residual: ticks without", 0) > 20, "ticks")
        assert "residual: corrections used" not in watch.control["counts"]
        assert {source for _, source in watch.corrected.values()} == {""}
        # Once per action, not per tick.
        assert np.diff(asked).min() >= 45_000_000
        watch.corrected.clear()
        corrector.answer = lambda stamp_ns: corrector.say(stamp_ns, value)
        assert driver.run_episode().result["fault"] == ""
        watch.wait(lambda: watch.control["counts"].get("residual: corrections used", 0) > 20, "corrections")
        assert "test" in {source for _, source in watch.corrected.values()}


@pytest.mark.slow
@pytest.mark.fault(row=40)
def test_weights_are_swapped_between_episodes_only_and_never_older_damaged_or_foreign_ones(
    environment: dict[str, str], tmp_path: Path
) -> None:
    residual = write_residual(tmp_path / "residual", version=3)
    overrides = ("residual_node.control_every=0",)
    nodes = nodes_of(residual, horizon_steps=STEPS, overrides=overrides)
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=False, check=graph.check) as driver:
        watch = Watch(driver)
        watch.await_status(version=3)
        driver.start_episode()
        watch.wait(lambda: len(watch.corrections) > 3, "corrections")
        watch.give(actor_weights(7, seed=1).to_bytes())
        watch.await_status(waiting_version=7)
        watch.wait(lambda: not watch.status["is_acting"], "end of the episode")
        assert {source for _, source in watch.corrections.values()} == {"residual-v3"}
        assert len(watch.corrections) == STEPS
        for content in (
            actor_weights(5).to_bytes(),
            actor_weights(9).to_bytes()[:-1],
            actor_weights(9, base_id="another").to_bytes(),
        ):
            before = dict(watch.status["refused"])
            watch.give(content)
            watch.wait(lambda known=before: watch.status["refused"] != known, "refusal")
        assert watch.status["refused"]["weights older"] == 1
        assert watch.status["refused"]["weights damaged or of another residual"] == 2
        watch.corrections.clear()
        driver.run_episode()
        watch.wait(lambda: len(watch.corrections) == STEPS, "corrections")
        assert {source for _, source in watch.corrections.values()} == {"residual-v7"}
