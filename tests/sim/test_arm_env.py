"""The world of an arm: seeds, observations, control, success and truncation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from armature.errors import ConfigError, InvalidValue
from sim.arms import ARMS
from sim.environment import make_env
from sim.tasks import SimConfig

Observation = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    env = make_env(SimConfig(image_size=64))
    yield env
    env.close()


@pytest.fixture(scope="module")
def other() -> Iterator[Any]:
    env = make_env(SimConfig(image_size=64))
    yield env
    env.close()


@pytest.fixture(scope="module")
def blind() -> Iterator[Any]:
    env = make_env(SimConfig(cameras=False, horizon_steps=5))
    yield env
    env.close()


def moved(env: Any, seed: int, steps: int = 6) -> list[Observation]:
    """Reset, then move all joints and close the gripper."""
    observations = [env.reset(seed=seed)[0]]
    target = env.measured_action()
    for _ in range(steps):
        target = target + np.array([0.03, 0.03, -0.03, 0.03, -0.03, 0.03, 0.03, -0.02])
        observations.append(env.step(target)[0])
    return observations


def assert_same(a: list[Observation], b: list[Observation]) -> None:
    for first, second in zip(a, b, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_observations_are_what_the_spec_says(env: Any) -> None:
    for observation in moved(env, seed=0, steps=1):
        env.robot_spec.observation.validate(observation)
        assert tuple(observation) == env.robot_spec.observation.names
        assert env.observation_space.contains(observation)


def test_equal_seeds_give_equal_images_and_states_in_two_worlds(env: Any, other: Any) -> None:
    assert_same(moved(env, seed=3), moved(other, seed=3))


def test_no_state_leaks_from_one_episode_into_the_next(env: Any) -> None:
    first = moved(env, seed=5)
    moved(env, seed=6)
    assert_same(first, moved(env, seed=5))


def test_different_seeds_place_object_and_arm_differently(env: Any) -> None:
    a, b = env.reset(seed=1)[0], env.reset(seed=2)[0]
    for name in ("object/pose", "joint/position", "camera/scene"):
        assert (a[name] != b[name]).any(), name


def test_cameras_do_not_change_the_motion(env: Any, blind: Any) -> None:
    with_cameras, without = moved(env, seed=4, steps=3), moved(blind, seed=4, steps=3)
    for seen, unseen in zip(with_cameras, without, strict=True):
        for name in unseen:
            np.testing.assert_array_equal(seen[name], unseen[name])


def test_both_cameras_see_the_red_cube(env: Any) -> None:
    observation = env.reset(seed=0)[0]
    for camera in ("camera/scene", "camera/wrist"):
        red, green, blue = np.moveaxis(observation[camera].astype(int), -1, 0)
        is_red = (red > 60) & (red > 2 * green) & (red > 2 * blue)
        assert 10 < is_red.sum() < 400, camera


def test_joint_targets_are_reached(blind: Any) -> None:
    blind.reset(seed=0)
    target = blind.measured_action() + np.array([0.05, -0.05, 0.05, 0.05, 0.05, -0.05, 0.05, 0.0])
    for _ in range(20):
        blind.step(target)
    np.testing.assert_allclose(blind.measured_action()[:7], target[:7], atol=1e-3)


def test_gripper_opens_and_closes_to_its_target(blind: Any) -> None:
    blind.reset(seed=0)
    for opening_m in (0.08, 0.03, 0.0):
        action = np.append(blind.measured_action()[:7], opening_m)
        for _ in range(15):
            blind.step(action)
        assert abs(blind.measured_action()[7] - opening_m) < 0.006


def test_horizon_truncates_and_does_not_terminate(blind: Any) -> None:
    blind.reset(seed=0)
    ends = [blind.step(blind.measured_action())[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_success_terminates_with_the_only_reward(blind: Any) -> None:
    blind.reset(seed=0)
    _, reward, terminated, _, info = blind.step(blind.measured_action())
    assert (reward, terminated, info["success"]) == (0.0, False, False)
    blind.data.joint("cube_joint0").qpos[2] = 0.95
    _, reward, terminated, truncated, info = blind.step(blind.measured_action())
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_quaternions_are_unit_and_on_the_side_of_their_reference(blind: Any) -> None:
    for seed in range(5):
        observation = blind.reset(seed=seed)[0]
        tcp, cube = observation["tcp/pose"], observation["object/pose"]
        assert np.linalg.norm(tcp[3:]) == pytest.approx(1, abs=1e-6)
        assert tcp[3] + tcp[4] > 0  # points down: qx + qy, not qw, tells the sign
        assert cube[6] >= 0


def test_poses_are_in_the_frame_of_the_base(blind: Any) -> None:
    observation = blind.reset(seed=0)[0]
    cube_in_world = blind.data.body("cube_main").xpos
    np.testing.assert_allclose(observation["object/pose"][:3], cube_in_world - [-0.56, 0.0, 0.912], atol=1e-6)


@pytest.mark.parametrize("action", [np.zeros(7), np.full(8, np.nan), np.zeros((1, 8))])
def test_malformed_actions_are_refused(blind: Any, action: NDArray[np.float64]) -> None:
    blind.reset(seed=0)
    with pytest.raises(InvalidValue, match="action"):
        blind.step(action)


def test_malformed_action_is_named_by_joint(blind: Any) -> None:
    blind.reset(seed=0)
    action = blind.measured_action()
    action[2] = np.inf
    with pytest.raises(InvalidValue, match="not finite at panda_joint3"):
        blind.step(action)


def test_tcp_displacement_moves_the_tcp_that_way() -> None:
    env = make_env(SimConfig(action="tcp_delta", cameras=False))
    before = env.reset(seed=0)[0]["tcp/pose"]
    assert env.measured_action()[:6].tolist() == [0.0] * 6
    for _ in range(10):
        after = env.step(np.array([0.0, 0.02, 0.0, 0.0, 0.0, 0.0, 0.08]))[0]["tcp/pose"]
    env.close()
    moved_m = after[:3] - before[:3]
    assert moved_m[1] > 0.03
    assert np.abs(moved_m[[0, 2]]).max() < 0.01


def test_the_ur5e_reaches_its_targets_and_reports_six_joints() -> None:
    env = make_env(SimConfig(cameras=False, robot="ur5e"))
    observation = env.reset(seed=0)[0]
    env.robot_spec.observation.validate(observation)
    np.testing.assert_allclose(observation["joint/position"], ARMS["ur5e"].home_rad, atol=0.1)
    target = env.measured_action() + np.array([0.05, -0.05, 0.05, 0.05, 0.05, -0.05, -0.04])
    for _ in range(20):
        env.step(target)
    np.testing.assert_allclose(env.measured_action()[:6], target[:6], atol=1e-3)
    env.close()


def test_unknown_robot_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown robot 'ur10'.*Valid: panda, ur5e"):
        make_env(SimConfig(robot="ur10"))


def test_unknown_task_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="unknown task 'stack'"):
        make_env(SimConfig(task="stack"))


def test_images_may_be_larger_than_the_models_framebuffer() -> None:
    env = make_env(SimConfig(image_size=648))
    image = env.reset(seed=0)[0]["camera/wrist"]
    env.close()
    assert image.shape == (648, 648, 3)
    # What lies beyond a framebuffer stays black.
    assert image[600:, 600:].min() > 10
