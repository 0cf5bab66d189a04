"""The short way through a control period is robosuite's own, number for number."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from armature.errors import ConfigError
from sim.backend import mujoco
from sim.environment import make_env
from sim.joint_servo import JointServo
from sim.tasks import SimConfig

STEPS = 1000


def random_goals(start: np.ndarray):
    """Yield a goal of joints [rad] and a command of the gripper per step, anew every fifth step."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS // 5):
        goal, grip = start + rng.uniform(-0.3, 0.3, start.shape), float(rng.integers(-1, 2))
        for _ in range(5):
            yield goal, grip


@pytest.mark.parametrize(
    "config",
    [
        SimConfig("lift", cameras=False),
        pytest.param(SimConfig("can", cameras=False, robot="ur5e"), marks=pytest.mark.slow),
    ],
    ids=["lift", "can, ur5e"],
)
def test_a_thousand_random_steps_are_those_of_robosuite(config):
    envs = [make_env(config) for _ in range(2)]
    for env in envs:
        env.reset(seed=3)
    theirs, ours = (env.unwrapped for env in envs)
    servo = JointServo(ours._world)
    moved = 0.0
    integrated = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(theirs.model, integrated))
    for step, (goal, grip) in enumerate(random_goals(theirs.measured_action()[:-1])):
        # From one state, step by step: where things touch, rounding alone leads two simulations apart in time.
        mujoco.mj_getState(theirs.model, theirs.data, state, integrated)
        mujoco.mj_setState(ours.model, ours.data, state, integrated)
        before = theirs.data.qpos.copy()
        theirs._world.step(np.append(goal, grip))
        servo.step(goal, grip)
        # In the first substep after a reset robosuite still has the mass matrix from before it: 1e-7 rad.
        np.testing.assert_allclose(ours.data.qpos, theirs.data.qpos, atol=1e-6, rtol=0, err_msg=f"step {step}")
        np.testing.assert_allclose(ours.data.qvel, theirs.data.qvel, atol=1e-4, rtol=0, err_msg=f"step {step}")
        moved += np.abs(theirs.data.qpos - before).max()
    assert moved > 5.0
    assert (ours._world.timestep, ours._world.cur_time) == (theirs._world.timestep, theirs._world.cur_time)
    for env in envs:
        env.close()


def test_an_arm_whose_joints_do_not_lie_side_by_side_is_refused():
    env = make_env(SimConfig("lift", cameras=False))
    world = env.unwrapped._world
    arm = world.robots[0].part_controllers["right"]
    arm.qpos_index = [0, 1, 2, 3, 4, 5, 7]
    with pytest.raises(ConfigError, match=r"\[0, 1, 2, 3, 4, 5, 7\], not side by side"):
        JointServo(SimpleNamespace(**{name: getattr(world, name) for name in
                                      ("robots", "sim", "control_timestep", "model_timestep")}))  # fmt: skip
    env.close()
