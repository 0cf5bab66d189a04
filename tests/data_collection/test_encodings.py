"""What is written is Zarr v3: other readers get the same values. Images lie in shards of single frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from armature.errors import ConfigError, DatasetError
from armature.spec import ArraySpec, RobotSpec
from data_collection import blocks
from data_collection.episode_writer import EpisodeWriter
from data_collection.files import LocalFiles
from data_collection.layout import ArrayLayout, data_layout
from data_collection.store import Dataset, create_dataset, open_dataset

IMAGE = ArraySpec("camera/scene", (24, 32, 3), "uint8", "rgb8")
STEPS = 150


def smooth_images(count: int) -> np.ndarray:
    """Return images that JPEG can carry: slow waves of colour, moving."""
    y, x, c = np.meshgrid(np.arange(24), np.arange(32), np.arange(3), indexing="ij")
    waves = [128 + 100 * np.sin((x + 2 * y + 5 * k) / 15 + c) for k in range(count)]
    return np.stack(waves).astype(np.uint8)


@pytest.fixture(params=["lossless", "jpeg"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path, robot: RobotSpec) -> Dataset:
    dataset = create_dataset(tmp_path / "set", robot, "lift", encodings={"camera/scene": request.param})
    with dataset.writer() as writer:
        episode = writer.begin()
        rows = np.arange(STEPS)
        episode.append("camera/scene", rows, rows, smooth_images(STEPS))
        episode.append("joint/position", rows, rows, np.stack([rows, -rows], axis=1).astype(np.float32))
        episode.end({"outcome": "success"})
    return open_dataset(dataset.path)


def test_images_come_back_as_they_were_or_as_jpeg_leaves_them(dataset: Dataset) -> None:
    _, _, images = dataset.episodes[0].read("camera/scene")
    error = np.abs(images.astype(int) - smooth_images(STEPS))
    if dataset.encodings["camera/scene"] == "lossless":
        assert error.max() == 0
    else:
        assert 0 < error.mean() < 2
        assert error.max() < 24  # 4:2:0


def test_zarr_and_tensorstore_read_the_same(dataset: Dataset) -> None:
    (episode,) = dataset.episodes
    root = zarr.open_group(dataset.path, mode="r")
    for name in ("camera/scene", "joint/position"):
        stamps_ns, received_ns, data = episode.read(name)
        np.testing.assert_array_equal(root[f"episodes/000000/{name}/data"][:], data)
        clocks = root[f"episodes/000000/{name}/stamps_ns"][:]
        np.testing.assert_array_equal(clocks, np.stack([stamps_ns, received_ns], axis=1))
    if dataset.encodings["camera/scene"] == "lossless":  # tensorstore has no codec of ours
        path = str(dataset.path / "episodes/000000/camera/scene/data")
        store = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}).result()
        np.testing.assert_array_equal(store.read().result(), episode.read("camera/scene")[2])


def test_zarr_can_write_our_jpeg_too(tmp_path: Path) -> None:
    codec = {"name": "armature.jpeg", "configuration": {"quality": 95}}
    array = zarr.create_array(tmp_path / "a", shape=(4, 24, 32, 3), chunks=(1, 24, 32, 3), dtype="uint8",
                              serializer=codec, compressors=None)  # fmt: skip
    array[:] = smooth_images(4)
    assert np.abs(array[:].astype(int) - smooth_images(4)).mean() < 2


@pytest.mark.parametrize("rows", [[0], [149, 0, 64, 63, 64], list(range(100)), []])
def test_rows_are_read_alone(dataset: Dataset, rows: list[int]) -> None:
    (episode,) = dataset.episodes
    for name in ("camera/scene", "joint/position"):
        np.testing.assert_array_equal(episode.read_rows(name, rows), episode.read(name)[2][rows])


@dataclass(frozen=True)
class FilesOfARecording(LocalFiles):
    """A folder in which another image is committed whenever somebody has asked for the size of a file."""

    episode: EpisodeWriter

    def size(self, name: str) -> int:
        size_bytes = super().size(name)
        row = np.array([self.episode.committed["camera/scene"]])
        self.episode.append("camera/scene", row, row, smooth_images(1))
        self.episode.commit()
        return size_bytes


def test_an_image_can_be_read_while_the_next_ones_are_committed(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = create_dataset(tmp_path / "set", robot, "lift")
    with dataset.writer() as writer:
        recorded = writer.begin()
        recorded.append("camera/scene", np.arange(3), np.arange(3), smooth_images(3))
        recorded.commit()
        (episode,) = dataset.episodes
        episode = replace(episode, files=FilesOfARecording(dataset.path, recorded))
        for row, image in enumerate(smooth_images(3)):
            np.testing.assert_array_equal(episode.read_rows("camera/scene", [row]), image[None])
        assert recorded.committed["camera/scene"] == 6


def test_a_row_that_is_not_there_is_named(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"episode 0, stream camera/scene: row 150 is not there; it has 150"):
        dataset.episodes[0].read_rows("camera/scene", [3, 150])


def test_a_recorded_jpeg_is_given_out_as_it_is(dataset: Dataset) -> None:
    (episode,) = dataset.episodes
    if dataset.encodings["camera/scene"] == "lossless":
        with pytest.raises(DatasetError, match="is not stored as JPEG"):
            episode.read_encoded("camera/scene", 0)
        return
    file = episode.read_encoded("camera/scene", 77)
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(image, episode.read_rows("camera/scene", [77])[0])


def test_blocks_come_in_order_and_are_small(dataset: Dataset) -> None:
    (episode,) = dataset.episodes
    parts = list(episode.blocks("camera/scene"))
    assert [len(data) for _, _, data in parts] == [64, 64, 22]
    np.testing.assert_array_equal(np.concatenate([stamps_ns for stamps_ns, _, _ in parts]), np.arange(STEPS))


def test_a_dataset_elsewhere_is_read_through_fsspec(dataset: Dataset) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset.path), "/bucket", recursive=True)
    remote = open_dataset("memory://bucket/" + ("set" if memory.exists("/bucket/set") else ""))
    (there,), (here,) = remote.episodes, dataset.episodes
    for name in here.streams:
        for a, b in zip(there.read(name), here.read(name), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(there.read_rows("camera/scene", [5]), here.read_rows("camera/scene", [5]))
    with pytest.raises(DatasetError, match="can only be read; record to a local disk"):
        remote.writer()
    with pytest.raises(DatasetError, match=r"memory://nowhere: there is no dataset here"):
        open_dataset("memory://nowhere")
    with pytest.raises(DatasetError, match=r"nosuch://x: cannot be opened"):
        open_dataset("nosuch://x")


def test_a_stream_that_is_no_image_has_no_jpeg(tmp_path: Path, robot: RobotSpec) -> None:
    with pytest.raises(ConfigError, match=r"encoding of joint/position: jpeg is for images .* not float32 \(2,\)"):
        create_dataset(tmp_path / "set", robot, "lift", encodings={"joint/position": "jpeg"})
    with pytest.raises(ConfigError, match="unknown encoding of camera/scene 'png'"):
        create_dataset(tmp_path / "set", robot, "lift", encodings={"camera/scene": "png"})  # type: ignore[dict-item]
    with pytest.raises(DatasetError, match="there is no stream 'camera/top'"):
        create_dataset(tmp_path / "set", robot, "lift", encodings={"camera/top": "jpeg"})


def test_a_jpeg_of_another_size_is_refused_before_it_is_decoded() -> None:
    huge = blocks.encode_jpeg(np.zeros((2000, 3000, 3), np.uint8))
    with pytest.raises(ValueError, match=r"the JPEG is \(2000, 3000\), expected \(24, 32\)"):
        blocks.decode_jpeg(huge, IMAGE.shape)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_never_an_image(garbage: bytes) -> None:
    for encoding in ("lossless", "jpeg"):
        with pytest.raises(ValueError, match=r"."):
            blocks.decode_frame(garbage, data_layout(IMAGE, encoding))
    with pytest.raises(ValueError, match=r"."):
        blocks.decode_jpeg(b"\xff\xd8" + garbage, IMAGE.shape)


@given(st.integers(1, 20), st.data())
def test_every_changed_bit_of_a_shard_is_noticed(count: int, data: st.DataObject) -> None:
    layout = replace(data_layout(ArraySpec("camera/scene", (2, 2, 3), "uint8", "rgb8")), rows=20)
    buffer = blocks.ShardBuffer(layout)
    for k in range(count):
        buffer.add(blocks.encode_frame(np.full((2, 2, 3), k, np.uint8), layout))
    shard = bytearray(buffer.content())
    bit = data.draw(st.integers(0, 8 * len(shard) - 1))
    shard[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match=r"."):
        read_frames(bytes(shard), count, layout)


def read_frames(shard: bytes, count: int, layout: ArrayLayout) -> list[np.ndarray]:
    index = blocks.decode_index(shard[-blocks.index_bytes(layout) :], layout)
    ranges = [blocks.frame_range(index, row, len(shard)) for row in range(count)]
    return [blocks.decode_frame(shard[offset : offset + size], layout) for offset, size in ranges]


def test_a_shard_buffer_is_used_again_and_grows_where_it_must() -> None:
    layout = replace(data_layout(ArraySpec("camera/scene", (2, 2, 3), "uint8", "rgb8")), rows=3)
    buffer, sizes = blocks.ShardBuffer(layout), []
    for frames in ([b"a" * 500, b"bb"], [b"c"], [b"d", b"e", b"f"]):
        for frame in frames:
            buffer.add(frame)
        shard = bytes(buffer.content())
        index = blocks.decode_index(shard[-blocks.index_bytes(layout) :], layout)
        ranges = [blocks.frame_range(index, row, len(shard)) for row in range(len(frames))]
        assert [blocks.frame_body(shard[offset : offset + size]) for offset, size in ranges] == frames
        assert buffer.is_full == (len(frames) == 3)
        sizes.append(len(shard))
        buffer.clear()
    assert sizes == [562, 57, 67]
