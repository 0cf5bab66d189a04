"""Row 38: pickles that are offered as datasets are refused, or read as the bytes they are; they never run."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from armature.errors import ArmatureError
from armature.spec import RobotSpec
from data_collection.converters.cli import import_main
from data_collection.store import create_dataset, open_dataset


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple:
        return (self._marker.touch, ())


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def payload(marker: Path) -> bytes:
    """A pickle that was seen to work."""
    content = pickle.dumps(Malicious(marker))
    pickle.loads(content)
    assert marker.exists()
    marker.unlink()
    return content


def our_dataset(path: Path, robot: RobotSpec, payload: bytes) -> None:
    """Make a dataset of ours whose blocks and metadata are pickles."""
    dataset = create_dataset(path, robot, "lift")
    with dataset.writer() as writer:
        episode = writer.begin()
        for name, array in dataset.streams.items():
            episode.append(name, np.arange(3), np.arange(3), np.ones((3, *array.shape), array.dtype))
        episode.end({})
    folder = path / "episodes/000000/joint/position/data"
    document = json.loads((folder / "zarr.json").read_bytes())
    codec = {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}
    (folder / "zarr.json").write_text(json.dumps(document | {"data_type": "object", "codecs": [codec]}))
    (folder / "c.0.0").write_bytes(payload)


@pytest.mark.fault(row=38)
def test_a_dataset_of_pickled_blocks_is_refused(tmp_path: Path, robot: RobotSpec, marker: Path, payload: bytes) -> None:
    our_dataset(tmp_path / "set", robot, payload)
    with pytest.raises(ArmatureError, match="stream joint/position: damaged"):
        open_dataset(tmp_path / "set").episodes[0].read("joint/position")
    assert not marker.exists()


@pytest.mark.fault(row=38)
@pytest.mark.parametrize("name", ["zarr.json", "commits.jsonl"])
def test_a_pickle_in_the_place_of_a_datasets_document_is_refused(
    tmp_path: Path, robot: RobotSpec, marker: Path, payload: bytes, name: str
) -> None:
    our_dataset(tmp_path / "set", robot, payload)
    (tmp_path / "set" / name).write_bytes(payload)
    if name == "zarr.json":
        with pytest.raises(ArmatureError, match=r"zarr\.json"):
            open_dataset(tmp_path / "set")
    else:
        assert open_dataset(tmp_path / "set").episodes == []
    assert not marker.exists()


def object_store(path: Path, payload: bytes) -> None:
    """Make a replay buffer of Diffusion Policy whose state is an array of pickled objects."""
    root = zarr.open_group(path, mode="w", zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    for name in ("action", "state"):
        data.create_array(name, shape=(4, 2), chunks=(4, 2), dtype="f4", filters=None, compressors=None)[:] = 1.0
    meta.create_array("episode_ends", shape=(1,), chunks=(1,), dtype="i8", filters=None, compressors=None)[:] = 4
    folder = path / "data" / "state"
    document = json.loads((folder / ".zarray").read_bytes())
    objects = {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]}
    (folder / ".zarray").write_text(json.dumps(document | objects))
    (folder / "0.0").write_bytes(payload)


def opaque_file(path: Path, payload: bytes) -> None:
    """Make a robomimic file whose observations and attributes are pickles."""
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo.create_dataset("actions", data=np.zeros((3, 7)))
        demo.create_dataset("obs/joint", data=np.array([np.void(payload)] * 3))
        file["data"].attrs["env_args"] = np.void(payload)


def object_array(path: Path, payload: bytes) -> None:
    """Make a LeRobot folder whose description and statistics are pickles."""
    (path / "meta").mkdir(parents=True)
    for name in ("info.json", "stats.json", "tasks.parquet", "episodes.parquet"):
        (path / "meta" / name).write_bytes(payload)


def pickled_array(path: Path, payload: bytes) -> None:
    """Write a NumPy file of objects, which is no dataset of anybody's."""
    buffer = io.BytesIO()
    header: dict[str, Any] = {"descr": "|O", "fortran_order": False, "shape": (1,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path.write_bytes(buffer.getvalue() + payload)


OFFERS = {"set.zarr": object_store, "set.hdf5": opaque_file, "set": object_array, "set.npy": pickled_array}


@pytest.mark.fault(row=38)
@pytest.mark.parametrize("name", OFFERS)
def test_pickles_in_foreign_datasets_are_refused_and_leave_nothing(
    tmp_path: Path, marker: Path, payload: bytes, name: str
) -> None:
    OFFERS[name](tmp_path / name, payload)
    with pytest.raises(ArmatureError):
        import_main([str(tmp_path / name), str(tmp_path / "imported")])
    assert not marker.exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
