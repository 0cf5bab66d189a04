"""What an action is to the learner of a residual, in literal numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from armature.spec import GRIPPER_OPENING, JOINT_POSITION, ActionSpec, ArraySpec
from policies.action_frame import ActionFrame
from sim.defaults import limits_for, panda_limits
from sim.tasks import SimConfig, robot_spec


@pytest.fixture
def frame() -> ActionFrame:
    """Two joints of 2 and 4 rad/s and a gripper of 0.08 m, ten actions a second, a third of the way for a residual."""
    joints = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", "", (-1.0, -1.0), (1.0, 1.0), ("a", "b"))
    gripper = ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", "", (0.0,), (0.08,), ("g",))
    limits = panda_limits()
    limits = replace(
        limits,
        position_low=(-1.0, -1.0, 0.0),
        position_high=(1.0, 1.0, 0.08),
        velocity_max=(2.0, 4.0, np.inf),
        acceleration_max=(9.0, 9.0, np.inf),
        request=replace(limits.request, residual_share=0.3),
    )
    return ActionFrame(ActionSpec("joint_position", (joints, gripper), 10.0), limits)


def test_joints_count_from_where_they_are_and_a_gripper_from_the_middle_of_its_range(frame):
    measured = np.array([0.5, -0.5, 0.08])
    # 0.2 rad are half of the 0.4 that 2 rad/s take two actions for.
    found = frame.encode(np.array([0.7, -1.3, 0.06]), measured)
    np.testing.assert_allclose(found, [0.5, -1.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(frame.decode(found, measured), [0.7, -1.3, 0.06], atol=1e-6)


def test_the_largest_residual_is_what_the_gate_passes(frame):
    # A thousandth less than what the gate passes.
    np.testing.assert_allclose(frame.residual_max, 0.999 * np.array([0.15, 0.15, 0.3]))
    np.testing.assert_allclose(frame.residual_max * frame.unit, 0.999 * 0.3 * np.array([0.2, 0.4, 0.04]))


def test_batches_are_mapped_row_by_row(frame):
    actions, measured = np.random.default_rng(0).normal(size=(2, 5, 3))
    rows = [frame.encode(a, m) for a, m in zip(actions, measured, strict=True)]
    np.testing.assert_array_equal(frame.encode(actions, measured), rows)
    np.testing.assert_allclose(frame.decode(frame.encode(actions, measured), measured), actions, atol=1e-6)


def test_an_element_whose_range_is_one_place_is_always_there(frame):
    low, high = frame.low, frame.high
    limits = replace(panda_limits(), position_low=(-1.0, -1.0, 0.08), position_high=tuple(high),
                     velocity_max=(2.0, 4.0, np.inf), acceleration_max=(9.0, 9.0, np.inf))  # fmt: skip
    joints = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", "", tuple(low[:2]), tuple(high[:2]), ("a", "b"))
    gripper = ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", "", (0.08,), (0.08,), ("g",))
    fixed = ActionFrame(ActionSpec("joint_position", (joints, gripper), 10.0), limits)
    measured = np.array([[0.5, -0.5, 0.08]])
    found = fixed.encode(np.array([[0.7, -0.5, 0.08]]), measured)
    np.testing.assert_allclose(found, [[0.5, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(fixed.decode(found, measured), [[0.7, -0.5, 0.08]], atol=1e-6)
    assert fixed.residual_max[2] == 0 < fixed.residual_max[:2].min()


def test_displacements_of_the_tool_are_small_numbers_already():
    spec = robot_spec(SimConfig("lift", cameras=False, action="tcp_delta")).action
    frame = ActionFrame(spec, limits_for(spec))
    assert not frame.is_relative.any()
    np.testing.assert_allclose(frame.unit, [0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 0.04])
    np.testing.assert_allclose(frame.encode(np.zeros(7), np.ones(7)), [0, 0, 0, 0, 0, 0, -1], atol=1e-6)
