"""Random windows of a LeRobotDataset, for data_reading.py; runs in a Python that has lerobot, prints rates as JSON.

    python benchmarks/lerobot_reading.py DATASET BATCH OBS_STEPS CHUNK_STEPS

It is read as lerobot's own training does, by a DataLoader, here with two workers. Images are counted where there are
cameras, otherwise windows.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

ROUNDS, ROUND_S = 5, 3.0
WARM_UP_BATCHES = 4
KEPT: list[object] = []
"""What torch would forget with the last reference."""


def import_torchvision() -> None:
    """Import torchvision, also where its compiled operators do not load, as without CUDA.

    lerobot imports it and uses none of them here.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)


def import_dataset() -> type:
    """Import LeRobotDataset."""
    import_torchvision()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset


def main(root: Path, batch: int, obs_steps: int, chunk_steps: int) -> None:
    """Print best and median over several rounds."""
    LeRobotDataset = import_dataset()
    dataset = LeRobotDataset("local/reading", root=root)
    fps, cameras = dataset.meta.fps, list(dataset.meta.camera_keys)
    history = [k / fps for k in range(1 - obs_steps, 1)]
    wanted = {name: history for name in cameras or ["observation.state"]}
    if not cameras:
        wanted["action"] = [k / fps for k in range(chunk_steps)]
    dataset = LeRobotDataset("local/reading", root=root, delta_timestamps=wanted)
    per_window = obs_steps * len(cameras) if cameras else 1
    loader = DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=2, drop_last=True)
    rates = [rate * batch * per_window for rate in _batch_rates(loader)]
    print(json.dumps({"best": max(rates), "median": statistics.median(rates)}))


def _batch_rates(loader: DataLoader) -> list[float]:
    rates: list[float] = []
    batches = _endless(loader)
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    while len(rates) < ROUNDS:
        begin_s, done = time.perf_counter(), 0
        while time.perf_counter() - begin_s < ROUND_S:
            next(batches)
            done += 1
        rates.append(done / (time.perf_counter() - begin_s))
    return rates


def _endless(loader: DataLoader):
    while True:
        yield from loader


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
