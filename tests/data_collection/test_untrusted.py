"""Matrix row 52: a dataset from strangers is refused before anything large is read, and it leads nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numcodecs.blosc import Blosc

from armature.errors import ArmatureError
from armature.spec import RobotSpec
from data_collection.blocks import _with_crc
from data_collection.commit_log import decode_line, encode_line
from data_collection.store import Dataset, create_dataset, open_dataset

MEMORY_MAX_MB = 200
READ_ALL = """
import resource, sys
from armature.errors import ArmatureError
from data_collection.store import open_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for episode in open_dataset(sys.argv[1]).episodes:
        for name in episode.streams:
            episode.read(name)
    print("read")
except ArmatureError as error:
    print("refused", error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.fixture
def dataset(tmp_path: Path, robot: RobotSpec) -> Dataset:
    dataset = create_dataset(tmp_path / "set", robot, "lift")
    with dataset.writer() as writer:
        episode = writer.begin()
        for name, array in dataset.streams.items():
            episode.append(name, np.arange(3), np.arange(3), np.ones((3, *array.shape), array.dtype))
        episode.end({})
    return dataset


def change_root(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads((path / "zarr.json").read_bytes())
    change(document["attributes"])
    (path / "zarr.json").write_text(json.dumps(document))


def change_log(path: Path, change: Callable[[dict], None]) -> None:
    log = path / "commits.jsonl"
    entries = [decode_line(line) for line in log.read_bytes().splitlines(keepends=True)]
    for entry in entries:
        change(entry)
    log.write_bytes(b"".join(map(encode_line, entries)))


def arrays(attributes: dict) -> list[dict]:
    return attributes["spec"]["observation"]["arrays"]


def name_leads_out(path: Path) -> None:
    change_root(path, lambda a: arrays(a)[1].update(name="../../outside"))


def name_is_absolute(path: Path) -> None:
    change_root(path, lambda a: arrays(a)[1].update(name="/etc"))


def sample_is_huge(path: Path) -> None:
    change_root(path, lambda a: arrays(a)[1].update(shape=[2**40], labels=[]))


def sample_is_negative(path: Path) -> None:
    change_root(path, lambda a: arrays(a)[1].update(shape=[-3], labels=[]))


def sample_is_objects(path: Path) -> None:
    change_root(path, lambda a: arrays(a)[1].update(dtype="object"))


def encoding_is_unknown(path: Path) -> None:
    change_root(path, lambda a: a.update(encodings={"camera/scene": "pickle"}))


def length_is_huge(path: Path) -> None:
    change_log(path, lambda e: [x.update(length=2**40) for x in e.get("streams", {}).values()])


def block_is_a_bomb(path: Path) -> None:
    bomb = Blosc(cname="zstd").encode(np.zeros(1 << 30, np.uint8))
    (path / "episodes/000000/joint/position/data/c.0.0").write_bytes(_with_crc(bomb))


def stream_is_a_link(path: Path) -> None:
    folder = path / "episodes/000000/joint/position"
    folder.rename(path.parent / "elsewhere")
    folder.symlink_to(path.parent / "elsewhere")


def episodes_are_a_link(path: Path) -> None:
    (path / "episodes").rename(path.parent / "elsewhere")
    (path / "episodes").symlink_to(path.parent / "elsewhere")


ATTACKS = [
    (name_leads_out, "'../../outside'"),
    (name_is_absolute, "'/etc'"),
    (sample_is_huge, "stream joint/position: float32"),
    (sample_is_negative, "stream joint/position: float32"),
    (sample_is_objects, "stream joint/position: object"),
    (encoding_is_unknown, "unknown encoding of camera/scene 'pickle'"),
    (length_is_huge, "damaged: c.1.0 is missing"),
    (block_is_a_bomb, "a block does not hold"),
    (stream_is_a_link, "is a link"),
    (episodes_are_a_link, "is a link"),
]


@pytest.mark.fault(row=52)
@pytest.mark.parametrize(("attack", "message"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_row_52_an_attack_is_refused_by_name_with_little_memory(
    dataset: Dataset, attack: Callable[[Path], None], message: str
) -> None:
    attack(dataset.path)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", READ_ALL, str(dataset.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    verdict, memory_mb = done.stdout.splitlines()
    assert verdict.startswith("refused ")
    assert message in verdict
    assert int(memory_mb) < MEMORY_MAX_MB


@pytest.mark.fault(row=52)
def test_row_52_what_an_array_says_of_itself_is_not_believed(dataset: Dataset) -> None:
    file = dataset.path / "episodes/000000/joint/position/data/zarr.json"
    codecs = [{"name": "numcodecs.pickle"}]
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"shape": [2**40, 2**20], "codecs": codecs}))
    assert open_dataset(dataset.path).episodes[0].read("joint/position")[2].tolist() == [[1, 1]] * 3


@pytest.mark.fault(row=52)
@pytest.mark.parametrize(
    "change", [{"episode": "x"}, {"episode": -1}, {"kind": 7}, {"metadata": []}, {"streams": {"a": {"length": "many"}}}]
)
def test_row_52_a_forged_line_is_named(dataset: Dataset, change: dict) -> None:
    change_log(dataset.path, lambda entry: entry.update(change))
    assert len(open_dataset(dataset.path).problems) == 3
    assert dataset.episodes == []


@pytest.mark.fault(row=52)
def test_row_52_deep_json_is_refused(dataset: Dataset) -> None:
    (dataset.path / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(ArmatureError, match=r"zarr\.json cannot be read"):
        open_dataset(dataset.path)
