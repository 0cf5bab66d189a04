"""The expert's own model of the arm agrees with the simulated one."""

from __future__ import annotations

import numpy as np
import pytest

from sim.environment import make_env
from sim.kinematics import HOME_RAD, PandaKinematics, rotation_matrix, rotation_vector
from sim.tasks import SimConfig


@pytest.fixture(scope="module")
def kinematics() -> PandaKinematics:
    return PandaKinematics()


def test_forward_kinematics_is_the_simulators(kinematics: PandaKinematics) -> None:
    env = make_env(SimConfig(cameras=False))
    for seed in range(3):
        observation = env.reset(seed=seed)[0]
        position, rotation = kinematics.forward(observation["joint/position"].astype(np.float64))
        np.testing.assert_allclose(position, observation["tcp/pose"][:3], atol=1e-5)
        np.testing.assert_allclose(rotation, rotation_matrix(observation["tcp/pose"][3:]), atol=1e-5)
    env.close()


def test_joint_step_gives_the_asked_motion(kinematics: PandaKinematics) -> None:
    twist = np.array([0.002, -0.003, 0.001, 0.004, 0.0, -0.005])
    step = kinematics.joint_step(HOME_RAD, twist)
    (before, turned_from), (after, turned_to) = kinematics.forward(HOME_RAD), kinematics.forward(HOME_RAD + step)
    np.testing.assert_allclose(after - before, twist[:3], atol=2e-4)
    np.testing.assert_allclose(rotation_vector(turned_to @ turned_from.T), twist[3:], atol=4e-4)


def test_joint_step_stays_within_the_joint_ranges(kinematics: PandaKinematics) -> None:
    joints = HOME_RAD.copy()
    for _ in range(200):
        joints = joints + kinematics.joint_step(joints, np.array([0.0, 0.0, 0.0, 0.0, 0.0, -0.1]))
    assert joints[6] <= 2.8973 - 0.1 + 1e-9


def test_rotation_vector_inverts_known_turns() -> None:
    quarter = rotation_matrix(np.array([0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)]))
    np.testing.assert_allclose(quarter, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(rotation_vector(quarter), [0.0, 0.0, np.pi / 2], atol=1e-12)
