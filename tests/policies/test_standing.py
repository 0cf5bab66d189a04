"""No policy at all: the robot stays where it is."""

from __future__ import annotations

import numpy as np

from armature.control.chunk_scheduler import SchedulerConfig
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.types import Observation
from policies.standing import Standing
from sim.defaults import limits_for
from sim.environment import make_env
from sim.tasks import SimConfig, robot_spec
from sim.vector_rollout import vector_rollout


def test_it_answers_with_the_joints_where_they_are_and_the_gripper_half_open():
    robot = robot_spec(SimConfig("lift", cameras=False))
    joints = np.linspace(-0.5, 0.5, 7, dtype=np.float32)
    seen = {JOINT_POSITION: joints[None], GRIPPER_OPENING: np.array([[0.07]], np.float32)}
    policy = Standing(robot, limits_for(robot.action))
    assert policy.spec.observation.names == (JOINT_POSITION, GRIPPER_OPENING)
    chunk = policy.infer_batch([Observation(50, seen)], [policy.begin(0)])[0]
    assert (chunk.stamp_ns, chunk.start_ns, chunk.actions.shape) == (50, 50, (1, 8))
    np.testing.assert_allclose(chunk.actions[0], [*joints, 0.04], atol=1e-7)


def test_a_simulated_arm_under_it_stands_still():
    env = make_env(SimConfig("lift", cameras=False, horizon_steps=20))
    policy = Standing(env.robot_spec, limits_for(env.robot_spec.action))
    result = vector_rollout(
        [env], policy, [0], SchedulerConfig("receding_horizon", 8), limits_for(env.robot_spec.action)
    )
    assert np.ptp(result[0].commands[:, :7], axis=0).max() < 1e-3
    env.close()


def test_a_displacement_is_none():
    robot = robot_spec(SimConfig("lift", "tcp_delta", cameras=False))
    policy = Standing(robot, limits_for(robot.action))
    seen = {GRIPPER_OPENING: np.array([[0.07]], np.float32)}
    chunk = policy.infer_batch([Observation(0, seen)], [None])[0]
    np.testing.assert_allclose(chunk.actions[0], [0, 0, 0, 0, 0, 0, 0.04], atol=1e-7)
