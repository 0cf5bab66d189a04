"""What is measured while a graph runs episodes: latencies, control ticks, counts per stream, memory."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil
from rclpy.node import Node
from std_msgs.msg import Float64

from armature_ros.episodes import EpisodeOutcome
from armature_ros.qos import reliable_qos

SAMPLE_PERIOD_S = 0.5


@dataclass
class StreamTotals:
    """The samples of one stream over all episodes; `published` is None where the publisher does not count."""

    published: int | None = None
    received: int = 0
    recorded: int = 0
    dropped: int = 0

    def add(self, published: int | None, counts: dict[str, Any]) -> None:
        """Add one episode; whatever was published or received and is not in the dataset was dropped."""
        if published is not None:
            self.published = (self.published or 0) + published
        self.received += counts["received"]
        self.recorded += counts["recorded"]
        self.dropped += max(published or 0, counts["received"]) - counts["recorded"]


@dataclass
class Measurements:
    """Everything measured over the episodes of one graph; latencies and periods in seconds of wall time."""

    replan_steps: int = 1
    """Every so many ticks, in lockstep, a command answers its own tick's frames; those between follow a chunk."""
    chunk_latency_s: list[float] = field(default_factory=list)
    command_latency_s: list[float] = field(default_factory=list)
    tick_period_s: list[float] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    streams: dict[str, StreamTotals] = field(default_factory=dict)

    def listen(self, node: Node) -> None:
        """Collect what policy_node and control_node publish about their timing."""
        for topic, values in (
            ("policy_node/latency", self.chunk_latency_s),
            ("control_node/period", self.tick_period_s),
        ):
            node.create_subscription(Float64, topic, lambda m, v=values: v.append(m.data), reliable_qos(1000))

    def add_episode(self, outcome: EpisodeOutcome, wall_s: float, period_s: float) -> None:
        """Add what sim_node and recorder_node say about one episode."""
        result = outcome.result
        latencies_s = result["command_latency_s"][:: self.replan_steps]
        self.command_latency_s += latencies_s
        self.episodes.append(
            {
                "episode": len(self.episodes) + 1,
                "seed": result["seed"],
                "success": result["success"],
                "steps": result["steps"],
                "duration_s": result["steps"] * period_s,
                "wall_s": wall_s,
                "command_latency_ms": 1e3 * statistics.median(latencies_s) if latencies_s else None,
                "fault": result["fault"],
            }
        )
        if outcome.recorded is not None:
            for name, counts in outcome.recorded["counts"].items():
                self.streams.setdefault(name, StreamTotals()).add(result["published"].get(name), counts)

    @property
    def successes(self) -> int:
        """Count the successful episodes."""
        return sum(episode["success"] for episode in self.episodes)


@dataclass
class Stopwatch:
    """Wall time [s] of each phase of a run, in order."""

    phases_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the phase `name`."""
        begin_s = time.monotonic()
        try:
            yield
        finally:
            self.phases_s[name] = self.phases_s.get(name, 0.0) + time.monotonic() - begin_s


class MemoryMonitor:
    """Samples the resident memory of this process and all its descendants; shared pages count in each of them."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def __enter__(self) -> MemoryMonitor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()

    def _sample(self) -> None:
        root = psutil.Process()
        while not self._ends.wait(SAMPLE_PERIOD_S):
            total = sum(_resident_bytes(process) for process in [root, *root.children(recursive=True)])
            self.peak_bytes = max(self.peak_bytes, total)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it ended in between
        return 0
