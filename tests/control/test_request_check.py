"""Which requests are believed; with the limits of the small arm, whose command is at its origin."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from small_arm import DELTA_LIMITS, LIMITS, ORIGIN

from armature.control.limits import SafetyLimits
from armature.control.request_check import RequestCheck
from armature.types import Reason

COMMAND = list(ORIGIN)
VALID = [0.01, 0.02, 0.04]


class Asked:
    """A check that is asked with the command at the origin; its actions last 0.1 s."""

    def __init__(self, limits: SafetyLimits = LIMITS, **changes: float) -> None:
        self.check = RequestCheck(replace(limits, request=replace(limits.request, **changes)), 0.1)

    def __call__(self, requested, base=None, age_s=0.0):
        request = requested if requested is None or isinstance(requested, np.ndarray) else np.array(requested)
        base = base if base is None or isinstance(base, np.ndarray) else np.array(base)
        return self.check.judge(request, base, age_s, COMMAND)


@pytest.fixture
def asked() -> Asked:
    """Return a check that has believed a request already."""
    asked = Asked()
    assert asked(VALID) == (VALID, ())
    return asked


@pytest.mark.fault(row=1)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("element", [0, 1, 2])
def test_one_bad_element_refuses_the_whole_request_and_the_third_in_a_row_holds(asked, bad, element):
    request = [0.03, 0.04, 0.05]
    request[element] = bad
    assert [asked(request) for _ in range(4)] == [(VALID, (Reason.NOT_FINITE,))] * 2 + [
        (None, (Reason.NOT_FINITE,))
    ] * 2
    assert asked([0.03, 0.04, 0.05]) == ([0.03, 0.04, 0.05], ())


@pytest.mark.fault(row=6)
@pytest.mark.fault(row=8)
@pytest.mark.parametrize(
    "malformed",
    [np.zeros(n) for n in (0, 2, 4, 700)]
    + [np.zeros((1, 3)), np.zeros(3, complex), np.zeros(3, bool), np.array(["0"] * 3), np.array([None] * 3)],
)
def test_a_request_of_another_size_or_of_no_numbers_is_refused_whole(asked, malformed):
    assert asked(malformed) == (VALID, (Reason.MALFORMED,))


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_all_real_numbers_are_requests(dtype):
    target, reasons = Asked()(np.zeros(3, dtype))
    assert (target, reasons) == ([0.0, 0.0, 0.0], ())
    assert {type(x) for x in target} == {float}


def test_refused_requests_count_in_a_row(asked):
    for _ in range(3):
        assert asked([nan, 0.0, 0.0])[0] == VALID
        assert asked([nan, 0.0, 0.0])[0] == VALID
        assert asked(VALID) == (VALID, ())


@pytest.mark.fault(row=2)
@pytest.mark.parametrize(
    ("element", "value", "is_believed"),
    [
        *((0, 2.0, True), (0, 2.001, False), (0, -2.0, True), (0, -2.001, False), (0, 1e30, False), (0, -1e308, False)),
        *((1, 8.0, True), (1, 8.001, False), (1, -8.0, True), (1, -8.001, False), (1, 3.4028235e38, False)),
    ],
)
def test_a_request_further_away_than_the_joint_reaches_in_two_seconds_is_a_jump(asked, element, value, is_believed):
    request = [0.0, 0.0, 0.04]
    request[element] = value
    assert asked(request) == ((request, ()) if is_believed else (VALID, (Reason.JUMP,)))


@pytest.mark.parametrize(("value", "is_believed"), [(1.0, True), (1.001, False), (-1.0, True), (-1.001, False)])
def test_the_first_request_has_to_be_nearer(value, is_believed):
    request = [value, 0.0, 0.04]
    assert Asked()(request) == ((request, ()) if is_believed else (None, (Reason.FIRST_COMMAND,)))


def test_the_first_request_is_the_first_one_that_is_believed_after_arming():
    asked = Asked()
    assert asked([nan, 0.0, 0.04]) == (None, (Reason.NOT_FINITE,))
    assert asked(None) == (None, (Reason.NO_CHUNK,))
    assert asked([1.5, 0.0, 0.04]) == (None, (Reason.FIRST_COMMAND,))
    assert asked(VALID) == (VALID, ())
    assert asked([1.5, 0.0, 0.04]) == ([1.5, 0.0, 0.04], ())
    asked.check.begin()
    assert asked([1.5, 0.0, 0.04]) == (None, (Reason.FIRST_COMMAND,))


@pytest.mark.fault(row=9)
def test_a_first_request_in_degrees_is_told_from_one_in_radians_even_with_its_gripper_scaled():
    in_rad = np.array([0.5, 0.1, 0.04])
    check = RequestCheck(LIMITS, 0.1)
    assert check.judge(in_rad * 57.2958, None, 0.0, in_rad.tolist()) == (None, (Reason.FIRST_COMMAND,))


@pytest.mark.fault(row=18)
@pytest.mark.parametrize(
    ("opening", "is_believed"), [(0.1, True), (0.1001, False), (-0.02, True), (-0.0201, False), (80.0, False)]
)
def test_a_gripper_far_out_of_its_range_refuses_the_whole_request(asked, opening, is_believed):
    request = [0.03, 0.03, opening]
    assert asked(request) == ((request, ()) if is_believed else (VALID, (Reason.GRIPPER_RANGE,)))


@pytest.mark.fault(row=18)
def test_a_gripper_that_is_not_finite_refuses_the_whole_request(asked):
    assert asked([0.03, 0.03, nan]) == (VALID, (Reason.NOT_FINITE,))


def test_a_motion_of_the_tool_far_beyond_its_range_is_refused():
    asked = Asked(DELTA_LIMITS)
    assert asked([0.07, -0.07, 0.04]) == ([0.07, -0.07, 0.04], ())
    assert asked([0.08, 0.0, 0.04]) == ([0.07, -0.07, 0.04], (Reason.GRIPPER_RANGE,))


@pytest.mark.fault(row=11)
@pytest.mark.fault(row=12)
@pytest.mark.parametrize(
    ("age_s", "is_believed"),
    [
        *((0.0, True), (1.0, True), (1.001, False), (3600.0, False), (1.7e9, False)),
        *((-0.02, True), (-0.021, False), (-3600.0, False), (nan, False)),
    ],
)
def test_the_answer_to_an_old_observation_or_to_one_of_the_future_is_not_executed(asked, age_s, is_believed):
    expected = ([0.03, 0.0, 0.04], ()) if is_believed else (None, (Reason.STALE_CHUNK,))
    assert asked([0.03, 0.0, 0.04], age_s=age_s) == expected


def test_what_was_valid_before_a_gap_is_not_gone_back_to():
    for interruption in (lambda a: a(None), lambda a: a(VALID, age_s=2.0), lambda a: a.check.hold()):
        asked = Asked()
        asked(VALID)
        interruption(asked)
        assert asked([nan, 0.0, 0.0]) == (None, (Reason.NOT_FINITE,))


def test_a_correction_within_its_share_passes():
    asked = Asked()
    # Half of what 1 and 4 rad/s allow in 0.1 s; half of the half range of the gripper.
    for corrected in ([0.05, -0.2, 0.06], [-0.05, 0.2, 0.02]):
        assert asked(corrected, base=COMMAND) == (corrected, ())


@pytest.mark.fault(row=16)
@pytest.mark.parametrize(
    ("corrected", "cut"),
    [
        ([0.06, 0.0, 0.04], [0.05, 0.0, 0.04]),
        ([-0.06, 0.0, 0.04], [-0.05, 0.0, 0.04]),
        ([0.0, 0.21, 0.04], [0.0, 0.2, 0.04]),
        ([0.01, -1e300, 0.04], [0.01, -0.2, 0.04]),
        ([0.01, 0.02, 0.07], [0.01, 0.02, 0.06]),
    ],
)
def test_a_correction_beyond_its_share_is_cut(corrected, cut):
    target, reasons = Asked()(corrected, base=COMMAND)
    assert target == pytest.approx(cut)
    assert reasons == (Reason.RESIDUAL_LIMIT,)


@pytest.mark.fault(row=16)
def test_after_four_cut_corrections_in_a_row_the_base_action_is_left_alone_until_the_next_arming():
    asked = Asked()
    base, wild, tame = [0.1, 0.1, 0.04], [9.0, 0.1, 0.04], [0.11, 0.1, 0.04]
    cut = pytest.approx([0.15, 0.1, 0.04])
    for _ in range(2):
        assert [asked(wild, base)[0] for _ in range(3)] == [cut] * 3
        assert asked(tame, base) == (tame, ())
    assert [asked(wild, base)[0] for _ in range(4)] == [cut] * 4
    for corrected in (wild, tame):
        assert asked(corrected, base) == (base, (Reason.RESIDUAL_LIMIT,))
    asked.check.begin()
    assert asked(tame, base) == (tame, ())


@pytest.mark.parametrize(
    ("base", "corrected", "expected"),
    [
        # The gripper goes from 0 to 0.08 m, and beyond by a quarter of that at most: 0.04 m are the largest correction.
        ([0.0, 0.0, 0.08], [0.0, 0.0, 0.12], [0.0, 0.0, 0.08]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, -0.04], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.03], [0.0, 0.0, -0.01], [0.0, 0.0, 0.0]),
        # Where the policy itself is a little outside, a correction leads no further.
        ([0.0, 0.0, 0.085], [0.0, 0.0, 0.12], [0.0, 0.0, 0.085]),
        ([0.0, 0.0, -0.005], [0.0, 0.0, -0.04], [0.0, 0.0, -0.005]),
        # Joints are braked before their ends by the gate.
        ([0.0, 1.95, 0.04], [0.0, 2.1, 0.04], [0.0, 2.1, 0.04]),
    ],
)
def test_a_correction_out_of_a_grippers_range_leads_to_its_end_and_is_no_fault(base, corrected, expected):
    asked = Asked(residual_share=1.0, jump_s=2.0)
    assert asked(corrected, base) == (pytest.approx(expected), ())
    assert asked(np.add(corrected, [0.0, 0.0, 1.0]), base)[1] == (Reason.RESIDUAL_LIMIT,)


def test_the_uncorrected_action_is_no_correction():
    asked = Asked(residual_limited_max=1)
    base = np.array([0.1, 0.1, 0.04])
    asked([9.0, 0.0, 0.04], base)
    assert asked(base, base) == ([0.1, 0.1, 0.04], ())


@pytest.mark.fault(row=1)
@pytest.mark.parametrize(
    ("corrected", "base", "fault"),
    [
        ([nan, 0.0, 0.04], VALID, Reason.NOT_FINITE),
        ([0.0, 0.0], VALID, Reason.MALFORMED),
        (VALID, [nan, 0.0, 0.04], Reason.NOT_FINITE),
        (VALID, [0.0, 0.0], Reason.MALFORMED),
        (VALID, [2.5, 0.0, 0.04], Reason.JUMP),
        (VALID, [0.0, 0.0, 0.2], Reason.GRIPPER_RANGE),
        ([2.04, 0.0, 0.04], [2.0, 0.0, 0.04], Reason.JUMP),
        ([1.98, 0.0, 0.04], [2.01, 0.0, 0.04], Reason.JUMP),
    ],
)
def test_a_fault_of_the_correction_or_of_what_it_corrects_refuses_the_request(asked, corrected, base, fault):
    assert asked(corrected, base) == (VALID, (fault,))
