"""MP4 files frame by frame through PyAV: a few frames are in memory at a time, whatever a file claims."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from armature.errors import DatasetError, unknown

ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
"""What a file is said to hold, and who encodes it."""
PIXEL_FORMAT = "yuv420p"

# A key frame every other frame, as LeRobot has it: training reads single frames at random. No B frames, so that the
# first frame is at 0 s without an edit list, which some readers ignore.
_OPTIONS = {
    "h264": {"crf": "16", "g": "2", "bf": "0", "preset": "fast"},
    "av1": {"crf": "18", "g": "2", "preset": "8"},
}
_BLOCK_BYTES = 4 << 20
_SMPTE170M = 6  # BT.601, what swscale computes with; said in the file, so that no reader has to guess
_LIMITED_RANGE = 1


class VideoFile:
    """One MP4 file with one video stream of known size; raises DatasetError naming the file on anything else."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self.path = path
        self.height, self.width = height, width

    def require_readable(self) -> int:
        """Check container, codec and size; return how many frames the header tells of (0: it does not say)."""
        with self._open() as container:
            return container.streams.video[0].frames

    def blocks(self, start_s: float, count: int, fps: float) -> Iterator[NDArray[np.uint8]]:
        """Decode `count` frames from `start_s` on in blocks (n, height, width, 3).

        Raises DatasetError unless frame k is at start_s + k / fps and, from 0 s on, all lie within `count`.
        """
        rows = max(1, _BLOCK_BYTES // (self.height * self.width * 3))
        block: list[NDArray[np.uint8]] = []
        found = 0
        for frame in self._frames(start_s, count, fps):
            found += 1
            block.append(frame)
            if len(block) == rows:
                yield np.stack(block)
                block = []
        if found != count:
            raise DatasetError(f"{self.path}: {found} frames from {start_s:g} s on, the table has {count} rows")
        if block:
            yield np.stack(block)

    def _frames(self, start_s: float, count: int, fps: float) -> Iterator[NDArray[np.uint8]]:
        # Half a period: with less, a frame that is missing would shift all others unseen.
        begin_s, index = start_s - 0.5 / fps, 0
        with self._open() as container:
            stream = container.streams.video[0]
            if start_s > 0:
                container.seek(int(start_s / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is None or frame.time < begin_s:
                    continue
                if frame.time >= begin_s + count / fps:
                    return
                self._require_frame(frame, index, start_s + index / fps, fps)
                yield frame.to_ndarray(format="rgb24")
                index += 1

    def _require_frame(self, frame: av.VideoFrame, index: int, expected_s: float, fps: float) -> None:
        if (frame.height, frame.width) != (self.height, self.width):
            raise DatasetError(
                f"{self.path}: frame {index} is {frame.height}x{frame.width}, expected {self.height}x{self.width}"
            )
        if abs(frame.time - expected_s) >= 0.5 / fps:
            raise DatasetError(f"{self.path}: frame {index} is at {frame.time:.4f} s, expected at {expected_s:.4f} s")

    @contextmanager
    def _open(self) -> Iterator[InputContainer]:
        # The format is named: FFmpeg would otherwise follow playlists to other files. With max_pixels a picture that
        # is larger than the header says is refused before it is allocated.
        limit = {"max_pixels": str(self.height * self.width + 64 * (self.height + self.width + 64))}
        try:
            with av.open(str(self.path), format="mp4", options=limit, metadata_errors="replace") as container:
                self._require_stream(container)
                container.streams.video[0].codec_context.options = limit
                yield container
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DatasetError(f"{self.path}: cannot be decoded: {_reason(error)}") from error

    def _require_stream(self, container: InputContainer) -> None:
        if len(container.streams.video) != 1:
            raise DatasetError(f"{self.path}: {len(container.streams.video)} video streams, expected 1")
        context: Any = container.streams.video[0].codec_context
        if context is None:
            raise DatasetError(f"{self.path}: its video codec is unknown here")
        if (context.height, context.width) != (self.height, self.width):
            raise DatasetError(
                f"{self.path}: is {context.height}x{context.width}, info.json says {self.height}x{self.width}"
            )


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float, codec: str) -> None:
    """Encode frames (H, W, 3), frame k at k / fps, into an MP4 file. What comes back differs: the codecs are lossy."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only; its banner does not go through FFmpeg's log
    try:
        _encode(path, frames, Fraction(fps).limit_denominator(1001), codec)
    except av.FFmpegError as error:
        raise DatasetError(f"{path}: cannot be encoded: {_reason(error)}") from error


def _encode(path: Path, frames: Iterable[NDArray[np.uint8]], rate: Fraction, codec: str) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(ENCODERS[codec], rate=rate, options=_OPTIONS[codec])
        stream.pix_fmt = PIXEL_FORMAT
        stream.codec_context.colorspace = _SMPTE170M
        stream.codec_context.color_range = _LIMITED_RANGE
        for index, image in enumerate(frames):
            if index == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def require_codec(codec: str) -> None:
    """Raise DatasetError where this build of FFmpeg has no encoder for `codec`."""
    if codec not in ENCODERS:
        raise DatasetError(unknown("video codec", codec, ENCODERS))
    if ENCODERS[codec] not in av.codecs_available:
        raise DatasetError(f"video codec '{codec}': this PyAV has no {ENCODERS[codec]}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
