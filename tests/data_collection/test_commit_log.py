from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import DatasetError
from data_collection.commit_log import append_entry, decode_line, encode_line, read_log

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


def test_every_cut_leaves_the_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for episode in range(3):
        append_entry(path, {"episode": episode})
    data = path.read_bytes()
    line = len(data) // 3
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        assert len(read_log(path).entries) == size // line


def test_a_lost_line_is_named(tmp_path: Path) -> None:
    for episode in (0, 2):
        append_entry(tmp_path / "log", {"episode": episode})
    with pytest.raises(DatasetError, match="line 2 commits episode 2, expected 1"):
        read_log(tmp_path / "log")
