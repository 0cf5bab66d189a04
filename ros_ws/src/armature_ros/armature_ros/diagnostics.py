"""What every node says about its streams on /diagnostics, once a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from armature.control.observation_buffer import ObservationBuffer

RATE_SHARE_MIN, RATE_SHARE_MAX = 0.8, 1.25
"""How slow and how fast a stream may be, as a share of its expected rate, before that is a warning."""
SILENT_PERIODS = 3.0


class StreamMonitor:
    """Rate, jitter, age and repeats of one stream, over the time since the last report. Used by one thread.

    Times are of the steady clock: steps of the system's clock change nothing here.
    """

    def __init__(self, expected_hz: float = 0.0) -> None:
        """`expected_hz` is the rate that the stream should have; 0 where that is not known."""
        self.received = 0
        self._expected_hz = expected_hz
        self.repeats = 0
        self._last_stamp_ns = -1
        self._last_received_ns = 0
        self._intervals_s: list[float] = []

    def on_sample(self, stamp_ns: int, received_ns: int) -> None:
        """Take note of one sample."""
        if stamp_ns == self._last_stamp_ns:
            self.repeats += 1
        elif self.received:
            self._intervals_s.append((received_ns - self._last_received_ns) / 1e9)
        self.received += 1
        self._last_stamp_ns, self._last_received_ns = stamp_ns, received_ns

    def age_s(self) -> float:
        """Return the time since the last sample [s], infinite before the first one."""
        return (time.monotonic_ns() - self._last_received_ns) / 1e9 if self.received else math.inf

    def report(self) -> dict[str, str]:
        """Return the figures and begin a new interval; `fault` says where the rate is not the expected one."""
        intervals, self._intervals_s = self._intervals_s, []
        mean = sum(intervals) / len(intervals) if intervals else math.nan
        deviation = math.sqrt(sum((x - mean) ** 2 for x in intervals) / len(intervals)) if intervals else math.nan
        rate_hz, age_s = (1 / mean if intervals and mean > 0 else 0.0), self.age_s()
        return {
            "received": str(self.received),
            "repeats": str(self.repeats),
            "rate_hz": f"{rate_hz:.2f}",
            "jitter_ms": f"{deviation * 1e3:.2f}",
            "age_s": f"{age_s:.3f}",
            "fault": self._rate_fault(rate_hz, age_s),
        }

    def _rate_fault(self, rate_hz: float, age_s: float) -> str:
        expected_hz = self._expected_hz
        if not expected_hz:
            return ""
        if age_s > SILENT_PERIODS / expected_hz:
            silence = "no message yet" if math.isinf(age_s) else f"silent for {age_s:.1f} s"
            return f"{silence}, expected {expected_hz:g} Hz"
        if rate_hz and not RATE_SHARE_MIN <= rate_hz / expected_hz <= RATE_SHARE_MAX:
            return f"{rate_hz:.1f} Hz, expected {expected_hz:g} Hz"
        return ""


def buffer_figures(buffer: ObservationBuffer) -> dict[str, str]:
    """Return what became of the samples and observations that were not used, by stream and reason."""
    refused = {f"refused {stream}: {reason.value}": str(count) for (stream, reason), count in buffer.refused.items()}
    withheld = {f"withheld by {stream}: {lack.value}": str(count) for (stream, lack), count in buffer.withheld.items()}
    return {**refused, **withheld, "clock_resets": str(buffer.clock_resets)}


class Diagnostics:
    """Publishes one status per stream of a node at 1 Hz."""

    def __init__(self, node: Node, report: Callable[[], Mapping[str, Mapping[str, str]]]) -> None:
        """`report` returns, by stream, the figures to publish.

        A figure `fault` that is not empty makes a warning, a figure `error` an error.
        """
        self._name = node.get_name()
        self._clock = node.get_clock()
        self._report = report
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        node.create_timer(1.0, self._publish)

    def _publish(self) -> None:
        message = DiagnosticArray(status=[self._status(name, values) for name, values in self._report().items()])
        message.header.stamp = self._clock.now().to_msg()
        self._publisher.publish(message)

    def _status(self, stream: str, values: Mapping[str, str]) -> DiagnosticStatus:
        error, fault = values.get("error", ""), values.get("fault", "")
        level = DiagnosticStatus.WARN if fault else DiagnosticStatus.OK
        return DiagnosticStatus(
            level=DiagnosticStatus.ERROR if error else level,
            name=f"{self._name}: {stream}",
            message=error or fault or "ok",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
