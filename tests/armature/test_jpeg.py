from __future__ import annotations

import pytest

from armature.jpeg import count_scans, is_whole_jpeg, jpeg_size

START, END = b"\xff\xd8", b"\xff\xd9"
APPLICATION = b"\xff\xe0\x00\x04ab"
HUFFMAN = b"\xff\xc4\x00\x05\x00\x10\x20"
FRAME = b"\xff\xc0\x00\x0b\x08\x01\xe0\x02\x80\x01\x01\x11\x00"
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"


def test_the_size_is_read_from_the_frame_header_wherever_it_is():
    assert jpeg_size(START + FRAME) == (480, 640)
    assert jpeg_size(START + APPLICATION + HUFFMAN + FRAME + SCAN + END) == (480, 640)
    assert jpeg_size(START + FRAME.replace(b"\xff\xc0", b"\xff\xc2")) == (480, 640)


@pytest.mark.parametrize(
    "data", [b"", START, FRAME, START + APPLICATION + HUFFMAN, START + FRAME[:8], START + b"\x00" + FRAME, END + FRAME]
)
def test_without_a_frame_header_there_is_no_size(data):
    assert jpeg_size(data) is None


def test_segments_that_claim_no_length_end_the_search():
    assert jpeg_size(START + 1000 * b"\xff\xe0\x00\x00") is None


def test_a_file_is_whole_with_both_ends_and_may_be_padded():
    whole = START + FRAME + SCAN + END
    assert is_whole_jpeg(whole)
    assert is_whole_jpeg(whole + bytes(100))
    assert not is_whole_jpeg(whole[:-1])
    assert not is_whole_jpeg(whole[1:])


def test_scans_are_counted():
    assert count_scans(START + FRAME + 3 * SCAN + END) == 3
