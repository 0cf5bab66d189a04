"""Records episodes of known content until it is killed; started as a process of its own by test_durability.

Prints `begun` once, then `committed <episode>` whenever `Recorder.end` has acknowledged one.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from armature.spec import RobotSpec
from data_collection.recorder import Recorder
from data_collection.store import open_dataset
from data_collection.streams import stream_specs

STEPS = 300  # more than one block of the vectors


def content(spec: RobotSpec, episode: int) -> dict[str, NDArray]:
    """Return what every stream of an episode holds, (STEPS, *shape)."""
    rng = np.random.default_rng(episode)
    return {n: np.stack([a.sample(rng) for _ in range(STEPS)]) for n, a in stream_specs(spec).items()}


def main(path: str) -> None:
    """Record for ever."""
    dataset = open_dataset(path)
    with Recorder(dataset, queue_bytes=256 << 20) as recorder:
        print("begun", flush=True)
        while True:
            episode = recorder.start({"seed": 7})
            values = content(dataset.spec, episode)
            for step in range(STEPS):
                for name, stream in values.items():
                    recorder.add(name, step * 50_000_000, step, stream[step])
            recorder.end(success=True)
            print(f"committed {episode}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
