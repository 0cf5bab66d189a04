"""Every robot's file says the same things, about as many joints, and nothing that its maker does not allow."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import armature
from armature.control.limits import RobotLimits

FOLDER = Path(armature.__file__).parent / "robots"
FILES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
PER_JOINT = ("position_low_rad", "position_high_rad", "velocity_max_rad_s", "acceleration_max_rad_s2")


@pytest.fixture(params=FILES)
def robot(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load(FILES[name].read_text())


def keys(value: Any) -> Any:
    return {key: keys(item) for key, item in value.items()} if isinstance(value, dict) else None


def test_there_is_a_file_for_every_robot_that_is_promised():
    assert set(FILES) >= {"fer", "fr3", "ur5e", "xarm7", "so101"}


def test_every_file_has_the_same_keys_and_is_named_after_its_robot(robot):
    expected = keys(load("fer"))
    assert keys(robot) == (expected if robot["gripper"] else {**expected, "gripper": None})
    assert FILES[robot["robot"]].stem == robot["robot"]
    assert robot["version"] == 1


def test_every_joint_has_a_name_of_its_own_and_every_limit(robot):
    joints = robot["joints"]
    assert len(set(joints)) == len(joints) >= 5
    for field in PER_JOINT:
        assert len(robot[field]) == len(joints), field
        assert all(type(x) is float and np.isfinite(x) for x in robot[field]), field
    assert all(x > 0 for field in PER_JOINT[2:] for x in robot[field])


def test_what_is_left_of_every_range_after_the_margins_is_most_of_it(robot):
    for low, high in zip(robot["position_low_rad"], robot["position_high_rad"], strict=True):
        assert high - low > 20 * robot["position_margin_rad"] > 0


def test_shares_are_of_what_the_maker_allows_and_learning_is_the_slower_profile(robot):
    assert set(robot["profiles"]) == {"learn", "run"}
    learn, run = robot["profiles"]["learn"], robot["profiles"]["run"]
    for field in ("velocity_share", "acceleration_share"):
        assert 0 < learn[field] <= run[field] <= 1
    for field in ("tcp_speed_max_m_s", "tcp_turn_max_rad_s"):
        assert 0 < learn[field] <= run[field]
    # ISO 10218's reduced speed.
    assert run["tcp_speed_max_m_s"] <= 0.25


def test_the_measured_state_may_miss_three_periods_and_is_lost_after_fifteen(robot):
    watch = robot["watch"]
    assert watch["state_latch_s"] == pytest.approx(5 * watch["state_hold_s"])
    rate_hz = 3 / watch["state_hold_s"]
    assert rate_hz == pytest.approx({"fr3": 30}.get(robot["robot"], 50))


def test_every_file_names_its_sources_and_their_dates(robot):
    head = FILES[robot["robot"]].read_text().split("robot:")[0]
    assert "Source" in head
    assert "as of 20" in head or "(20" in head


def test_the_loader_of_the_gate_takes_every_file_and_profile(robot):
    limits = RobotLimits.from_mapping(robot)
    for profile in robot["profiles"]:
        safety = limits.safety(profile)
        assert len(safety.position_low) == len(robot["joints"]) + bool(robot["gripper"])


# What the maker of the FR3 allows at a distance from the end of the range: sqrt(2 deceleration distance) - offset.
FR3_OFFSET_RAD_S = (0.6599, 0.2517, 0.2000, 0.3533, 0.5757, 0.4878, 0.4628)
FR3_DECELERATION_RAD_S2 = (6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0)


@pytest.mark.parametrize("profile", ["learn", "run"])
def test_an_fr3_that_brakes_as_the_gate_does_keeps_under_the_speed_allowed_where_it_is(profile):
    fr3 = load("fr3")
    shares = fr3["profiles"][profile]
    for joint, (offset, deceleration) in enumerate(zip(FR3_OFFSET_RAD_S, FR3_DECELERATION_RAD_S2, strict=True)):
        braking = shares["acceleration_share"] * fr3["acceleration_max_rad_s2"][joint]
        for speed in np.linspace(0.0, shares["velocity_share"] * fr3["velocity_max_rad_s"][joint], 500):
            distance = fr3["position_margin_rad"] + speed**2 / (2 * braking)
            assert speed <= sqrt(2 * deceleration * distance) - offset, (fr3["joints"][joint], speed)
