"""The limiter is proved, over the real numbers and for all limits at once, from the code itself.

In two steps. `stopping_speed` has four properties, the lemmas. `velocity_range`, which here knows of `stopping_speed`
nothing but these, keeps an invariant: however fast the joint moves towards an end of its range, slowing down by what
acceleration allows in one tick brings it to a speed from which it can stop in the gap that is left.

    |v| <= v_max,    v - a T <= stopping_speed(above),    -v - a T <= stopping_speed(below)

It holds at rest, wherever the joint is, and after every tick whose velocity lies in the range of the tick. From it
follows all that the safety gate relies on. Why sqrt(2 a g) - a T / 2 is right: with g' = g - v T for what is left,

    (v - a T / 2)^2  =  (v + a T / 2)^2 - 2 a v T  <=  2 a g - 2 a v T  =  2 a g'

so that the speed of the next tick, v - a T, stops within g'.

What rounding may miss of this by the last bits, `test_gate_properties.py` looks for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import z3
from symbolic import Path, Real, Refuted, on_every_path, term

from armature.control import limiter

Limiter = Any
"""The module, or a copy of it with a mistake."""


class Joint(NamedTuple):
    """A joint of any limits, at any place, with any velocity."""

    position: Real
    velocity: Real
    limits: limiter.JointLimits
    period_s: Real

    @property
    def change(self) -> z3.ArithRef:
        """Return by how much acceleration lets the velocity change in one tick."""
        return term(self.limits.acceleration_max) * self.period_s.term


def any_joint(path: Path) -> Joint:
    low, high, fastest, acceleration = (path.real(n) for n in ("low", "high", "velocity_max", "acceleration_max"))
    joint = Joint(
        path.real("position"),
        path.real("velocity"),
        limiter.JointLimits(low, high, fastest, acceleration),
        path.real("period"),
    )
    path.assume(low.term <= high.term, fastest.term > 0, acceleration.term > 0, joint.period_s.term > 0)
    return joint


# The lemmas, as formulas: proved of the code of `stopping_speed`, then assumed where it is called.


def is_never_too_far(gap, speed, period_s):
    return z3.And(speed >= 0, speed * period_s <= gap)


def covers_braking(gap, speed, other, acceleration, period_s):
    """Return that a speed whose braking distance fits the gap is not greater: what saves computing the root."""
    half = other + acceleration * period_s / 2
    return z3.Implies(half * half <= 2 * acceleration * gap, other <= speed)


def leaves_room(gap, speed, chosen, gap_after, speed_after, change, period_s):
    """Return that after a tick with `chosen`, up to `speed`, slowing down once is enough for the gap that is left."""
    is_that_tick = z3.And(chosen >= 0, chosen <= speed, gap_after == gap - chosen * period_s)
    return z3.Implies(is_that_tick, chosen - change <= speed_after)


def lemmas_of_stopping_speed(module: Limiter) -> Callable[[Path], None]:
    def claims(path: Path) -> None:
        gap, chosen, acceleration, period_s = (path.real(n) for n in ("gap", "chosen", "acceleration", "period"))
        path.assume(gap.term >= 0, acceleration.term > 0, period_s.term > 0)
        speed = term(module.stopping_speed(gap, acceleration, period_s))
        path.prove(is_never_too_far(gap.term, speed, period_s.term), "not too far in one tick")
        path.prove(
            covers_braking(gap.term, speed, chosen.term, acceleration.term, period_s.term),
            "covers the braking distance",
        )
        path.assume(chosen.term >= 0, chosen.term <= speed)
        after = gap - chosen * period_s
        speed_after = term(module.stopping_speed(after, acceleration, period_s))
        change = acceleration.term * period_s.term
        path.prove(
            leaves_room(gap.term, speed, chosen.term, after.term, speed_after, change, period_s.term), "leaves room"
        )

    return claims


class StoppingSpeed:
    """Stands for `stopping_speed`, of which only the lemmas are known. Equal arguments give equal results."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: list[tuple[z3.ArithRef, Real]] = []

    def __call__(self, gap: Real | float, acceleration: Real, period_s: Real) -> Real:
        for known, speed in self._known:
            if known.eq(term(gap)):
                return speed
        # What the code is to be asked with, and the lemmas are proved for.
        self._path.prove(z3.And(term(gap) >= 0, acceleration.term > 0, period_s.term > 0), "a gap is not negative")
        speed = self._path.real("stopping_speed")
        self._path.assume(is_never_too_far(term(gap), speed.term, period_s.term))
        self._known.append((term(gap), speed))
        return speed

    def towards_ends(self, joint: Joint, position: Real) -> tuple[Any, Any, Any, Any]:
        """Return the gaps above and below a position, and the speeds at which the joint can stop in them."""
        low, high, _, acceleration = joint.limits
        above = high - position if position < high else 0.0
        below = position - low if position > low else 0.0
        speeds = [self(gap, acceleration, joint.period_s).term for gap in (above, below)]
        return term(above), term(below), speeds[0], speeds[1]


def invariant(joint: Joint, velocity: z3.ArithRef, speed_up: z3.ArithRef, speed_down: z3.ArithRef) -> z3.BoolRef:
    fastest = term(joint.limits.velocity_max)
    return z3.And(
        -fastest <= velocity,
        velocity <= fastest,
        velocity - joint.change <= speed_up,
        -velocity - joint.change <= speed_down,
    )


def one_tick(module: Limiter) -> Callable[[Path], None]:
    """Claim what the limiter promises of a tick, for any joint of which the invariant holds."""

    def claims(path: Path) -> None:
        joint, stopping_speed = any_joint(path), StoppingSpeed(path)
        low, high, fastest, acceleration = map(term, joint.limits)
        position, velocity, period_s = joint.position.term, joint.velocity.term, joint.period_s.term
        above, below, speed_up, speed_down = stopping_speed.towards_ends(joint, joint.position)
        path.assume(invariant(joint, velocity, speed_up, speed_down))

        lowest, highest = (term(x) for x in _range_of(module, stopping_speed)(*joint))
        for gap, speed, end in ((above, speed_up, highest), (below, speed_down, -lowest)):
            path.assume(covers_braking(gap, speed, end, acceleration, period_s))
        slower = z3.If(velocity > 0, _greater(velocity - joint.change, 0), _lesser(velocity + joint.change, 0))
        path.prove(z3.And(lowest <= slower, slower <= highest), "the range is not empty: braking is in it")

        chosen = path.real("chosen")
        path.assume(lowest <= chosen.term, chosen.term <= highest)
        change = chosen.term - velocity
        path.prove(
            z3.And(-fastest <= chosen.term, chosen.term <= fastest, -joint.change <= change, change <= joint.change),
            "no faster, and no more acceleration, than allowed",
        )
        after = joint.position + chosen * joint.period_s
        path.prove(
            z3.And(_lesser(low, position) <= after.term, after.term <= _greater(high, position)), "only in, or inward"
        )
        above_after, below_after, up_after, down_after = stopping_speed.towards_ends(joint, after)
        for before, then, speed_then in (
            ((above, speed_up, chosen.term), above_after, up_after),
            ((below, speed_down, -chosen.term), below_after, down_after),
        ):
            path.assume(leaves_room(*before, then, speed_then, joint.change, period_s))
        path.prove(invariant(joint, chosen.term, up_after, down_after), "the invariant holds afterwards")

    return claims


def what_is_reached(module: Limiter) -> Callable[[Path], None]:
    """Claim of a velocity that is said to reach a target at once: it does, in the range, with room to stop there."""

    def claims(path: Path) -> None:
        joint, stopping_speed = any_joint(path), StoppingSpeed(path)
        gap, pace = path.real("gap"), path.real("pace")
        found = module.reach([gap], [pace], [joint.position], [joint.velocity], [joint.limits], joint.period_s)
        if found is None:
            return
        acceleration, period_s = joint.limits.acceleration_max.term, joint.period_s.term
        above, below, speed_up, speed_down = stopping_speed.towards_ends(joint, joint.position)
        wanted = term(found[0])
        path.prove(wanted * period_s == gap.term, "it closes the gap")
        path.prove(_absolute(wanted - pace.term) <= joint.change, "a tick of braking brings it to the target's pace")
        lowest, highest = (term(x) for x in _range_of(module, stopping_speed)(*joint))
        for space, speed, end in ((above, speed_up, wanted), (below, speed_down, -wanted)):
            path.assume(covers_braking(space, speed, end, acceleration, period_s))
        path.prove(z3.And(lowest <= wanted, wanted <= highest), "it lies in the range")

    return claims


def _range_of(module: Limiter, stopping_speed: StoppingSpeed) -> Callable[..., tuple[Any, Any]]:
    """Return `velocity_range` of a module, with another `stopping_speed`."""
    original = module.velocity_range
    return FunctionType(original.__code__, {**original.__globals__, "stopping_speed": stopping_speed})


def _lesser(one, other):
    return z3.If(one <= other, one, other)


def _greater(one, other):
    return z3.If(one >= other, one, other)


def _absolute(number):
    return z3.If(number >= 0, number, -number)


def test_the_stopping_speed_has_the_four_properties_that_the_proof_needs():
    assert on_every_path(lemmas_of_stopping_speed(limiter)) >= 4


def test_whatever_is_chosen_in_the_range_the_joint_stays_within_its_limits_and_can_go_on_doing_so():
    assert on_every_path(one_tick(limiter)) >= 40


def test_the_invariant_holds_at_rest_wherever_the_joint_is_and_for_every_velocity_between_a_valid_one_and_rest():
    def claims(path: Path) -> None:
        joint = any_joint(path)
        speeds = StoppingSpeed(path).towards_ends(joint, joint.position)[2:]
        path.prove(invariant(joint, term(0.0), *speeds), "at rest")
        # The gate counts a joint as slowed down after ticks that it was not asked in, at the place where it was.
        path.assume(invariant(joint, joint.velocity.term, *speeds))
        share = path.real("share")
        path.assume(share.term >= 0, share.term <= 1)
        path.prove(invariant(joint, (share * joint.velocity).term, *speeds), "slowed down")

    assert on_every_path(claims) == 4


def test_what_is_reached_at_once_lies_in_the_range_of_the_tick():
    assert on_every_path(what_is_reached(limiter)) >= 10


def with_mistake(right: str, wrong: str) -> Limiter:
    source = inspect.getsource(limiter)
    assert source.count(right) == 1, f"{source.count(right)} times in the limiter: {right}"
    namespace: dict[str, Any] = {"__name__": "limiter_with_a_mistake"}
    exec(compile(source.replace(right, wrong), "limiter_with_a_mistake.py", "exec"), namespace)
    return SimpleNamespace(**namespace)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("** 0.5 - acceleration * period_s / 2.0", "** 0.5 - acceleration * period_s / 4.0"),
        ("braking = (2.0 * acceleration", "braking = (2.1 * acceleration"),
        ("within_a_tick = gap / period_s", "within_a_tick = 1.1 * gap / period_s"),
        (
            "        within_a_tick = acceleration * period_s\n",
            "        within_a_tick = 1.1 * acceleration * period_s\n",
        ),
        ("return braking if braking > within_a_tick", "return braking if braking < within_a_tick"),
    ],
)
def test_a_stopping_speed_with_a_mistake_is_refuted(right, wrong):
    with pytest.raises(Refuted):
        on_every_path(lemmas_of_stopping_speed(with_mistake(right, wrong)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if lowest < -velocity_max:", "if False:"),
        ("if highest > velocity_max:", "if False:"),
        ("        lowest = -velocity_max", "        lowest = velocity_max"),
        ("velocity - change, velocity + change", "velocity - 1.1 * change, velocity + change"),
        ("velocity - change, velocity + change", "velocity - change, velocity + 1.1 * change"),
        pytest.param(
            "above = high - position if position < high else 0.0", "above = high - position", marks=pytest.mark.slow
        ),
        ("(highest + change / 2.0) * (highest + change / 2.0)", "highest * highest"),
        ("(change / 2.0 - lowest) * (change / 2.0 - lowest)", "lowest * lowest"),
        ("if highest > fastest:", "if False:"),
        ("if lowest < -fastest:", "if False:"),
        ("fastest = stopping_speed(below,", "fastest = stopping_speed(above,"),
        ("return lowest, highest", "return highest, lowest"),
    ],
)
def test_a_range_with_a_mistake_is_refuted(right, wrong):
    with pytest.raises(Refuted):
        on_every_path(one_tick(with_mistake(right, wrong)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("needed, change = gap / period_s", "needed, change = 0.9 * gap / period_s"),
        ("-fastest <= needed <= fastest", "-fastest <= needed"),
        ("-change <= needed - pace <= change", "-change <= needed - pace"),
        ("-change <= needed - velocity <= change", "needed - velocity <= change"),
        ("(needed + half) * (needed + half) <= 2.0 * acceleration * (high - position)", "True"),
        ("(needed - half) * (needed - half) <= 2.0 * acceleration * (position - low)", "True"),
    ],
)
def test_reaching_with_a_mistake_is_refuted(right, wrong):
    with pytest.raises(Refuted):
        on_every_path(what_is_reached(with_mistake(right, wrong)))


def test_the_solver_follows_both_sides_of_a_comparison_and_finds_what_holds_on_one_alone():
    def claims(path: Path) -> None:
        x = path.real("x")
        size = -x if x < 0.0 else x
        path.prove(size.term >= 0, "a size is not negative")
        path.prove(size.term == x.term, "only where x is not negative")

    with pytest.raises(Refuted, match="only where x is not negative"):
        on_every_path(claims)
