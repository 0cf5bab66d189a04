"""Worlds whose policy somebody corrects, in this process and in others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from armature.errors import ArmatureError
from armature.spec import CAMERA_WRIST
from armature.types import Reason
from policies.action_frame import ActionFrame
from sim.corrected_world import CorrectedWorld, Moment, Outcome, PolicyNeeds
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.expert import make_expert
from sim.rollout import rollout
from sim.tasks import SimConfig, robot_spec
from sim.world_processes import WorldProcesses

LIFT = SimConfig("lift", cameras=False, horizon_steps=30)


@pytest.fixture(scope="module")
def expert():
    return make_expert(LIFT)


def needs_of(expert) -> PolicyNeeds:
    return PolicyNeeds(expert.spec, expert.obs_steps, expert.policy_id)


def run(world: CorrectedWorld, expert, seed: int, correction: np.ndarray) -> list[Outcome]:
    expert.reset(seed)
    moment, outcomes = world.begin(seed), []
    while not outcomes or not outcomes[-1].is_done:
        if moment.question is not None:
            moment = world.take(expert.infer(moment.question))
        outcomes.append(world.step(correction))
        moment = outcomes[-1].then
    return outcomes


def test_without_corrections_it_is_the_rollout(expert):
    env = make_env(LIFT)
    expected = rollout(env, expert, 3, default_scheduler(), limits_for(env.robot_spec.action))
    world = CorrectedWorld(LIFT, needs_of(expert), default_scheduler())
    outcomes = run(world, expert, 3, np.zeros(8))
    np.testing.assert_array_equal(np.stack([each.executed for each in outcomes]), expected.commands)
    assert [each.success for each in outcomes] == [False] * 30
    world.close()
    env.close()


def test_a_gate_that_latches_ends_the_episode(expert):
    limits = limits_for(robot_spec(LIFT).action)
    limits = replace(limits, watch=replace(limits.watch, tracking_hold=1e-4, tracking_latch=2e-4))
    world = CorrectedWorld(LIFT, needs_of(expert), default_scheduler(), limits)
    *before, last = run(world, expert, 3, np.zeros(8))
    assert len(before) < 29
    assert not any(each.is_latched or each.is_final for each in before)
    assert (last.is_latched, last.is_final, last.success) == (True, True, False)
    world.close()


def test_a_correction_acts_as_far_as_the_gate_lets_it(expert):
    limits = limits_for(robot_spec(LIFT).action)
    limits = replace(limits, request=replace(limits.request, residual_share=1.0))
    world = CorrectedWorld(LIFT, needs_of(expert), default_scheduler(), limits)
    first = world.begin(3)
    assert first.base is None
    assert first.question is not None
    expert.reset(3)
    asked = world.take(expert.infer(first.question))
    assert asked.base is not None
    assert asked.base[-1] == 0.08
    gripper = np.zeros(8)
    gripper[-1] = -0.005
    after = world.step(gripper)
    assert after.executed[-1] == pytest.approx(0.075)
    # A share of 1: corrections may lead as far as half of the range of 0.08 m.
    if after.then.question is not None:
        world.take(expert.infer(after.then.question))
    gripper[-1] = -0.05
    assert world.step(gripper).executed[-1] == pytest.approx(0.04)
    world.close()


def test_a_moment_shows_state_last_command_and_base(expert):
    world = CorrectedWorld(LIFT, needs_of(expert), default_scheduler())
    outcomes = run(world, expert, 4, np.zeros(8))
    for before, after in pairwise(outcomes):
        np.testing.assert_array_equal(before.then.commanded, before.executed)
        assert (before.then.base is None) == (before.then.question is not None)
        assert set(after.then.values) == {array.name for array in world._env.robot_spec.observation.vectors}
    world.close()


def test_images_come_of_the_cameras_that_are_asked_for_and_of_no_other(expert):
    seeing = replace(LIFT, cameras=True, image_size=24)
    blind = CorrectedWorld(seeing, needs_of(expert), default_scheduler())
    vectors = {array.name for array in blind._env.robot_spec.observation.vectors}
    assert set(blind.begin(3).values) == vectors
    blind.close()
    with WorldProcesses(1, 1, seeing, needs_of(expert), default_scheduler(), cameras=(CAMERA_WRIST,)) as worlds:
        (moment,) = worlds.call([(0, "begin", (3,))])
    assert set(moment.values) == {*vectors, CAMERA_WRIST}
    image = moment.values[CAMERA_WRIST]
    assert (image.shape, image.dtype) == ((24, 24, 3), np.uint8)
    assert image.std() > 5


def test_worlds_in_other_processes_do_the_same(expert):
    here = CorrectedWorld(LIFT, needs_of(expert), default_scheduler())
    expected = run(here, expert, 5, np.full(8, 1e-3))
    here.close()
    experts = [make_expert(LIFT) for _ in range(3)]
    for each in experts:
        each.reset(5)
    with WorldProcesses(3, 2, LIFT, needs_of(expert), default_scheduler()) as worlds:
        moments: list[Moment] = worlds.call([(k, "begin", (5,)) for k in range(3)])
        for wanted in expected:
            for k, each in enumerate(experts):
                question = moments[k].question
                if question is not None:
                    moments[k] = worlds.call([(k, "take", (each.infer(question),))])[0]
            outcomes: list[Outcome] = worlds.call([(k, "step", (np.full(8, 1e-3),)) for k in range(3)])
            for outcome in outcomes:
                np.testing.assert_array_equal(outcome.executed, wanted.executed)
            moments = [each.then for each in outcomes]
        assert [each.is_done for each in outcomes] == [True] * 3


def test_a_world_that_fails_says_why_and_which(expert):
    with WorldProcesses(2, 1, LIFT, needs_of(expert), default_scheduler()) as worlds:
        with pytest.raises(ArmatureError, match=r"^world 1: no episode runs: begin one first$"):
            worlds.call([(1, "step", (np.zeros(8),))])
        # The others go on.
        assert isinstance(worlds.call([(0, "begin", (1,))])[0], Moment)


def test_a_process_that_is_killed_is_noticed(expert):
    with WorldProcesses(1, 1, LIFT, needs_of(expert), default_scheduler()) as worlds:
        worlds.call([(0, "begin", (1,))])
        os.kill(worlds._processes[0].pid, signal.SIGKILL)
        worlds._processes[0].join()
        with pytest.raises(ArmatureError, match="the process of world 0 has ended, exit code -9"):
            worlds.ask([(0, "begin", (2,))])
        with pytest.raises(ArmatureError, match="the process of world 0 has ended, exit code -9"):
            worlds.answers([0])


@pytest.mark.slow
def test_after_a_failure_every_answer_belongs_to_its_call(expert):
    with WorldProcesses(2, 1, LIFT, needs_of(expert), default_scheduler()) as worlds:
        with pytest.raises(ArmatureError, match=r"^world 0: no episode runs"):
            worlds.call([(0, "step", (np.zeros(8),)), (1, "begin", (1,))])
        assert isinstance(worlds.call([(1, "step", (np.zeros(8),))])[0], Outcome)


def test_what_is_no_mistake_of_the_user_is_told_in_one_line_and_traced_on_stderr(expert, capfd):
    with (
        WorldProcesses(1, 1, LIFT, needs_of(expert), default_scheduler()) as worlds,
        pytest.raises(ArmatureError, match=r"^world 0: AttributeError: .*'fly'$"),
    ):
        worlds.call([(0, "fly", ())])
    assert "Traceback" in capfd.readouterr().err


ORDERLY = """
import signal, threading
from sim.corrected_world import PolicyNeeds
from sim.defaults import default_scheduler
from sim.tasks import SimConfig, robot_spec
from sim.world_processes import WorldProcesses

PUSHT = SimConfig("pusht", cameras=False)

def main():
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    with WorldProcesses(2, 2, PUSHT, PolicyNeeds(robot_spec(PUSHT), 1, "none"), default_scheduler()) as worlds:
        # The first interruption finds the worlds importing, the second waiting for calls.
        for _ in range(2):
            print("ready", flush=True)
            while not interrupted.wait(0.01):
                pass
            interrupted.clear()
            worlds.call([(0, "begin", (1,)), (1, "begin", (2,))])
    print("in order", [process.exitcode for process in worlds._processes], flush=True)

if __name__ == "__main__":
    main()
"""


def test_ctrl_c_reaches_the_caller_alone_which_ends_in_order(tmp_path):
    script = tmp_path / "orderly.py"
    script.write_text(ORDERLY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        try:
            for _ in range(2):
                assert process.stdout.readline() == "ready\n"
                os.killpg(process.pid, signal.SIGINT)
            assert process.stdout.readline() == "in order [0, 0]\n"
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_no_process_stays_behind(expert):
    with WorldProcesses(2, 2, LIFT, needs_of(expert), default_scheduler()) as worlds:
        worlds.call([(0, "begin", (1,)), (1, "begin", (2,))])
        processes = list(worlds._processes)
    assert [process.is_alive() for process in processes] == [False, False]


def test_the_largest_residual_is_never_taken_for_one_that_is_too_large(expert):
    """A correction that is cut twenty times in a row is not believed any more: rounding must not look like that."""
    world = CorrectedWorld(LIFT, needs_of(expert), default_scheduler())
    frame = ActionFrame(world._env.robot_spec.action, limits_for(world._env.robot_spec.action))
    correction = frame.residual_max.astype(np.float32).astype(np.float64) * frame.unit
    run(world, expert, 6, correction)
    assert world._episode.result().reasons[Reason.RESIDUAL_LIMIT] == 0
    run(world, expert, 6, 1.01 * correction)
    assert world._episode.result().reasons[Reason.RESIDUAL_LIMIT] > 20
    world.close()
