from __future__ import annotations

from armature.clock import SimulatedClock, SteadyClock


def test_the_simulated_clock_moves_only_when_told_and_never_back():
    clock = SimulatedClock(5)
    assert clock.now_ns() == 5
    clock.sleep_until(9)
    clock.sleep_until(7)
    assert clock.now_ns() == 9


def test_the_steady_clock_never_returns_before_its_deadline():
    clock = SteadyClock()
    deadline_ns = clock.now_ns() + 2_000_000
    clock.sleep_until(deadline_ns)
    assert clock.now_ns() >= deadline_ns
    clock.sleep_until(0)
