"""Records for long and watches what grows: memory, open files, and whether the counts still add up."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from known_content import ENCODINGS, robot, sample, stamps

from data_collection.recorder import Recorder, RecorderConfig
from data_collection.store import Dataset, create_dataset

STEPS_PER_EPISODE = 40
CAMERA_HZ = 30
CONFIG = RecorderConfig(commit_period_s=0.25, disk_free_min_bytes=0, disk_free_min_s=0)


@dataclass(frozen=True)
class Growth:
    """What a soak has come to."""

    duration_s: float
    episodes: int
    files_begin: int
    files_end: int
    rss_begin_bytes: int
    rss_end_bytes: int
    rss_slope_mb_per_h: float
    miscounted: int
    """Streams of episodes whose counts do not add up."""


def soak(folder: Path, duration_s: float, height: int = 96, width: int = 128) -> Growth:
    """Record two cameras and the arm in real time, episode after episode; the first fifth is warming up."""
    dataset = create_dataset(folder / "soak", robot(height, width), "soak", encodings=ENCODINGS)
    process, begin_s, episodes, miscounted = psutil.Process(), time.monotonic(), 0, 0
    seen: list[tuple[float, int, int]] = []
    with Recorder(dataset, CONFIG) as recorder:
        while (now_s := time.monotonic() - begin_s) < duration_s:
            miscounted += _record_one(recorder, dataset)
            episodes += 1
            if now_s >= duration_s / 5:
                seen.append((now_s, process.memory_info().rss, len(os.listdir("/proc/self/fd"))))
    times_s, rss, files = (np.array(column) for column in zip(*seen, strict=True))
    slope = np.polyfit(times_s, rss, 1)[0] * 3600 / 1e6 if len(seen) > 1 else 0.0
    ends = int(files[0]), int(files[-1]), int(rss[0]), int(rss[-1])
    return Growth(duration_s, episodes, *ends, round(float(slope), 2), miscounted)


def _record_one(recorder: Recorder, dataset: Dataset) -> int:
    episode, handed_in = recorder.start({}), dict.fromkeys(dataset.streams, 0)
    for step in range(STEPS_PER_EPISODE):
        for name, array in dataset.streams.items():
            stamp_ns, received_ns = stamps([step])
            recorder.add(name, int(stamp_ns[0]), int(received_ns[0]), sample(array, episode, step))
            handed_in[name] += 1
        time.sleep(1 / CAMERA_HZ)
    counts = recorder.end(success=True).counts
    return sum(
        not count.received == handed_in[name] == count.committed + sum(count.dropped.values())
        for name, count in counts.items()
    )
