"""Random training windows: how many a second from the aligned cache, and from what else people read them with?

A low-dim window is one sample of training: 2 rows of a state and 16 rows of actions, 10 x float32 each, drawn at random
from 200,000 ticks in batches of 256; images are 128x128x3 uint8, in pairs, in batches of 32 pairs. `Windows.batch`
gathers both from the memory-mapped cache of a dataset on disk; files are in the page cache, as in every epoch but the
first. One process reads, and two together, as two workers of a loader do on two cores: the criteria are about these.
The same windows are then read from the dataset's own Zarr arrays with zarr-python and tensorstore, and, where
ARMATURE_LEROBOT_PYTHON names a Python that has lerobot, from our LeRobotDataset export of the dataset.

    python benchmarks/data_reading.py [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import zarr
from harness import ROOT, Criterion, at_least, main
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from armature.spec import CAMERA_SCENE, JOINT_POSITION, ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.aligned_cache import open_cache
from data_collection.converters.lerobot import exporter
from data_collection.layout import DATA, episode_folder
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED
from data_collection.windows import Windows, load_windows

DIM, OBS_STEPS, CHUNK_STEPS, RATE_HZ = 10, 2, 16, 20
TICKS, IMAGE_TICKS, IMAGE_SIDE_PX = 200_000, 10_000, 128
BATCH, IMAGE_BATCH = 256, 32
WINDOWS_MIN, IMAGES_MIN = 2e6, 5e3
PROCESSES = 2
TOGETHER = f"cache, {PROCESSES} processes"
LEROBOT = "ARMATURE_LEROBOT_PYTHON"

Read = Callable[[NDArray[np.int64]], Any]
Rows = Callable[[NDArray[np.int64]], NDArray[np.int64]]
Rates = dict[str, dict[str, float]]


def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Read the same windows in every way; criteria are about the cache."""
    folder = Path(tempfile.mkdtemp(prefix="data-reading-"))
    try:
        low_dim, images = low_dim_dataset(folder / "low_dim"), image_dataset(folder / "images")
        rates = {
            "low-dim windows": measure_rates(*low_dim_readers(low_dim), BATCH, 1, quick),
            "images": measure_rates(*image_readers(images), IMAGE_BATCH, OBS_STEPS, quick),
        }
        rates["low-dim windows"][TOGETHER] = rates_together(low_dim, CHUNK_STEPS, BATCH, 1, quick)
        rates["images"][TOGETHER] = rates_together(images, 1, IMAGE_BATCH, OBS_STEPS, quick)
        skipped = add_lerobot(rates, low_dim, images)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_ratios(rates, skipped)
    criteria = [
        at_least(f"{what} from the {TOGETHER}, {which} round", rates[what][TOGETHER][which], "1/s", limit)
        for what, limit in (("low-dim windows", WINDOWS_MIN), ("images", IMAGES_MIN))
        for which in ("best", "median")
    ]
    return criteria, {"rates_per_s": rates, "not_measured": skipped}


def low_dim_readers(dataset: Dataset) -> tuple[dict[str, Read], int]:
    """Return the ways to read windows of a state and an action."""
    mapped = Windows(open_cache(dataset, dataset.episodes, dataset.spec), OBS_STEPS, CHUNK_STEPS)
    memory = load_windows(dataset.episodes, dataset.spec, OBS_STEPS, CHUNK_STEPS)
    rows: dict[str, Rows] = {JOINT_POSITION: mapped.observation_rows, ACTION_EXECUTED: mapped.action_rows}
    return {"cache": mapped.batch, "memory": memory.batch, **zarr_readers(dataset, rows)}, len(mapped)


def image_readers(dataset: Dataset) -> tuple[dict[str, Read], int]:
    """Return the ways to read pairs of images."""
    spec = dataset.spec.select((CAMERA_SCENE,))
    mapped = Windows(open_cache(dataset, dataset.episodes, spec), OBS_STEPS, 1)
    memory = load_windows(dataset.episodes, spec, OBS_STEPS, 1)
    rows: dict[str, Rows] = {CAMERA_SCENE: mapped.observation_rows}
    return {"cache": mapped.batch, "memory": memory.batch, **zarr_readers(dataset, rows)}, len(mapped)


def zarr_readers(dataset: Dataset, rows_of: dict[str, Rows]) -> dict[str, Read]:
    """Return readers of the dataset's Zarr arrays, which take from each stream the rows that a batch needs."""
    paths, wanted = _array_paths(dataset, rows_of), list(rows_of.values())
    # tensorstore may keep what it has decoded.
    roomy = {"cache_pool": {"total_bytes_limit": 1 << 30}}
    in_python = [zarr.open_array(path, mode="r") for path in paths]
    return {
        "zarr-python, per window": partial(_read_windows, in_python, wanted),
        "zarr-python, per batch": partial(_read_rows, in_python, wanted),
        "tensorstore": partial(_read_ahead, [_tensorstore(path, {}) for path in paths], wanted),
        "tensorstore, 1 GiB cache": partial(_read_ahead, [_tensorstore(path, roomy) for path in paths], wanted),
    }


def _read_windows(arrays: list[Any], wanted: list[Rows], indices: NDArray[np.int64]) -> None:
    for array, rows in zip(arrays, wanted, strict=True):
        for window in rows(indices):
            array[int(window[0]) : int(window[-1]) + 1]


def _read_rows(arrays: list[Any], wanted: list[Rows], indices: NDArray[np.int64]) -> None:
    for array, rows in zip(arrays, wanted, strict=True):
        array.oindex[rows(indices).ravel()]


def _read_ahead(arrays: list[Any], wanted: list[Rows], indices: NDArray[np.int64]) -> None:
    reads = [array[rows(indices).ravel()].read() for array, rows in zip(arrays, wanted, strict=True)]
    for read in reads:
        read.result()


def _tensorstore(path: Path, context: dict[str, Any]) -> Any:
    store = {"driver": "file", "path": f"{path}/"}
    spec = {"driver": "zarr3", "kvstore": store, "recheck_cached_data": False, "context": context}
    return tensorstore.open(spec, read=True).result()


def _array_paths(dataset: Dataset, streams: Iterable[str]) -> list[Path]:
    folder = episode_folder(dataset.path, dataset.episodes[0].index)
    return [folder / stream / DATA for stream in streams]


def measure_rates(readers: dict[str, Read], count: int, batch: int, per_window: int, quick: bool) -> Rates:
    """Return best and median rate of each reader over several rounds, in which the readers take turns.

    `per_cpu_s` is the median per second of processor time: what a machine that does nothing else would give one core.
    """
    rounds, round_s = _rounds(quick)
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for read in readers.values():
        read(rng.integers(0, count, batch))
    for _ in range(rounds):
        for name, read in readers.items():
            found[name].append(_rates(read, rng.integers(0, count, (1000, batch)), round_s))
    return {name: _summary(np.array(rates) * per_window) for name, rates in found.items()}


def rates_together(dataset: Dataset, chunk_steps: int, batch: int, per_window: int, quick: bool) -> dict[str, float]:
    """Return best and median of what processes that read at the same time read in sum, each from the cache."""
    context, rounds = multiprocessing.get_context("spawn"), _rounds(quick)
    with ProcessPoolExecutor(PROCESSES, context, _meet_at, (context.Barrier(PROCESSES),)) as pool:
        readers = [pool.submit(_read_rounds, dataset.path, chunk_steps, batch, rounds) for _ in range(PROCESSES)]
        found = np.array([reader.result() for reader in readers])  # (processes, rounds, wall | processor)
    return _summary(np.stack([found[..., 0].sum(axis=0), found[..., 1].mean(axis=0)], axis=1) * per_window)


_barrier: Barrier


def _meet_at(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _read_rounds(path: Path, chunk_steps: int, batch: int, rounds: tuple[int, float]) -> list[tuple[float, float]]:
    dataset = open_dataset(path)
    images = [array.name for array in dataset.spec.observation.images]
    spec = dataset.spec.select(images) if images else dataset.spec
    windows = Windows(open_cache(dataset, dataset.episodes, spec), OBS_STEPS, chunk_steps)
    rng, found = np.random.default_rng(os.getpid()), []
    for _ in range(rounds[0]):
        batches = rng.integers(0, len(windows), (1000, batch))
        _barrier.wait()
        found.append(_rates(windows.batch, batches, rounds[1]))
    return found


def _rounds(quick: bool) -> tuple[int, float]:
    """Return how many rounds are measured, and their length [s]."""
    return (3, 0.2) if quick else (9, 1.0)


def _rates(read: Read, batches: NDArray[np.int64], round_s: float) -> tuple[float, float]:
    begin_s, cpu_begin_s, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin_s < round_s:
        read(batches[done % len(batches)])
        done += 1
    windows = done * batches.shape[1]
    return windows / (time.perf_counter() - begin_s), windows / (time.process_time() - cpu_begin_s)


def _summary(rates: NDArray[np.float64]) -> dict[str, float]:
    wall, cpu = rates.T
    return {"best": float(wall.max()), "median": float(np.median(wall)), "per_cpu_s": float(np.median(cpu))}


def add_lerobot(rates: dict[str, Rates], low_dim: Dataset, images: Dataset) -> list[str]:
    """Measure LeRobotDataset in its own Python; return what could not be measured and why."""
    python = os.environ.get(LEROBOT)
    if not python:
        return [f"LeRobotDataset: {LEROBOT} names no Python that has lerobot"]
    skipped: list[str] = []
    for what, name, dataset, batch, as_png in (
        ("low-dim windows", "LeRobotDataset", low_dim, BATCH, False),
        ("images", "LeRobotDataset, PNG", images, IMAGE_BATCH, True),
        ("images", "LeRobotDataset, video", images, IMAGE_BATCH, False),
    ):
        try:
            rates[what][name] = _lerobot(python, dataset, batch, as_png=as_png)
        except LerobotFailed as error:
            skipped.append(f"{name}: {error}")
    return skipped


class LerobotFailed(Exception):
    """lerobot could not read the export; says why in one line."""


def _lerobot(python: str, dataset: Dataset, batch: int, *, as_png: bool) -> dict[str, float]:
    target = dataset.path.with_name(f"{dataset.path.name}-lerobot-{'png' if as_png else 'plain'}")
    exporter.export(exporter.ExportConfig(dataset.path, target, images=as_png))
    script = str(ROOT / "benchmarks" / "lerobot_reading.py")
    arguments = [str(target), str(batch), str(OBS_STEPS), str(CHUNK_STEPS)]
    done = subprocess.run([python, script, *arguments], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        # The first error is the cause; what follows is how it went through the loader's processes.
        errors = [line for line in done.stderr.splitlines() if line.partition(":")[0].endswith("Error")]
        raise LerobotFailed(errors[0] if errors else f"exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def low_dim_dataset(path: Path) -> Dataset:
    """Record a state and an action as one long episode: cutting it up would only cost the others an array each."""
    state = ArraySpec(JOINT_POSITION, (DIM,), "float32", "rad", labels=tuple(f"joint{i}" for i in range(DIM)))
    observed = np.random.default_rng(0).normal(size=(TICKS, DIM)).astype(np.float32)
    return _record(path, (state,), {JOINT_POSITION: observed, ACTION_EXECUTED: observed.astype(np.float64)})


def image_dataset(path: Path) -> Dataset:
    """Record images as cameras give them: a smooth picture under the noise of a sensor, which lz4 cannot make small."""
    joint = ArraySpec(JOINT_POSITION, (1,), "float32", "rad", labels=("joint",))
    camera = ArraySpec(CAMERA_SCENE, (IMAGE_SIDE_PX, IMAGE_SIDE_PX, 3), "uint8", "rgb8")
    ramp = np.add.outer(np.arange(IMAGE_SIDE_PX), np.arange(IMAGE_SIDE_PX)) // 2
    noise = np.random.default_rng(0).integers(0, 8, (IMAGE_TICKS, *camera.shape), np.uint8)
    still = np.zeros((IMAGE_TICKS, 1))
    values = {JOINT_POSITION: still.astype(np.float32), ACTION_EXECUTED: still}
    return _record(path, (joint, camera), {CAMERA_SCENE: noise + ramp.astype(np.uint8)[..., None], **values})


def _record(path: Path, arrays: tuple[ArraySpec, ...], values: dict[str, NDArray[Any]]) -> Dataset:
    spec = RobotSpec("arm", ObservationSpec(arrays, RATE_HZ), ActionSpec("joint_position", arrays[:1], RATE_HZ))
    dataset = create_dataset(path, spec, "reading")
    with dataset.writer() as writer:
        episode = writer.begin()
        for name, data in values.items():
            stamps_ns = np.arange(len(data), dtype=np.int64) * (1_000_000_000 // RATE_HZ)
            episode.append(name, stamps_ns, stamps_ns, data)
        episode.end({"success": True, "outcome": "success"})
    return dataset


def print_ratios(rates: dict[str, Rates], skipped: list[str]) -> None:
    """Show every way of reading beside the cache."""
    table = Table(title="random windows, median of rounds", title_justify="left")
    for heading in ("what", "read through", "1/s", "1/s of CPU", "cache/this"):
        table.add_column(heading, justify="left" if heading in ("what", "read through") else "right")
    for what, found in rates.items():
        for name, rate in found.items():
            ratio = "" if name == "cache" else f"{found['cache']['median'] / rate['median']:,.1f} x"
            per_cpu_s = f"{rate['per_cpu_s']:,.0f}" if "per_cpu_s" in rate else ""
            table.add_row(what, name, f"{rate['median']:,.0f}", per_cpu_s, ratio)
    console = Console()
    console.print(table)
    for reason in skipped:
        console.print(f"not measured: {reason}", markup=False)


if __name__ == "__main__":
    raise SystemExit(main("data_reading", measure))
