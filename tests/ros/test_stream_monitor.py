"""The rate of a stream, by the steady clock: a drift is a warning, a step of the system's clock is nothing."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.control.observation_buffer import ObservationBuffer
from armature.control.stream_watch import LiveChecks
from armature.spec import ArraySpec, ObservationSpec
from armature_ros.diagnostics import StreamMonitor, buffer_figures

ROOT = Path(__file__).resolve().parents[2]
S = 1_000_000_000
NOON_NS = 1_785_000_000 * S


class Camera:
    """A stream on a steady clock that is set by hand, and what its monitor says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, expected_hz: float) -> None:
        self._now_ns = 5 * S
        monkeypatch.setattr("armature_ros.diagnostics.time", SimpleNamespace(monotonic_ns=lambda: self._now_ns))
        self.monitor = StreamMonitor(expected_hz)

    def publish(self, rate_hz: float, frames: int, clock_offset_s: int = 0) -> None:
        """Publish frames, stamped by a clock that is set forward by an offset."""
        for _ in range(frames):
            self.wait(1 / rate_hz)
            self.monitor.on_sample(NOON_NS + self._now_ns + clock_offset_s * S, self._now_ns)

    def wait(self, seconds: float) -> None:
        self._now_ns += round(seconds * S)

    @property
    def fault(self) -> str:
        return self.monitor.report()["fault"]


@pytest.mark.fault(row=29)
def test_a_camera_that_falls_from_30_to_12_hz_is_a_warning_in_the_next_report(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(monkeypatch, expected_hz=30.0)
    camera.publish(30.0, 30)
    assert camera.fault == ""
    camera.publish(12.0, 12)
    assert camera.fault == "12.0 Hz, expected 30 Hz"
    camera.publish(30.0, 30)
    assert camera.fault == ""


@pytest.mark.fault(row=29)
@pytest.mark.parametrize(
    ("rate_hz", "fault"),
    [
        (24.5, ""),
        (23.5, "23.5 Hz, expected 30 Hz"),
        (37.0, ""),
        (38.0, "38.0 Hz, expected 30 Hz"),
        (60.0, "60.0 Hz, expected 30 Hz"),
    ],
)
def test_a_rate_may_be_a_fifth_too_low_and_a_quarter_too_high(
    monkeypatch: pytest.MonkeyPatch, rate_hz: float, fault: str
) -> None:
    camera = Camera(monkeypatch, expected_hz=30.0)
    camera.publish(rate_hz, 40)
    assert camera.fault == fault


@pytest.mark.fault(row=29)
def test_silence_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(monkeypatch, expected_hz=30.0)
    assert camera.fault == "no message yet, expected 30 Hz"
    camera.publish(30.0, 1)
    assert camera.fault == ""
    camera.wait(0.101)
    assert camera.fault == "silent for 0.1 s, expected 30 Hz"


def test_a_slow_stream_without_two_samples_in_an_interval_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(monkeypatch, expected_hz=0.5)
    camera.publish(0.5, 1)
    camera.wait(1.0)
    assert camera.monitor.report() == {
        "received": "1", "repeats": "0", "rate_hz": "0.00", "jitter_ms": "nan", "age_s": "1.000", "fault": "",
    }  # fmt: skip


def test_a_stream_of_no_known_rate_is_never_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(monkeypatch, expected_hz=0.0)
    assert camera.fault == ""
    camera.publish(3.0, 3)
    camera.wait(60.0)
    assert camera.fault == ""


@pytest.mark.fault(row=54)
@given(st.lists(st.integers(-3600, 3600), min_size=29, max_size=29))
def test_steps_of_the_system_clock_change_no_figure(steps_s: list[int]) -> None:
    reports: list[dict[str, str]] = []
    for offsets_s in ([0] * 30, [0, *itertools.accumulate(steps_s)]):
        with pytest.MonkeyPatch.context() as patch:
            camera = Camera(patch, expected_hz=30.0)
            for offset_s in offsets_s:
                camera.publish(30.0, 1, offset_s)
            camera.wait(0.05)
            reports.append(camera.monitor.report())
    assert reports[0] == reports[1]
    assert (reports[0]["rate_hz"], reports[0]["age_s"], reports[0]["fault"]) == ("30.00", "0.050", "")


def test_what_was_not_used_is_reported_by_stream_and_reason() -> None:
    spec = ObservationSpec((ArraySpec("joint/position", (1,), "float32", "rad"),), rate_hz=10.0)
    buffer = ObservationBuffer(spec, 1, S, live=LiveChecks(lambda: NOON_NS, 0, 0, {}))
    assert buffer_figures(buffer) == {"clock_resets": "0"}
    for stamp_ns in (0, NOON_NS + 1, NOON_NS + 2):
        assert not buffer.push("joint/position", stamp_ns, 0, np.zeros(1, np.float32))
    assert buffer.latest(NOON_NS) is None
    assert buffer_figures(buffer) == {
        "refused joint/position: its stamp is zero": "1",
        "refused joint/position: its stamp is ahead of the clock": "2",
        "withheld by joint/position: no sample yet": "1",
        "clock_resets": "0",
    }


def wall_clock_calls(folder: Path) -> dict[str, list[str]]:
    """Return by file the calls that read the system's clock."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        calls = [ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        wall = [c for c in calls if c in ("time.time", "time.time_ns", "time") or c.startswith(("datetime.", "date."))]
        if wall:
            found[str(path.relative_to(folder))] = wall
    return found


@pytest.mark.fault(row=54)
def test_no_watchdog_can_see_a_step_of_the_system_clock() -> None:
    """The kernel never reads it; three others do, for the name and the age of files, and for when a message came in."""
    assert wall_clock_calls(ROOT / "armature") == {}
    found = wall_clock_calls(ROOT / "ros_ws/src/armature_ros/armature_ros")
    assert found == {
        "flight_recorder.py": ["datetime.now"],
        "recorder_channel.py": ["time.time_ns"],
        "shared_memory.py": ["time.time"],
    }
