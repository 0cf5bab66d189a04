"""Run by the environment that has the `lerobot` package: let it record a dataset, three episodes to a file.

Usage: lerobot_writer.py DATASET VALUES.npz KIND, where KIND is `video` or `image`.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

if torch.version.cuda is None:  # as in lerobot_reader.py
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from lerobot.datasets.lerobot_dataset import LeRobotDataset

LENGTHS, TASKS = (12, 7, 15), ("push", "pull", "push")


def main(root: str, values_file: str, kind: str) -> None:
    """Record noise as numbers and soft gradients as pictures."""
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
        "observation.matrix": {"dtype": "float32", "shape": (2, 2), "names": None},
        "observation.images.front": {"dtype": kind, "shape": (64, 96, 3), "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    dataset = LeRobotDataset.create(
        "local/recording", 20, features, root=root, robot_type="arm", use_videos=kind == "video", vcodec="h264"
    )
    rng = np.random.default_rng(3)
    values: dict[str, list[np.ndarray]] = {key: [] for key in features}
    for number, (length, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
        for k in range(length):
            frame = {key: rng.normal(size=f["shape"]).astype(np.float32) for key, f in features.items()}
            frame["observation.images.front"] = picture(10 * number + 5 * k)
            for key, value in frame.items():
                values[key].append(value)
            dataset.add_frame({**frame, "task": task})
        dataset.save_episode()
    dataset.finalize()
    np.savez(values_file, **{key: np.stack(column) for key, column in values.items()})


def picture(level: int) -> np.ndarray:
    """Return a gradient that is brighter for each frame, (64, 96, 3)."""
    return np.broadcast_to((level + np.arange(96))[None, :, None], (64, 96, 3)).astype(np.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])
