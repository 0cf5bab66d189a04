"""How far corrections have led an arm off its plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.spec import GRIPPER_OPENING
from policies.action_frame import ActionFrame
from policies.detour import Detour
from sim.defaults import limits_for
from sim.tasks import SimConfig, robot_spec

ACTION = robot_spec(SimConfig(cameras=False)).action
LIMITS = limits_for(ACTION)
FRAME = ActionFrame(ACTION, LIMITS)
MIDDLE = (FRAME.low + FRAME.high) / 2.0
STEP = np.full(ACTION.dim, 0.005)


def test_motions_add_up_until_the_next_plan():
    detour = Detour(FRAME)
    detour.follow(0)
    assert not detour.distance.any()
    for step in range(3):
        led = detour.lead(step, MIDDLE, STEP)
        assert led == pytest.approx(0.005 * (step + 1))
        assert np.array_equal(detour.distance, led)
    detour.follow(3)
    assert not detour.distance.any()
    assert detour.lead(3, MIDDLE, -STEP) == pytest.approx(-0.005)


def test_what_was_added_while_the_policy_was_thinking_is_not_in_its_plan():
    """Seen at step 4, in force from step 7 on: the motions of steps 4, 5 and 6 came after what it saw."""
    detour = Detour(FRAME)
    detour.follow(0)
    for step in range(7):
        detour.lead(step, MIDDLE, STEP)
    assert detour.distance == pytest.approx(0.035)
    detour.follow(4)
    assert detour.distance == pytest.approx(0.015)
    # The same plan, told again at every step, changes nothing.
    assert detour.lead(7, MIDDLE, STEP) == pytest.approx(0.02)
    detour.follow(4)
    assert detour.distance == pytest.approx(0.02)


def test_a_plan_that_was_left_is_not_gone_back_to():
    detour = Detour(FRAME)
    detour.follow(0)
    detour.lead(0, MIDDLE, STEP)
    detour.follow(1)
    detour.lead(1, MIDDLE, STEP)
    detour.follow(0)
    assert detour.distance == pytest.approx(0.005)


def test_where_a_person_led_the_arm_the_next_correction_goes_on():
    detour = Detour(FRAME)
    detour.follow(0)
    for step in range(3):
        detour.lead(step, MIDDLE, STEP)
    detour.went(2, -4 * STEP)
    assert detour.distance == pytest.approx(-0.02)
    assert detour.lead(3, MIDDLE, STEP) == pytest.approx(-0.015)
    # What is told too late changes nothing.
    detour.went(2, 8 * STEP)
    assert detour.distance == pytest.approx(-0.015)
    detour.follow(3)
    assert detour.distance == pytest.approx(0.005)


def test_displacements_are_motions_already_and_do_not_add_up():
    action = robot_spec(SimConfig(action="tcp_delta", cameras=False)).action
    frame = ActionFrame(action, limits_for(action))
    assert frame.is_displacement.tolist() == [True] * 6 + [False]
    detour, step = Detour(frame), 0.1 * frame.residual_max * frame.unit / 4.0
    middle = (frame.low + frame.high) / 2.0
    detour.follow(0)
    detour.lead(0, middle, step)
    led = detour.lead(1, middle, step)
    assert led == pytest.approx([*step[:6], 2 * step[6]])
    assert detour.distance == pytest.approx([*[0.0] * 6, 2 * step[6]])


def test_no_motion_leaves_the_plan_exactly_as_it_is():
    detour, plan = Detour(FRAME), np.random.default_rng(0).uniform(FRAME.low, FRAME.high)
    for step in range(9):
        detour.follow(step // 8 * 8)
        assert not detour.lead(step, plan, np.zeros(ACTION.dim)).any()


def test_a_motion_leads_no_farther_than_the_gate_lets_pass_and_comes_back_at_once():
    small = ActionFrame(ACTION, replace(LIMITS, request=replace(LIMITS.request, residual_share=0.3)))
    most = small.residual_max * small.unit
    detour = Detour(small)
    detour.follow(0)
    for step in range(5):
        led = detour.lead(step, MIDDLE, most)
    np.testing.assert_allclose(led, most)
    np.testing.assert_allclose(detour.lead(5, MIDDLE, -most), 0.0, atol=1e-12)


def test_a_gripper_that_is_open_is_led_no_further_and_closes_at_once():
    gripper = slice(ACTION.dim - ACTION[GRIPPER_OPENING].size, None)
    plan = MIDDLE.copy()
    plan[gripper] = FRAME.high[gripper]
    detour = Detour(FRAME)
    detour.follow(0)
    for step in range(5):
        assert detour.lead(step, plan, STEP)[gripper] == 0.0
    assert detour.lead(5, plan, -STEP)[gripper] == pytest.approx(-0.005)


def test_a_plan_beyond_the_range_is_not_led_back_into_it():
    """That is the gate's to do, and to count."""
    detour, plan = Detour(FRAME), FRAME.high + 0.1
    detour.follow(0)
    assert not detour.lead(0, plan, STEP).any()
    assert detour.lead(1, plan, -STEP) == pytest.approx(-0.005)


def test_an_episode_begins_on_its_plan():
    detour = Detour(FRAME)
    detour.follow(5)
    detour.lead(5, MIDDLE, STEP)
    detour.begin()
    detour.follow(0)
    assert not detour.distance.any()


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-0.1, 0.1)), min_size=1, max_size=40))
def test_the_distance_is_the_sum_of_the_motions_since_what_the_plan_saw(steps: list[tuple[int, float]]):
    """Plans of any delay, motions too small for any bound."""
    detour, motions, planned = Detour(ActionFrame(ACTION, LIMITS)), [], 0
    motion = 1e-3 * FRAME.unit
    for step, (delay, size) in enumerate(steps):
        planned = max(planned, step - delay)
        detour.follow(planned)
        motions.append(size)
        wanted = sum(motions[planned:]) * motion
        np.testing.assert_allclose(detour.lead(step, MIDDLE, size * motion), wanted, atol=1e-12)
