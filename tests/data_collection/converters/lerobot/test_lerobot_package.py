"""What we export opens in the `lerobot` package itself, installed for this test into an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.converters.importing import import_source
from data_collection.converters.lerobot.exporter import ExportConfig, export
from data_collection.converters.lerobot.importer import ImportConfig, open_source
from data_collection.store import Dataset, create_dataset
from data_collection.streams import ACTION_EXECUTED, REWARD

pytestmark = pytest.mark.slow

READER, WRITER = (Path(__file__).with_name(f"lerobot_{name}.py") for name in ("reader", "writer"))
# 0.4.4 is the last version for Python 3.11. It asks for an older torch, whose build here would bring gigabytes of CUDA,
# so it is installed without what it asks for; these are the packages that reading a dataset takes.
WITH_DEPENDENCIES = ("torch==2.13.0", "numpy==2.2.6", "datasets==4.8.5", "huggingface-hub==0.35.3", "av==15.1.0",
                     "pandas", "pillow", "psutil", "safetensors")  # fmt: skip
ALONE = ("lerobot==0.4.4", "torchvision==0.28.0", "torchcodec==0.13.0", "accelerate==1.12.0")
G1_EPISODES = (10, 28, 29, 30, 31)


@pytest.fixture(scope="session")
def lerobot(pytestconfig: pytest.Config) -> Path:
    """Return an environment with lerobot; it is kept in pytest's cache, which `make clean` removes."""
    key = hashlib.sha256(repr((WITH_DEPENDENCIES, ALONE, sys.version)).encode()).hexdigest()[:8]
    folder = Path(pytestconfig.cache.mkdir(f"lerobot-{key}")) / "venv"
    if not (folder / "installed").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install(folder, *WITH_DEPENDENCIES)
        install(folder, "--no-deps", *ALONE)
        link_ffmpeg(folder)
        (folder / "installed").touch()
    return folder


def install(folder: Path, *what: str) -> None:
    command = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
    done = subprocess.run([*command, "--only-binary", ":all:", *what], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no word from pip").splitlines()[-1]
        pytest.skip(f"lerobot cannot be installed here: {reason}")


def link_ffmpeg(folder: Path) -> None:
    """Give the FFmpeg that PyAV brings the names by which torchcodec looks for it, so that the system needs none."""
    (libraries,) = folder.glob("lib/*/site-packages/av.libs")
    (folder / "ffmpeg").mkdir()
    for file in libraries.glob("lib*"):
        plain = re.sub(r"-[0-9a-f]{8}\.so\.(\d+)\..*", r".so.\1", file.name)
        for name in {plain, file.name}:
            (folder / "ffmpeg" / name).symlink_to(file)


def run(lerobot: Path, tmp_path: Path, *command: Path | str) -> str:
    environment = {"LD_LIBRARY_PATH": str(lerobot / "ffmpeg"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [lerobot / "bin/python", *command], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_with_lerobot(lerobot: Path, root: Path, expected: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    np.savez(tmp_path / "expected.npz", **expected)
    said = json.loads(run(lerobot, tmp_path, READER, root, tmp_path / "expected.npz").splitlines()[-1])
    print(json.dumps(said, indent=1))
    return said


def values_of(dataset: Dataset, names: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Return what LeRobot has to find, by feature: `names` is feature to stream and type."""
    lengths = [episode.steps for episode in dataset.episodes]
    frames = np.concatenate([np.arange(length) for length in lengths])
    values: dict[str, Any] = {
        key: np.concatenate([episode.read(stream)[2] for episode in dataset.episodes]).astype(dtype)
        for key, (stream, dtype) in names.items()
    }
    return values | {
        "frame_index": frames,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(sum(lengths)),
        "timestamp": (frames / dataset.spec.action.rate_hz).astype(np.float32),
        "task_index": np.zeros(sum(lengths), np.int64),
    }


def digests_of(dataset: Dataset, camera: str) -> np.ndarray:
    return np.array(
        [hashlib.sha256(im).hexdigest() for e in dataset.episodes for _, _, b in e.blocks(camera) for im in b]
    )


@pytest.fixture(scope="session")
def g1(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("g1") / "set"
    config = ImportConfig(shared_data / "g1_bottle_lerobot_v21", path, episodes=G1_EPISODES)
    return import_source(open_source(config), path)


G1_NAMES = {"observation.state": ("state", "float32"), "action": (ACTION_EXECUTED, "float32")}
G1_CAMERA = "observation.images.cam_high"


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_real_robots_recording_opens_with_equal_values(
    codec: Any, lerobot: Path, g1: Dataset, tmp_path: Path
) -> None:
    export(ExportConfig(g1.path, tmp_path / "out", codec=codec))
    values = values_of(g1, G1_NAMES)
    rows = np.arange(0, len(values["index"]), 40)
    ends = np.cumsum([0, *(episode.steps for episode in g1.episodes)])
    numbers = np.searchsorted(ends, rows, side="right") - 1
    images = [g1.episodes[n].read_rows("camera/cam_high", [r - ends[n]])[0] for n, r in zip(numbers, rows, strict=True)]
    values |= {f"{G1_CAMERA}/rows": rows, f"{G1_CAMERA}/pictures": np.stack(images)}
    said = read_with_lerobot(lerobot, tmp_path / "out", values, tmp_path)
    assert (said["episodes"], said["frames"], said["fps"]) == (5, 1333, 30)
    assert said["first_task"] == said["last_task"] == "Pick up the yellow bottle on the table."
    assert set(said["differences"].values()) == {0}
    assert said["chunk_end_is_repeated"]
    assert said["cameras"][G1_CAMERA]["compared"] == len(rows)
    # Colours are kept at half the resolution and coded with loss; a picture of the wrong frame differs by far more.
    assert said["cameras"][G1_CAMERA]["mean"] < 2.5
    assert said["cameras"][G1_CAMERA]["max"] < 80


def test_a_real_robots_pictures_are_equal_with_images(lerobot: Path, g1: Dataset, tmp_path: Path) -> None:
    export(ExportConfig(g1.path, tmp_path / "out", images=True))
    values = values_of(g1, G1_NAMES) | {f"{G1_CAMERA}/sha256": digests_of(g1, "camera/cam_high")}
    said = read_with_lerobot(lerobot, tmp_path / "out", values, tmp_path)
    assert set(said["differences"].values()) == {0}
    assert said["cameras"][G1_CAMERA] == {"compared": 1333, "equal": 1333}


def test_matrices_rewards_and_flags_of_our_own_recordings_too(lerobot: Path, tmp_path: Path) -> None:
    joints = ArraySpec("joint/position", (2,), "float32", "rad", labels=("j1", "j2"))
    pose = ArraySpec("object/pose", (4, 4), "float64", "m")
    gripper = ArraySpec("gripper/opening", (1,), "float32", "m", labels=("gripper",))
    camera = ArraySpec("camera/wrist", (24, 32, 3), "uint8", "rgb8")
    observation = ObservationSpec((camera, joints, gripper, pose), 20.0)
    spec = RobotSpec("arm", observation, ActionSpec("joint_position", (joints,), 20.0))
    dataset = create_dataset(tmp_path / "set", spec, "lift the cube")
    rng = np.random.default_rng(1)
    with dataset.writer() as writer:
        for length in (6, 9):
            episode = writer.begin({})
            for name in (*observation.names, ACTION_EXECUTED, REWARD):
                array = dataset.streams[name]
                values = np.stack([array.sample(rng) for _ in range(length)]).astype(np.float32).astype(array.dtype)
                episode.append(name, np.arange(length) * 50_000_000, np.arange(length) * 50_000_000, values)
            episode.end({"success": length == 9, "outcome": "success" if length == 9 else "failure"})
    export(ExportConfig(dataset.path, tmp_path / "out", images=True, state="streams"))
    names = {"observation.joint.position": ("joint/position", "float32"), "action": (ACTION_EXECUTED, "float32")}
    names |= {"observation.object.pose": ("object/pose", "float64"), "next.reward": (REWARD, "float64")}
    names |= {"observation.gripper.opening": ("gripper/opening", "float32")}
    done, success = np.zeros(15, bool), np.zeros(15, bool)
    done[[5, 14]], success[14] = True, True
    values = values_of(dataset, names) | {"next.done": done, "next.success": success}
    key = "observation.images.wrist"
    said = read_with_lerobot(
        lerobot, tmp_path / "out", values | {f"{key}/sha256": digests_of(dataset, "camera/wrist")}, tmp_path
    )
    assert set(said["differences"].values()) == {0}
    assert said["cameras"][key] == {"compared": 15, "equal": 15}
    assert said["first_task"] == "lift the cube"


@pytest.mark.parametrize("kind", ["video", "image"])
def test_what_lerobot_itself_recorded_is_imported_equal(kind: str, lerobot: Path, tmp_path: Path) -> None:
    run(lerobot, tmp_path, WRITER, tmp_path / "recorded", tmp_path / "values.npz", kind)
    assert len(list((tmp_path / "recorded").glob("data/*/*.parquet"))) == 1
    dataset = import_source(open_source(ImportConfig(tmp_path / "recorded", tmp_path / "set")), tmp_path / "set")
    values = np.load(tmp_path / "values.npz", allow_pickle=False)
    assert [episode.steps for episode in dataset.episodes] == [12, 7, 15]
    assert [episode.metadata["prompt"] for episode in dataset.episodes] == ["push", "pull", "push"]
    streams = {"observation.state": "state", "observation.matrix": "matrix", "next.reward": REWARD}
    for key, stream in (streams | {"action": ACTION_EXECUTED}).items():
        found = np.concatenate([episode.read(stream)[2] for episode in dataset.episodes])
        np.testing.assert_array_equal(found, values[key])
    found = np.concatenate([episode.read("camera/front")[2] for episode in dataset.episodes])
    apart = np.abs(found.astype(int) - values["observation.images.front"])
    if kind == "image":
        assert not apart.any()
    else:  # coded more coarsely than by us, but neighbouring frames are 5 levels apart
        assert apart.mean(axis=(1, 2, 3)).max() < 2
