"""Where the arm was told to be at a time, by literal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.control.command_trace import CommandTrace
from armature.types import Command

TICK_NS = 10_000_000


def trace_of(*commands: tuple[int, float], span_s: float = 1.0) -> CommandTrace:
    trace = CommandTrace(span_s, TICK_NS)
    for stamp_ns, place in commands:
        trace.add(Command(stamp_ns, np.array([place, -place]), None))
    return trace


def test_nothing_is_known_before_the_first_command():
    assert trace_of().at(0) is None


@pytest.mark.parametrize(
    ("time_ns", "place"),
    [(10, 1.0), (20, 2.0), (12, 1.2), (15, 1.5), (25, 4.0), (30, 6.0), (9, 1.0), (-99, 1.0), (31, 6.0), (10**12, 6.0)],
)
def test_between_commands_it_is_on_the_line_and_beyond_them_at_the_nearest(time_ns: int, place: float):
    found = trace_of((10, 1.0), (20, 2.0), (30, 6.0)).at(time_ns)
    np.testing.assert_allclose(found, [place, -place], rtol=1e-15)


@given(st.integers(0, 10**18), st.lists(st.floats(-3, 3), min_size=2, max_size=30), st.data())
def test_at_a_stamp_it_is_the_command_itself_to_the_last_bit(begin_ns: int, places: list[float], data: st.DataObject):
    trace = trace_of(*((begin_ns + k * TICK_NS, place) for k, place in enumerate(places)))
    k = data.draw(st.integers(0, len(places) - 1))
    found = trace.at(begin_ns + k * TICK_NS)
    assert found is not None
    assert found.tolist() == [places[k], -places[k]]


def test_what_is_older_than_the_span_is_forgotten():
    trace = trace_of(*((k * TICK_NS, float(k)) for k in range(100)), span_s=0.2)
    oldest = trace.at(0)
    assert oldest is not None
    assert oldest[0] == 79.0


@pytest.mark.parametrize("stamp_ns", [5, 20])
def test_a_clock_that_does_not_go_on_begins_anew(stamp_ns: int):
    found = trace_of((10, 1.0), (20, 2.0), (stamp_ns, 7.0)).at(15)
    assert found is not None
    assert found[0] == 7.0


def test_all_can_be_forgotten():
    trace = trace_of((10, 1.0))
    trace.clear()
    assert trace.at(10) is None
