"""diffusion_policy replay buffers: nothing changes on the way in and out, and no bad one gets in."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from armature.errors import ArmatureError, ConfigError, DatasetError
from armature.spec import RobotSpec
from data_collection.cli import main as data_main
from data_collection.converters.diffusion_policy.exporter import ExportConfig, export
from data_collection.converters.diffusion_policy.importer import ImportConfig, open_source
from data_collection.converters.importing import import_source
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER
from sim.tasks import SimConfig, robot_spec

PUSHT = "pusht_human/pusht_cchi_v7_replay.zarr"
Arrays = dict[str, NDArray[Any]]


def make_buffer(path: Path, arrays: Arrays, ends: list[int], compressor: Any = None, rows: int = 4) -> Path:
    root = zarr.open_group(path, mode="w", zarr_format=2)
    for group, members in (("data", arrays), ("meta", {"episode_ends": np.array(ends, np.int64)})):
        folder = root.create_group(group)
        for name, values in members.items():
            out = folder.create_array(
                name, shape=values.shape, chunks=(rows, *values.shape[1:]), dtype=values.dtype, compressors=compressor,
                filters=None, fill_value=0, config={"write_empty_chunks": True},
            )  # fmt: skip
            out[:] = values
    return path


def read_buffer(path: Path) -> Arrays:
    root = zarr.open_group(path, mode="r", zarr_format=2)
    names = [f"data/{name}" for name in root["data"].array_keys()] + ["meta/episode_ends"]
    return {name: np.ascontiguousarray(root[name][:]) for name in sorted(names)}


def assert_identical(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        assert (values.dtype, values.shape) == (b[name].dtype, b[name].shape), name
        assert values.tobytes() == b[name].tobytes(), name


def small_arrays(steps: int = 9) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "action": rng.normal(size=(steps, 2)).astype("f4"),
        "state": rng.normal(size=(steps, 5)).astype("f4"),
        "img": rng.integers(0, 256, (steps, 16, 20, 3)).astype("f4"),
    }


@pytest.fixture
def buffer(tmp_path: Path) -> Path:
    return make_buffer(tmp_path / "in.zarr", small_arrays(), [4, 9])


def imported(source: Path, dataset: Path, **options: Any) -> Dataset:
    return import_source(open_source(ImportConfig(source, dataset, **options)), dataset)


def there_and_back(source: Path, folder: Path, **options: Any) -> Arrays:
    imported(source, folder / "dataset", **options)
    export(ExportConfig(folder / "dataset", folder / "out.zarr"))
    return read_buffer(folder / "out.zarr")


def first_episodes(source: Path, count: int, target: Path) -> Path:
    """Copy the first episodes of the real recording."""
    root = zarr.open_group(source, mode="r", zarr_format=2)
    ends = root["meta/episode_ends"][:count].tolist()
    arrays = {name: root[f"data/{name}"][: ends[-1]] for name in root["data"].array_keys()}
    return make_buffer(target, arrays, ends, numcodecs.Blosc(cname="zstd"), rows=161)


def test_the_first_human_push_t_episodes_come_back_bit_for_bit(shared_data: Path, tmp_path: Path) -> None:
    source = first_episodes(shared_data / PUSHT, 3, tmp_path / "in.zarr")
    assert_identical(read_buffer(source), there_and_back(source, tmp_path))


@pytest.mark.slow
def test_all_human_push_t_episodes_come_back_bit_for_bit(shared_data: Path, tmp_path: Path) -> None:
    dataset = imported(shared_data / PUSHT, tmp_path / "dataset")
    assert (len(dataset.episodes), sum(episode.steps for episode in dataset.episodes)) == (206, 25650)
    export(ExportConfig(dataset.path, tmp_path / "out.zarr"))
    a = zarr.open_group(shared_data / PUSHT, mode="r", zarr_format=2)
    b = zarr.open_group(tmp_path / "out.zarr", mode="r", zarr_format=2)
    names = [f"data/{name}" for name in a["data"].array_keys()] + ["meta/episode_ends"]
    assert len(names) == 6
    for name in names:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        for row in range(0, a[name].shape[0], 1610):
            rows = slice(row, row + 1610)
            assert np.asarray(a[name][rows]).tobytes() == np.asarray(b[name][rows]).tobytes(), (name, row)


def test_the_shipped_mapping_makes_push_t_what_the_simulator_offers(shared_data: Path, tmp_path: Path) -> None:
    source = first_episodes(shared_data / PUSHT, 2, tmp_path / "in.zarr")
    dataset = imported(source, tmp_path / "dataset", mapping="pusht")
    assert dataset.spec.fingerprint == robot_spec(SimConfig(task="pusht")).fingerprint
    arrays, episode = read_buffer(source), dataset.episodes[1]
    rows = slice(*arrays["meta/episode_ends"])
    np.testing.assert_array_equal(episode.read("agent/position")[2], arrays["data/state"][rows, :2])
    np.testing.assert_array_equal(episode.read("object/pose")[2], arrays["data/state"][rows, 2:])
    np.testing.assert_array_equal(episode.read("object/keypoints")[2], arrays["data/keypoint"][rows].reshape(-1, 18))
    np.testing.assert_array_equal(episode.read("camera/scene")[2], arrays["data/img"][rows])
    np.testing.assert_array_equal(episode.read(ACTION_EXECUTED)[2], arrays["data/action"][rows])
    np.testing.assert_array_equal(np.diff(episode.read_stamps(ACTION_EXECUTED)[0]), 100_000_000)


def test_a_mapped_dataset_is_exported_under_the_names_of_its_streams(tmp_path: Path) -> None:
    arrays = small_arrays() | {"img": np.zeros((9, 96, 96, 3), "f4"), "keypoint": np.ones((9, 9, 2), "f4")}
    back = there_and_back(make_buffer(tmp_path / "in.zarr", arrays, [4, 9]), tmp_path, mapping="pusht")
    streams = ["action", "agent_position", "camera_scene", "object_keypoints", "object_pose"]
    assert list(back) == [*(f"data/{name}" for name in streams), "meta/episode_ends"]
    again = imported(tmp_path / "out.zarr", tmp_path / "again")
    assert again.spec == open_dataset(tmp_path / "dataset").spec


NUMBERS = npst.floating_dtypes(sizes=(16, 32, 64)) | npst.integer_dtypes() | npst.unsigned_integer_dtypes(sizes=8)
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, max_side=4) | st.sampled_from([(17, 16, 3), (3, 16, 17)])


@st.composite
def buffers(draw: st.DrawFn) -> tuple[Arrays, list[int]]:
    ends = np.cumsum(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))).tolist()
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    arrays = {"action": rng.normal(size=(ends[-1], 3)).astype(draw(st.sampled_from(["f2", "f4", "f8", "i4"])))}
    for name in draw(st.sets(st.sampled_from(["State", "img.0", "n contacts", "reward"]))):
        shape = draw(st.sampled_from([(), (1,)]) if name == "reward" else SHAPES)
        dtype = draw(st.just(np.dtype("f4")) if name == "reward" else NUMBERS | npst.boolean_dtypes())
        arrays[name] = rng.integers(0, 256, (ends[-1], *shape), np.uint8).astype(dtype)
    return arrays, ends


@settings(max_examples=12)
@given(content=buffers(), rows=st.integers(1, 9))
def test_any_buffer_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, content: tuple[Arrays, list[int]], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("buffer")
    source = make_buffer(folder / "in.zarr", *content, rows=rows)
    assert_identical(read_buffer(source), there_and_back(source, folder))
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "compressor",
    [None, numcodecs.Zlib(), numcodecs.GZip(), numcodecs.Zstd(), numcodecs.LZ4(), numcodecs.Blosc(cname="lz4")],
)
def test_every_allowed_compressor_is_read(tmp_path: Path, compressor: Any) -> None:
    source = make_buffer(tmp_path / "in.zarr", small_arrays(), [4, 9], compressor)
    assert_identical(read_buffer(source), there_and_back(source, tmp_path))


def fill(dataset: Dataset, episodes: int = 2, *, extras: bool = True) -> None:
    """Record a camera at 10 Hz, joints at 40 Hz and commands at 20 Hz, as a robot's streams come."""
    rng = np.random.default_rng(1)
    with dataset.writer() as writer:
        for _ in range(episodes):
            out = writer.begin({"success": True, "outcome": "success"})
            for name, array in dataset.streams.items():
                if not extras and name in (ACTION_REQUESTED, TAKEOVER, REWARD):
                    continue
                rate_hz = {"camera/scene": 10, "joint/position": 40}.get(name, 20)
                stamps_ns = np.arange(30 * rate_hz // 20, dtype=np.int64) * (10**9 // rate_hz) + 10**12
                values = np.stack([array.sample(rng) for _ in stamps_ns])
                out.append(name, stamps_ns, stamps_ns + 5, values)
            out.end({})


def test_a_dataset_of_ours_comes_back_aligned_at_its_commands(tmp_path: Path, robot: RobotSpec) -> None:
    ours = create_dataset(tmp_path / "ours", robot, "reach")
    fill(ours)
    export(ExportConfig(ours.path, tmp_path / "out.zarr"))
    back = imported(tmp_path / "out.zarr", tmp_path / "back")
    assert (back.spec, back.task, len(back.episodes)) == (robot, "reach", 2)
    for a, b in zip(ours.episodes, back.episodes, strict=True):
        for name in (ACTION_EXECUTED, ACTION_REQUESTED, TAKEOVER, REWARD, "gripper/opening"):
            np.testing.assert_array_equal(a.read(name)[2], b.read(name)[2], err_msg=name)
        np.testing.assert_array_equal(b.read("joint/position")[2], a.read("joint/position")[2][::2])
        np.testing.assert_array_equal(b.read("camera/scene")[2], a.read("camera/scene")[2].repeat(2, axis=0))


def test_streams_can_be_left_out_of_an_export(tmp_path: Path, robot: RobotSpec) -> None:
    ours = create_dataset(tmp_path / "ours", robot, "reach")
    fill(ours, extras=False)
    export(ExportConfig(ours.path, tmp_path / "out.zarr", leave_out=("camera/scene",)))
    names = ["data/action", "data/gripper_opening", "data/joint_position", "meta/episode_ends"]
    assert list(read_buffer(tmp_path / "out.zarr")) == names
    with pytest.raises(DatasetError, match="leave_out: camera: valid are camera/scene"):
        export(ExportConfig(ours.path, tmp_path / "other.zarr", leave_out=("camera",)))


def test_an_export_never_replaces_anything_and_leaves_no_draft(tmp_path: Path, buffer: Path) -> None:
    dataset = imported(buffer, tmp_path / "dataset")
    with pytest.raises(DatasetError, match="exists already"):
        export(ExportConfig(dataset.path, buffer))
    for chunk in (tmp_path / "dataset" / "episodes" / "000001" / "state" / "data").iterdir():
        if chunk.name != "zarr.json":
            chunk.unlink() if chunk.is_file() else shutil.rmtree(chunk)
    with pytest.raises(DatasetError, match="episode 1, stream state"):
        export(ExportConfig(dataset.path, tmp_path / "out.zarr"))
    assert not list(tmp_path.glob("*out.zarr*"))


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path, buffer: Path) -> None:
    source = open_source(ImportConfig(buffer, tmp_path / "dataset"))

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_source(source, tmp_path / "dataset", interrupt)
    assert len(open_dataset(tmp_path / ".dataset.importing").episodes) == 1
    import_source(source, tmp_path / "dataset")
    export(ExportConfig(tmp_path / "dataset", tmp_path / "out.zarr"))
    assert_identical(read_buffer(buffer), read_buffer(tmp_path / "out.zarr"))


def test_the_command_line_imports_and_exports(tmp_path: Path, buffer: Path) -> None:
    dataset, out = str(tmp_path / "dataset"), str(tmp_path / "out.zarr")
    assert data_main(["import", "diffusion-policy", str(buffer), dataset, "--action-kind", "planar_position"]) == 0
    assert open_dataset(dataset).spec.action.kind == "planar_position"
    assert data_main(["export", "diffusion-policy", dataset, out]) == 0
    assert_identical(read_buffer(buffer), read_buffer(Path(out)))


def test_floats_that_are_no_bytes_are_refused_or_kept(tmp_path: Path) -> None:
    arrays = small_arrays()
    arrays["img"][7, 3, 3, 1] = 0.5
    source = make_buffer(tmp_path / "in.zarr", arrays, [4, 9])
    with pytest.raises(DatasetError, match=r"img: episode_1, .*0\.5 cannot be kept as uint8"):
        imported(source, tmp_path / "dataset")
    assert not list(tmp_path.glob("*dataset*"))
    assert_identical(read_buffer(source), there_and_back(source, tmp_path, float_images="keep"))


def edit(key: str, **fields: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        file = root / key / ".zarray"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return apply


def set_ends(*ends: int) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        shutil.rmtree(root / "meta" / "episode_ends")
        group = zarr.open_group(root / "meta", mode="a", zarr_format=2)
        group.create_array("episode_ends", data=np.array(ends, np.int64), chunks=(8,), compressors=None)

    return apply


def cut_chunk(root: Path) -> None:
    file = root / "data" / "state" / "1.0"
    file.write_bytes(file.read_bytes()[:-3])


def deflated_zeros(size_mib: int) -> bytes:
    """Pack zeros without ever holding them, so that the memory of who unpacks them can be seen."""
    deflater = zlib.compressobj(9)
    return b"".join(deflater.compress(bytes(1 << 20)) for _ in range(size_mib)) + deflater.flush()


def bomb(root: Path) -> None:
    edit("data/state", compressor={"id": "zlib", "level": 9})(root)
    data = deflated_zeros(300)
    for chunk in ("0.0", "1.0", "2.0"):
        (root / "data" / "state" / chunk).write_bytes(data)


def lying_blosc(root: Path) -> None:
    edit("data/state", compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0})(root)
    data = bytearray(numcodecs.Blosc().encode(bytes(80)))
    data[4:8] = (1 << 30).to_bytes(4, "little")
    for chunk in ("0.0", "1.0", "2.0"):
        (root / "data" / "state" / chunk).write_bytes(data)


def lead_out(root: Path) -> None:
    outside = root.parent / "outside"
    (root / "data" / "state").rename(outside)
    (root / "data" / "state").symlink_to(outside)


def add_fifo(root: Path) -> None:
    os.mkfifo(root / "data" / "state" / "9.0")


def set_nan(root: Path) -> None:
    zarr.open_array(root / "data" / "action", mode="r+", zarr_format=2)[6, 1] = np.nan


def add_nan_reward(root: Path) -> None:
    rewards = np.array([0.0] * 6 + [np.nan, 0.0, 1.0])
    zarr.open_group(root / "data", mode="r+", zarr_format=2).create_array("reward", data=rewards, compressors=None)


def dotted(root: Path) -> None:
    (root / "data" / "state").rename(root / "data" / "..state")


def claims(text: str) -> Callable[[Path], None]:
    return lambda root: (root / ".zattrs").write_text(text) and None


OBJECT_FILTER = [{"id": "pickle", "protocol": 5}]
BAD = {
    "pickle filter": (edit("data/state", filters=OBJECT_FILTER), r"data/state: filters .*pickle.* not allowed"),
    "object dtype": (edit("data/state", dtype="|O", filters=OBJECT_FILTER), r"data/state: dtype object is not allowed"),
    "structured dtype": (edit("data/state", dtype=[["a", "<f4"]]), r"data/state: dtype object is not allowed"),
    "unknown dtype": (edit("data/state", dtype="<q9"), r"data/state: dtype '<q9' is unknown"),
    "text dtype": (edit("data/state", dtype="<U8"), r"data/state: dtype <U8 is not allowed"),
    "pickle compressor": (
        edit("data/img", compressor={"id": "pickle"}),
        r"data/img: compressor 'pickle'.*valid: blosc",
    ),
    "unknown compressor": (edit("data/img", compressor={"id": "jpegxl"}), r"data/img: compressor 'jpegxl'"),
    "huge shape": (edit("data/state", shape=[1 << 40, 5]), r"data/state: shape .* would need"),
    "plausible shape without chunks": (edit("data/state", shape=[1 << 30, 5]), r"state has 1073741824 rows"),
    "huge chunks": (edit("data/state", chunks=[1 << 30, 5]), r"data/state: chunks .* need"),
    "negative shape": (edit("data/state", shape=[-9, 5]), r"data/state: shape is \[-9, 5\]"),
    "no metadata": (lambda root: (root / "data" / "state" / ".zarray").write_text("{"), r"state/.zarray: is no JSON"),
    "longer than the others": (edit("data/state", shape=[10, 5]), r"episode_ends: .* ends at 9, .*state has 10 rows"),
    "ends do not rise": (set_ends(4, 4, 9), r"episode_ends: element 1 is 4: the ends must rise"),
    "ends beyond the data": (set_ends(4, 90), r"episode_ends: the last episode ends at 90, .* has 9 rows"),
    "ends short of the data": (set_ends(4, 8), r"episode_ends: the last episode ends at 8, .* has 9 rows"),
    "negative end": (set_ends(-4, 9), r"episode_ends: element 0 is -4"),
    "no ends": (lambda root: shutil.rmtree(root / "meta" / "episode_ends"), r"there is no array 'meta/episode_ends'"),
    "missing chunk": (lambda root: (root / "data" / "state" / "1.0").unlink(), r"state: 2 of 3 chunks are there"),
    "truncated chunk": (cut_chunk, r"data/state: chunk 1.0 decodes to 77 bytes, expected 80"),
    "bomb": (bomb, r"data/state: chunk 0.0 decodes to \d+ bytes, expected 80"),
    "blosc that lies": (lying_blosc, r"data/state: chunk 0.0 decodes to 1073741824 bytes"),
    "link that leads out": (lead_out, r"data/state: leads out of the store"),
    "no plain file": (add_fifo, r"9.0: is neither file nor folder"),
    "key with dots": (dotted, r"key '\.\.state'"),
    "no action": (lambda root: shutil.rmtree(root / "data" / "action"), r"unknown action array 'action'"),
    "NaN in actions": (set_nan, r"data/action: episode_1, .*action 2 is not finite"),
    "NaN in rewards": (add_nan_reward, r"data/reward: episode_1, .*reward 2 is not finite"),
    "claims of another robot": (claims('{"armature": {"spec": 1}}'), r"attribute 'armature'"),
    "array within another": (
        lambda root: shutil.copytree(root / "data" / "state", root / "data" / "state.data"),
        r"stream state/data would lie in the folder of another",
    ),
    "no group": (lambda root: (root / ".zgroup").unlink(), r"is no Zarr v2 folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_buffer_is_refused_by_file_and_field_and_nothing_is_left(tmp_path: Path, buffer: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(buffer)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match=message) as caught:
        imported(buffer, tmp_path / "dataset")
    assert str(tmp_path) in str(caught.value) or name == "key with dots"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000
    assert not list(tmp_path.glob("*dataset*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("robot: pusht", "lacks key"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
        ("../in.zarr", "expected the fields"),
    ],
)
def test_a_bad_mapping_is_refused(tmp_path: Path, buffer: Path, text: str, message: str) -> None:
    (tmp_path / "mapping.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        imported(buffer, tmp_path / "dataset", mapping=str(tmp_path / "mapping.yaml"))


@pytest.mark.parametrize("rate_hz", [0, -5, math.inf, math.nan])
def test_a_rate_of_which_no_stamps_can_be_made_is_refused(
    tmp_path: Path, robot: RobotSpec, buffer: Path, rate_hz: float
) -> None:
    mapping = {
        "robot": "a", "task": "b", "rate_hz": rate_hz, "streams": {},
        "action": {"key": "action", "kind": "controller_input", "arrays": []},
    }  # fmt: skip
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    with pytest.raises(DatasetError, match=r"rate_hz: .* is not in"):
        imported(buffer, tmp_path / "dataset", mapping=str(tmp_path / "mapping.yaml"))
    ours = create_dataset(tmp_path / "ours", robot, "reach")
    fill(ours)
    export(ExportConfig(ours.path, tmp_path / "out.zarr"))
    attributes = json.loads((tmp_path / "out.zarr/.zattrs").read_text())
    attributes["armature"]["spec"]["action"]["rate_hz"] = rate_hz
    (tmp_path / "out.zarr/.zattrs").write_text(json.dumps(attributes))
    with pytest.raises(DatasetError, match=r"attribute 'armature': .*rate_hz"):
        imported(tmp_path / "out.zarr", tmp_path / "dataset")
    assert not list(tmp_path.glob("*dataset*"))


def test_an_episode_without_rewards_comes_back_with_zeros_beside_others(tmp_path: Path, robot: RobotSpec) -> None:
    ours = create_dataset(tmp_path / "ours", robot, "reach")
    fill(ours, episodes=1)
    fill(ours, episodes=1, extras=False)
    left_out = (TAKEOVER, ACTION_REQUESTED)
    export(ExportConfig(ours.path, tmp_path / "out.zarr", leave_out=left_out))
    one, other = imported(tmp_path / "out.zarr", tmp_path / "back").episodes
    np.testing.assert_array_equal(one.read(REWARD)[2], ours.episodes[0].read(REWARD)[2])
    assert not other.read(REWARD)[2].any()


def test_a_mapping_cannot_reach_what_is_not_in_the_store(tmp_path: Path, buffer: Path) -> None:
    mapping = {
        "robot": "a", "task": "b", "rate_hz": 10, "streams": {"x": {"key": "../meta/episode_ends"}},
        "action": {"key": "action", "kind": "controller_input", "arrays": []},
    }  # fmt: skip
    (tmp_path / "mapping.yaml").write_text(json.dumps(mapping))
    with pytest.raises(ConfigError, match=r"unknown array '\.\./meta/episode_ends'.*Valid: action, img, state"):
        imported(buffer, tmp_path / "dataset", mapping=str(tmp_path / "mapping.yaml"))
    with pytest.raises(ConfigError, match=r"unknown mapping 'push'.*Did you mean 'pusht'"):
        imported(buffer, tmp_path / "dataset", mapping="push")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ({"key": "state", "shape": [6]}, r"state: samples \(5,\) do not fit stream x \(6,\)"),
        ({"key": "img", "unit": "rgb8", "shape": [960]}, r"x: shape \(960,\), an image keeps the shape of img"),
    ],
)
def test_a_mapping_cannot_ask_for_a_shape_that_does_not_fit(
    tmp_path: Path, buffer: Path, stream: dict[str, Any], message: str
) -> None:
    agent = {"name": "agent/position", "shape": [2], "dtype": "float32", "unit": "px"}
    mapping = {
        "robot": "a", "task": "b", "rate_hz": 10, "streams": {"x": stream},
        "action": {"key": "action", "kind": "planar_position", "arrays": [agent]},
    }  # fmt: skip
    (tmp_path / "mapping.yaml").write_text(json.dumps(mapping))
    with pytest.raises(ArmatureError, match=message):
        imported(buffer, tmp_path / "dataset", mapping=str(tmp_path / "mapping.yaml"))


@pytest.mark.parametrize("columns", [[0, 5], [-1]])
def test_a_mapping_cannot_ask_for_columns_that_are_not_there(tmp_path: Path, buffer: Path, columns: list[int]) -> None:
    agent = {"name": "agent/position", "shape": [2], "dtype": "float32", "unit": "px"}
    mapping = {
        "robot": "a", "task": "b", "rate_hz": 10, "streams": {"x": {"key": "state", "columns": columns}},
        "action": {"key": "action", "kind": "planar_position", "arrays": [agent]},
    }  # fmt: skip
    (tmp_path / "mapping.yaml").write_text(json.dumps(mapping))
    with pytest.raises(ArmatureError, match="state: has no columns"):
        imported(buffer, tmp_path / "dataset", mapping=str(tmp_path / "mapping.yaml"))
