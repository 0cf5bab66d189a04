from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_collection.commit_log import decode_line, encode_line, parse_log
from data_collection.history import next_index, replay

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.dictionaries(st.text(), JSON, max_size=4)


@given(ENTRIES)
def test_decode_inverts_encode(entry: dict) -> None:
    line = encode_line(entry)
    assert line.count(b"\n") == 1
    assert decode_line(line) == entry


@given(ENTRIES, st.data())
def test_every_changed_bit_is_noticed(entry: dict, data: st.DataObject) -> None:
    line = bytearray(encode_line(entry))
    bit = data.draw(st.integers(0, 8 * len(line) - 1))
    line[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="checksum"):
        decode_line(bytes(line))


def log_of(count: int) -> bytes:
    return b"".join(encode_line({"line": n, "episode": n, "kind": "end"}) for n in range(count))


def test_every_cut_leaves_the_whole_lines() -> None:
    data = log_of(3)
    line = len(data) // 3
    for size in range(len(data) + 1):
        log = parse_log(data[:size])
        assert (len(log.entries), log.problems) == (size // line, ())


def test_a_damaged_line_is_named_and_the_others_are_read() -> None:
    lines = log_of(3).splitlines(keepends=True)
    log = parse_log(lines[0] + lines[1].replace(b"1", b"7", 1) + lines[2])
    assert [entry["episode"] for entry in log.entries] == [0, 2]
    assert log.problems == ("commits.jsonl: line 2 is damaged (checksum does not match)",)
    assert log.next_line == 3


def test_a_lost_line_is_named() -> None:
    lines = log_of(3).splitlines(keepends=True)
    log = parse_log(lines[0] + lines[2])
    assert [entry["episode"] for entry in log.entries] == [0, 2]
    assert log.problems == ("commits.jsonl: line 2 was written as line 3",)


def test_an_end_stands_for_itself_when_the_lines_before_it_are_lost() -> None:
    extent = {"camera/scene": {"length": 7, "first_ns": 1, "last_ns": 9}}
    end = {"kind": "end", "episode": 4, "streams": extent, "metadata": {"outcome": "success"}}
    record = replay([end])[4]
    assert (record.streams, record.is_ended, record.metadata) == (extent, True, {"outcome": "success"})


def test_discarded_and_dropped_episodes_are_gone_and_their_numbers_stay_taken() -> None:
    kinds = [("begin", 0), ("discard", 0), ("begin", 1), ("end", 1), ("drop", 1), ("begin", 2), ("end", 2)]
    entries = [{"kind": kind, "episode": episode} for kind, episode in kinds]
    assert list(replay(entries)) == [2]
    assert next_index(entries[:5]) == 2
