"""The expert's own model of the arm agrees with the simulated one."""

from __future__ import annotations

import numpy as np
import pytest

from sim.arms import ARMS
from sim.environment import make_env
from sim.kinematics import ArmKinematics, rotation_matrix, rotation_vector
from sim.tasks import SimConfig


@pytest.fixture(scope="module", params=ARMS)
def robot(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def kinematics(robot: str) -> ArmKinematics:
    return ArmKinematics(ARMS[robot])


def test_forward_kinematics_is_the_simulators(kinematics: ArmKinematics, robot: str) -> None:
    env = make_env(SimConfig(cameras=False, robot=robot))
    for seed in range(3):
        observation = env.reset(seed=seed)[0]
        position, rotation = kinematics.forward(observation["joint/position"].astype(np.float64))
        np.testing.assert_allclose(position, observation["tcp/pose"][:3], atol=1e-5)
        np.testing.assert_allclose(rotation, rotation_matrix(observation["tcp/pose"][3:]), atol=1e-5)
    env.close()


def test_joint_step_gives_the_asked_motion(kinematics: ArmKinematics, robot: str) -> None:
    home = np.array(ARMS[robot].home_rad)
    twist = np.array([0.002, -0.003, 0.001, 0.004, 0.0, -0.005])
    step = kinematics.joint_step(home, twist)
    (before, turned_from), (after, turned_to) = kinematics.forward(home), kinematics.forward(home + step)
    np.testing.assert_allclose(after - before, twist[:3], atol=2e-4)
    np.testing.assert_allclose(rotation_vector(turned_to @ turned_from.T), twist[3:], atol=4e-4)


def test_joint_step_stays_within_the_joint_ranges(kinematics: ArmKinematics, robot: str) -> None:
    joints = np.array(ARMS[robot].home_rad)
    for _ in range(200):
        joints = joints + kinematics.joint_step(joints, np.array([0.0, 0.0, 0.0, 0.0, 0.0, -0.1]))
    assert joints[-1] <= {"panda": 2.8973, "ur5e": 6.28319}[robot] - 0.1 + 1e-9


def test_rotation_vector_inverts_known_turns() -> None:
    quarter = rotation_matrix(np.array([0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)]))
    np.testing.assert_allclose(quarter, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(rotation_vector(quarter), [0.0, 0.0, np.pi / 2], atol=1e-12)
