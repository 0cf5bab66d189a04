from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.alignment import Alignment, AlignmentConfig, Spread, StreamPolicy, align, newest_not_after
from armature.errors import ConfigError, InvalidValue

MS = 1_000_000


def aligned(stamps: list[int], ticks: list[int], max_age: int) -> list[int]:
    return newest_not_after(np.array(stamps, dtype=np.int64), np.array(ticks, dtype=np.int64), max_age).tolist()


def align_ms(stamps_ms: dict[str, list[int]], ticks_ms: list[int], **policies: tuple[str, int]) -> Alignment:
    """Align with policies given as name=(mode, maximum age [ms])."""
    stamps_ns = {name: np.array(stamps, np.int64) * MS for name, stamps in stamps_ms.items()}
    chosen = {name: StreamPolicy(mode, age_ms * MS) for name, (mode, age_ms) in policies.items()}
    return align(stamps_ns, np.array(ticks_ms, np.int64) * MS, chosen)


def test_the_newest_sample_not_after_the_tick_is_taken():
    assert aligned([10, 20, 30], [9, 10, 11, 29, 30, 100], 1000) == [-1, 0, 0, 1, 2, 2]


def test_a_sample_exactly_of_the_maximum_age_counts():
    assert aligned([10], [15, 16], 5) == [0, -1]


def test_without_samples_every_tick_is_empty():
    assert aligned([], [0, 1], 5) == [-1, -1]


@given(
    stamps=st.lists(st.integers(0, 200), unique=True).map(sorted),
    ticks=st.lists(st.integers(-10, 250), max_size=10),
    max_age=st.integers(0, 100),
)
def test_it_agrees_with_the_plain_definition(stamps, ticks, max_age):
    for tick, index in zip(ticks, aligned(stamps, ticks, max_age), strict=True):
        earlier = [i for i, stamp in enumerate(stamps) if tick - max_age <= stamp <= tick]
        assert index == (earlier[-1] if earlier else -1)


def test_every_stream_follows_its_own_policy():
    stamps_ms = {"joint": [5, 55, 105, 155, 205], "gripper": [0], "camera": [10, 60, 160]}
    found = align_ms(
        stamps_ms, [0, 50, 100, 150, 200], joint=("newest", 50), gripper=("hold", 100), camera=("drop", 45)
    )
    # The tick at 0 comes before the first camera image; at 150 the newest image is 90 ms old.
    assert found.ticks.tolist() == [1, 2, 4]
    assert {name: rows.tolist() for name, rows in found.index.items()} == {
        "joint": [0, 1, 3],
        "gripper": [0, 0, 0],
        "camera": [0, 1, 2],
    }


def test_the_report_says_how_far_the_streams_lie_apart():
    stamps_ms = {"joint": [5, 55, 105, 155, 205], "gripper": [0], "camera": [10, 60, 160]}
    report = align_ms(
        stamps_ms, [0, 50, 100, 150, 200], joint=("newest", 50), gripper=("hold", 100), camera=("drop", 45)
    ).report
    assert (report.ticks, report.before_first, report.dropped) == (5, 1, 1)
    # Ages at the ticks 50, 100, 200 ms.
    assert report.streams["joint"].age == Spread(45.0, 45.0, 45.0)
    assert report.streams["gripper"].age == Spread(350 / 3, pytest.approx(198.0), 200.0)
    assert report.streams["camera"].age == Spread(40.0, 40.0, 40.0)
    assert {name: (s.held, s.dropped) for name, s in report.streams.items()} == {
        "joint": (0, 0),
        "gripper": (1, 0),
        "camera": (0, 1),
    }
    # 50 - 40, 100 - 40 and 200 - 40 ms.
    assert report.between == Spread(230 / 3, pytest.approx(158.0), 160.0)
    assert str(report).splitlines() == [
        "5 ticks, left out: 1 before the first samples, 1 dropped",
        "joint: age mean 45.0, p99 45.0, max 45.0 ms; 0 ticks held, 0 dropped",
        "gripper: age mean 116.7, p99 198.0, max 200.0 ms; 1 ticks held, 0 dropped",
        "camera: age mean 40.0, p99 40.0, max 40.0 ms; 0 ticks held, 1 dropped",
        "between the streams: mean 76.7, p99 158.0, max 160.0 ms",
    ]


def test_a_newest_stream_that_falls_silent_is_an_error():
    with pytest.raises(InvalidValue, match=r"joint is silent for more than 0\.049 s at 0\.10 s"):
        align_ms({"joint": [0, 50]}, [0, 50, 100, 101], joint=("newest", 49))


def test_nothing_left_is_no_error_of_the_alignment():
    found = align_ms({"joint": [100]}, [0, 50], joint=("newest", 50))
    assert (found.ticks.tolist(), found.report.before_first) == ([], 2)
    assert math.isnan(found.report.between.max_ms)
    assert align_ms({}, [0, 50]).ticks.tolist() == [0, 1]


@given(
    stamps=st.dictionaries(
        st.sampled_from("abc"), st.lists(st.integers(0, 300), min_size=1, unique=True).map(sorted), min_size=1
    ),
    ticks=st.lists(st.integers(0, 400), max_size=12, unique=True).map(sorted),
    max_age=st.integers(0, 200),
)
def test_dropping_keeps_exactly_the_ticks_at_which_every_stream_is_young(stamps, ticks, max_age):
    found = align_ms(stamps, ticks, **dict.fromkeys(stamps, ("drop", max_age)))
    young = [i for i, t in enumerate(ticks) if all(any(t - max_age <= s <= t for s in of) for of in stamps.values())]
    assert found.ticks.tolist() == young
    report = found.report
    assert report.ticks == len(ticks) == len(young) + report.before_first + report.dropped


def test_a_config_gives_every_stream_its_policy():
    config = AlignmentConfig(max_age_s=0.5, max_ages_s={"b": 0.1}, hold=("a",), drop=("b",))
    assert config.policies(("a", "b", "c")) == {
        "a": StreamPolicy("hold", 500 * MS),
        "b": StreamPolicy("drop", 100 * MS),
        "c": StreamPolicy("newest", 500 * MS),
    }
    with pytest.raises(ConfigError, match=r"unknown stream of the alignment 'b'\. .*Valid: a, c"):
        config.policies(("a", "c"))
    with pytest.raises(ConfigError, match="a is named both in hold and in drop"):
        AlignmentConfig(hold=("a",), drop=("a",)).policies(("a",))
    for ages in ({"max_age_s": float("inf")}, {"max_ages_s": {"a": float("nan")}}):
        with pytest.raises(ConfigError, match=r"a maximum age is (inf|nan) s, must be finite; .* in `hold`"):
            AlignmentConfig(**ages)
    with pytest.raises(ConfigError, match="max_age_ns is -1"):
        StreamPolicy(max_age_ns=-1)
