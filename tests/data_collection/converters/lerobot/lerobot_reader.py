"""Run by the environment that has the `lerobot` package: open a dataset with it and compare every value.

Usage: lerobot_reader.py DATASET EXPECTED.npz. EXPECTED holds each feature's values (N, ...) by name; of a camera
either `<feature>/sha256`, a digest of every picture, or `<feature>/rows` and `<feature>/pictures` to compare some with.
Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import torch

# The registry's torchvision is built for CUDA. Beside a torch without it its compiled operators are not there, and it
# cannot be imported unless their names are. LeRobot takes nothing from it here but ToTensor.
if torch.version.cuda is None:
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import lerobot
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main(root: str, expected_file: str) -> None:
    """Compare and report."""
    expected = np.load(expected_file, allow_pickle=False)
    dataset = LeRobotDataset("local/export", root=root)
    said = {
        "version": lerobot.__version__,
        "decoder": dataset.video_backend,
        "episodes": dataset.num_episodes,
        "frames": len(dataset),
        "fps": dataset.fps,
        "first_task": dataset[0]["task"],
        "last_task": dataset[len(dataset) - 1]["task"],
        "differences": {key: compare(dataset, expected, key) for key in expected.files if "/" not in key},
        "cameras": {key: compare_pictures(dataset, expected, key) for key in dataset.meta.camera_keys},
    }
    # A training batch, across the ends of episodes: five actions from each frame on.
    chunks = LeRobotDataset("local/export", root=root, delta_timestamps={"action": [k / dataset.fps for k in range(5)]})
    last = expected["action"][-1]
    said["chunk_end_is_repeated"] = bool((chunks[len(chunks) - 1]["action"].numpy() == last).all())
    print(json.dumps(said))


def compare(dataset: LeRobotDataset, expected: np.lib.npyio.NpzFile, key: str) -> int:
    """Count the elements that differ. LeRobot itself hands out what is stored as float64 as float32."""
    values = expected[key]
    rows = dataset.hf_dataset.select_columns([key])[:][key]
    return int((torch.stack(list(rows)).numpy().reshape(values.shape) != values).sum())


def compare_pictures(dataset: LeRobotDataset, expected: np.lib.npyio.NpzFile, key: str) -> dict[str, float]:
    """Return how many pictures were compared, and how they differ."""
    if f"{key}/sha256" in expected.files:
        digests = expected[f"{key}/sha256"]
        equal = sum(hashlib.sha256(picture(dataset, row, key)).hexdigest() == d for row, d in enumerate(digests))
        return {"compared": len(digests), "equal": equal}
    rows, pictures = expected[f"{key}/rows"], expected[f"{key}/pictures"].astype(int)
    apart = [np.abs(picture(dataset, int(row), key) - image) for row, image in zip(rows, pictures, strict=True)]
    return {"compared": len(rows), "mean": float(np.mean(apart)), "max": int(np.max(apart))}


def picture(dataset: LeRobotDataset, row: int, key: str) -> np.ndarray:
    """Return a picture as LeRobot gives it, (3, H, W) in [0, 1], as (H, W, 3) uint8."""
    return np.ascontiguousarray((dataset[row][key] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
