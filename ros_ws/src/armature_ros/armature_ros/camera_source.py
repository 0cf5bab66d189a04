"""Frames from a camera device, a video file or a network stream, through OpenCV; knows nothing of ROS.

`CameraSource.frames` is what camera_node runs in its capture thread. A frame is yielded once, and only if the source
really delivered it: a frozen device, which answers the same bytes again and again, counts as a lost one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError


class CameraLost(Exception):
    """A camera delivers nothing any more: ended, unplugged, unreachable or frozen."""


@dataclass(frozen=True)
class SourceConfig:
    """Where frames come from and how they are wanted.

    `source` is a device index ("0"), a file or a URL. `rate_hz` paces a file and thins out anything faster; `width_px`,
    `height_px` are asked of a device and enforced by resizing, 0 keeps what the source gives. A lost live source is
    opened again `retries` times, `retry_wait_s` apart; one without a fresh frame for `frozen_s` counts as lost.
    """

    source: str
    rate_hz: float
    width_px: int = 0
    height_px: int = 0
    loop: bool = False
    retries: int = 5
    retry_wait_s: float = 1.0
    frozen_s: float = 1.0

    @property
    def is_device(self) -> bool:
        """Tell whether the source is the index of a local device."""
        return self.source.isdecimal()

    @property
    def is_file(self) -> bool:
        """Tell whether the source is a file on disk."""
        return not self.is_device and "://" not in self.source


@dataclass(frozen=True)
class Frame:
    """One RGB image (H, W, 3) uint8 and when it was acquired."""

    stamp_ns: int
    image: NDArray[np.uint8]


@dataclass
class SourceCounts:
    """What became of the frames that a source delivered."""

    acquired: int = 0
    repeated: int = 0
    thinned: int = 0
    reopened: int = 0


def check_source(config: SourceConfig) -> None:
    """Raise ConfigError naming the setting unless `config` can work at all."""
    if config.is_file and not Path(config.source).is_file():
        raise ConfigError(f"source '{config.source}' is no file; valid: a device index, a file or a URL")
    if not config.rate_hz > 0:
        raise ConfigError(f"rate_hz is {config.rate_hz:g}; it has to be above 0")
    if (config.width_px > 0) != (config.height_px > 0):
        raise ConfigError(f"width_px is {config.width_px}, height_px {config.height_px}: give both or neither")


class CameraSource:
    """Fresh frames of one source, opened again when it fails; used by one thread."""

    def __init__(self, config: SourceConfig, now_ns: Callable[[], int], stop: Event) -> None:
        check_source(config)
        self.config = config
        self.counts = SourceCounts()
        self._now_ns = now_ns
        self._stop = stop
        self._newest: NDArray[Any] | None = None  # kept over reopening: a frozen device stays frozen

    def frames(self) -> Iterator[Frame]:
        """Yield frames stamped as they are acquired, until the stop event.

        Raises:
            CameraLost: naming the source and the reason, after `retries` attempts in a row without a fresh frame.
        """
        attempts = 0
        while not self._stop.is_set():
            delivered = 0
            with _opened(self.config) as capture:
                for frame in self._acquired(capture):
                    delivered += 1
                    yield frame
                reason = _loss_reason(capture, self.config, delivered)
            if self.config.is_file and self.config.loop and delivered:
                continue
            attempts = 1 if delivered else attempts + 1
            if not self._stop.is_set():
                self._wait_or_give_up(attempts, reason)

    def _wait_or_give_up(self, attempts: int, reason: str) -> None:
        source = f"camera source '{self.config.source}' {reason}"
        if self.config.is_file:
            raise CameraLost(source)
        if attempts > self.config.retries:
            raise CameraLost(f"{source}; gave up after {self.config.retries} retries")
        self.counts.reopened += 1
        self._stop.wait(self.config.retry_wait_s)

    def _acquired(self, capture: cv2.VideoCapture) -> Iterator[Frame]:
        """Yield the fresh frames of one opening of the source, at most `rate_hz` of them a second."""
        pace = _Pace(self.config.rate_hz)
        fresh_s = time.monotonic()
        while not self._stop.is_set() and time.monotonic() - fresh_s <= self.config.frozen_s:
            if self.config.is_file:
                pace.wait(self._stop)
            if not capture.grab():
                return
            stamp_ns = self._now_ns()
            ok, bgr = capture.retrieve()
            if not ok:
                return
            if not self._is_fresh(bgr):
                continue
            fresh_s = time.monotonic()
            if self.config.is_file or pace.is_due():
                yield Frame(stamp_ns, _wanted(bgr, self.config))
            else:
                self.counts.thinned += 1

    def _is_fresh(self, bgr: NDArray[Any]) -> bool:
        """Tell whether the frame differs from the one before; a file may well show a still scene."""
        self.counts.acquired += 1
        if not self.config.is_file and self._newest is not None and np.array_equal(bgr, self._newest):
            self.counts.repeated += 1
            return False
        self._newest = bgr
        return True


def _loss_reason(capture: cv2.VideoCapture, config: SourceConfig, delivered: int) -> str:
    if not capture.isOpened():
        return "cannot be opened"
    if config.is_file:
        return f"ended after {delivered} frames" if delivered else "holds no video that OpenCV can read"
    return "gives no fresh frame (unplugged, ended or frozen)"


@contextmanager
def _opened(config: SourceConfig) -> Iterator[cv2.VideoCapture]:
    if config.is_device:
        capture = cv2.VideoCapture(int(config.source), cv2.CAP_V4L2)
        _ask_device(capture, config)
    else:
        timeout_ms = max(1, round(1e3 * config.frozen_s))
        patience = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5 * timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        capture = cv2.VideoCapture(config.source, cv2.CAP_FFMPEG, patience)
    try:
        yield capture
    finally:
        capture.release()


def _ask_device(capture: cv2.VideoCapture, config: SourceConfig) -> None:
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a queue in the driver would make every frame old
    capture.set(cv2.CAP_PROP_FPS, config.rate_hz)
    if config.width_px:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.width_px)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height_px)


def _wanted(bgr: NDArray[Any], config: SourceConfig) -> NDArray[np.uint8]:
    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    size = (config.width_px, config.height_px)
    if config.width_px and size != (image.shape[1], image.shape[0]):
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(image, np.uint8)


class _Pace:
    """Absolute deadlines, one period apart, that skip ahead when the caller falls behind."""

    def __init__(self, rate_hz: float) -> None:
        self._period_s = 1 / rate_hz
        self._due_s = time.monotonic()

    def wait(self, stop: Event) -> None:
        """Return at the next deadline, or when `stop` is set."""
        stop.wait(max(0.0, self._due_s - time.monotonic()))
        self._advance()

    def is_due(self) -> bool:
        """Tell whether the next deadline is reached (up to a quarter of a period early) and move on if so."""
        due = time.monotonic() >= self._due_s - self._period_s / 4
        if due:
            self._advance()
        return due

    def _advance(self) -> None:
        self._due_s = max(self._due_s, time.monotonic() - self._period_s) + self._period_s
