"""The contracts of the simulated robots."""

from __future__ import annotations

import subprocess
import sys

import pytest

from armature.errors import ConfigError
from armature.testing import check_spec_roundtrip
from sim.tasks import PIXELS, STATE, TASKS, SimConfig, horizon_steps, robot_spec


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("action", ["joint_position", "tcp_delta"])
def test_specs_survive_json_and_sampling(task: str, action: str) -> None:
    check_spec_roundtrip(robot_spec(SimConfig(task=task, action=action)))


def test_panda_observations_are_in_the_promised_order() -> None:
    names = robot_spec(SimConfig()).observation.names
    assert names == (*PIXELS, "tcp/pose", "object/pose")
    assert set(STATE) < set(names)


def test_real_robot_observations_without_privileges_are_pixels_and_joints() -> None:
    assert robot_spec(SimConfig(privileged=False)).observation.names == PIXELS


def test_cameras_can_be_left_out() -> None:
    assert robot_spec(SimConfig(cameras=False)).observation.names == STATE


def test_joint_action_has_seven_joints_and_a_gripper() -> None:
    action = robot_spec(SimConfig()).action
    assert action.dim == 8
    assert action.labels == (*(f"panda_joint{i}" for i in range(1, 8)), "panda_gripper")
    assert action.low[3] == -3.0718
    assert action.high[7] == 0.08
    assert action.period_ns == 50_000_000


def test_ur5e_has_six_joints_of_its_own_and_the_same_hand() -> None:
    spec = robot_spec(SimConfig(robot="ur5e"))
    assert (spec.name, spec.action.dim, spec.observation["joint/position"].shape) == ("ur5e", 7, (6,))
    assert spec.action.labels[0] == "shoulder_pan_joint"
    assert spec.action.labels[-1] == "panda_gripper"
    assert (spec.action.high[2], spec.action.high[3]) == (3.14159, 6.28319)


def test_tcp_action_is_a_displacement_and_an_opening() -> None:
    action = robot_spec(SimConfig(action="tcp_delta")).action
    assert action.dim == 7
    assert action.high.tolist() == [0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 0.08]


def test_pusht_moves_in_pixels_at_ten_hertz() -> None:
    spec = robot_spec(SimConfig(task="pusht"))
    assert spec.action.kind == "planar_position"
    assert spec.action.period_ns == 100_000_000
    assert spec.observation["camera/scene"].shape == (96, 96, 3)


def test_unknown_task_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'lfit'\. Did you mean 'lift'.*can, lift, pusht, square"):
        robot_spec(SimConfig(task="lfit"))


def test_unknown_action_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown action 'torque'.*joint_position, tcp_delta"):
        robot_spec(SimConfig(action="torque"))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [7, 4097])
def test_images_that_no_renderer_draws_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"image_size: {size}, must lie in 8 to 4096"):
        robot_spec(SimConfig(image_size=size))


def test_horizon_is_the_tasks_own_unless_given() -> None:
    assert horizon_steps(SimConfig()) == 200
    assert horizon_steps(SimConfig(horizon_steps=7)) == 7
    with pytest.raises(ConfigError, match="horizon_steps: 0"):
        horizon_steps(SimConfig(horizon_steps=0))


def test_specs_do_not_need_the_simulator() -> None:
    code = "import sys, sim.tasks, sim.environment; assert not {'mujoco', 'robosuite', 'pygame'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
