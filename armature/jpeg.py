"""What the header of a JPEG file says, read without decoding anything (ITU T.81, annex B)."""

from __future__ import annotations

START, END, SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width [px] from the frame header (B.2.2); None where there is none."""
    place = 2
    while data[:2] == START and place + 9 <= len(data) and data[place] == 0xFF:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADERS:
            return int.from_bytes(data[place + 5 : place + 7], "big"), int.from_bytes(
                data[place + 7 : place + 9], "big"
            )
        place += 2 + size
    return None


def is_whole_jpeg(data: bytes) -> bool:
    """Tell whether a file begins and ends as a JPEG does; one that was cut decodes, with a grey rest."""
    return data[:2] == START and data.rstrip(b"\0").endswith(END)


def count_scans(data: bytes) -> int:
    """Count at least the scans of a file: each passes over the whole image, so that few bytes can mean much work."""
    return data.count(SCAN)
