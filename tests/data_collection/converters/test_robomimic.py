"""robomimic and robosuite files: what goes in comes out, in the layout that robomimic reads, and no bad one gets in."""

from __future__ import annotations

import json
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from armature.errors import DatasetError
from armature.spec import RobotSpec
from data_collection.cli import main as data_main
from data_collection.converters.diffusion_policy import exporter as zarr_exporter
from data_collection.converters.diffusion_policy import importer as zarr_importer
from data_collection.converters.importing import import_source
from data_collection.converters.robomimic.exporter import ExportConfig, export
from data_collection.converters.robomimic.importer import ImportConfig, open_source
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER
from sim.tasks import SimConfig, robot_spec

ROBOSUITE = [
    "v1.4/lift_panda_v141_1710619576_972822_demo.hdf5",
    *(f"v1.0/{name}/panda/demo.hdf5" for name in ("door", "lift", "nut-assembly", "pick-place", "stack", "wipe")),
]
OSC = {
    "type": "OSC_POSE", "input_max": 1, "input_min": -1, "control_delta": True,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5], "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
}  # fmt: skip
ENV_ARGS = {
    "env_name": "Lift", "type": 1, "env_version": "1.4.1",
    "env_kwargs": {"robots": ["Panda"], "control_freq": 10, "controller_configs": OSC},
}  # fmt: skip


def write_demo(group: h5py.Group, steps: int, rng: np.random.Generator, **packing: Any) -> None:
    group.attrs["num_samples"] = steps
    group.attrs["model_file"] = "<mujoco>" + "x" * 100_000 + "</mujoco>"
    group["actions"] = rng.uniform(-1, 1, (steps, 7))
    group["states"] = rng.normal(size=(steps, 32))
    group["rewards"] = np.eye(1, steps, steps - 1)[0]
    group["dones"] = np.eye(1, steps, steps - 1, dtype=np.int64)[0]
    obs = {
        "agentview_image": rng.integers(0, 256, (steps + 1, 20, 24, 3), np.uint8),
        "robot0_eef_pos": rng.normal(size=(steps + 1, 3)),
        "object": rng.normal(size=(steps + 1, 10)).astype("f4"),
    }
    for key, values in obs.items():
        group.create_dataset(f"obs/{key}", data=values[:-1], **packing)
        group.create_dataset(f"next_obs/{key}", data=values[1:], **packing)


def make_file(path: Path, steps: dict[str, int], **packing: Any) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, count in steps.items():
            write_demo(data.create_group(name), count, rng, **packing)
        data.attrs["total"] = sum(steps.values())
        data.attrs["env_args"] = json.dumps(ENV_ARGS)
        file["mask/train"] = np.array(list(steps)[:1], dtype="S")
        file["mask/valid"] = np.array(list(steps)[1:], dtype="S")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_file(tmp_path / "in.hdf5", {"demo_0": 6, "demo_1": 9})


def imported(source: Path, dataset: Path, **options: Any) -> Dataset:
    return import_source(open_source(ImportConfig(source, dataset, **options)), dataset)


def there_and_back(source: Path, folder: Path, **options: Any) -> Path:
    imported(source, folder / "dataset", **options)
    export(ExportConfig(folder / "dataset", folder / "out.hdf5"))
    return folder / "out.hdf5"


def content(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, Any]]]:
    """Return all arrays and all attributes by path."""
    arrays: dict[str, NDArray[Any]] = {}
    attributes: dict[str, dict[str, Any]] = {}

    def visit(name: str, item: Any) -> None:
        attributes[name] = dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[:]

    with h5py.File(path) as file:
        file.visititems(visit)
    return arrays, attributes


def assert_identical(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        assert (values.dtype, values.shape) == (b[name].dtype, b[name].shape), name
        assert values.tobytes() == b[name].tobytes(), name


def test_a_robomimic_file_comes_back_whole(tmp_path: Path, file: Path) -> None:
    (arrays, attributes), (back, attributes_back) = content(file), content(there_and_back(file, tmp_path))
    assert_identical(arrays, back)
    assert attributes == attributes_back


def test_what_a_robomimic_file_lacks_is_not_made_up(tmp_path: Path, file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        for demo in opened["data"].values():
            del demo["next_obs/object"], demo["dones"], demo["rewards"]
        del opened["mask"], opened["data"].attrs["total"]
    assert_identical(content(file)[0], content(there_and_back(file, tmp_path))[0])


def test_what_a_robomimic_file_says_is_kept(tmp_path: Path, file: Path) -> None:
    dataset = imported(file, tmp_path / "dataset")
    assert (dataset.spec.name, dataset.task, dataset.spec.action.rate_hz) == ("panda", "lift", 10.0)
    episode = dataset.episodes[1]
    assert (episode.metadata["success"], episode.outcome, episode.metadata["source_episode"]) == (
        True, "success", "demo_1",
    )  # fmt: skip
    arrays, _ = content(file)
    np.testing.assert_array_equal(episode.read(REWARD)[2][:, 0], arrays["data/demo_1/rewards"])
    stamps_ns, _, images = episode.read("obs/agentview_image")
    np.testing.assert_array_equal(images[:9], arrays["data/demo_1/obs/agentview_image"])
    np.testing.assert_array_equal(images[9], arrays["data/demo_1/next_obs/agentview_image"][-1])
    np.testing.assert_array_equal(stamps_ns, np.arange(10) * 100_000_000)
    assert dataset.streams["obs/agentview_image"].is_image


@pytest.mark.parametrize("name", ROBOSUITE)
def test_human_robosuite_files_come_back_bit_for_bit(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / "robosuite_human" / name
    (arrays, attributes), (back, attributes_back) = content(source), content(there_and_back(source, tmp_path))
    assert_identical(arrays, back)
    for group, values in attributes.items():
        assert values.items() <= attributes_back[group].items(), group
    args = json.loads(attributes_back["data"]["env_args"])
    assert (args["env_name"], args["type"]) == (attributes["data"]["env"], 1)
    steps = sum(len(values) for key, values in arrays.items() if key.endswith("actions"))
    assert attributes_back["data"]["total"] == steps


def test_osc_inputs_become_the_simulated_panda_s_tcp_deltas(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "robosuite_human" / ROBOSUITE[0]
    dataset = imported(source, tmp_path / "dataset", action="tcp_delta")
    assert dataset.spec.action == robot_spec(SimConfig(task="lift", action="tcp_delta")).action
    inputs = content(source)[0]["data/demo_1/actions"]
    physical = dataset.episodes[0].read(ACTION_EXECUTED)[2]
    np.testing.assert_allclose(physical[:, :3], inputs[:, :3] * 0.05, atol=1e-15)
    np.testing.assert_allclose(physical[:, 3:6], inputs[:, 3:6] * 0.5, atol=1e-15)
    assert {tuple(pair) for pair in np.stack((inputs[:, 6], physical[:, 6]), 1).tolist()} == {(-1, 0.08), (1, 0.0)}
    export(ExportConfig(dataset.path, tmp_path / "out.hdf5"))
    np.testing.assert_allclose(content(tmp_path / "out.hdf5")[0]["data/demo_1/actions"], inputs, atol=1e-15)


def test_actions_that_are_no_panda_s_osc_pose_stay_raw(shared_data: Path, tmp_path: Path) -> None:
    wipe = shared_data / "robosuite_human" / ROBOSUITE[-1]
    with pytest.raises(DatasetError, match="6 elements: use --action raw"):
        imported(wipe, tmp_path / "dataset", action="tcp_delta")


def test_demonstrations_come_in_the_order_of_their_numbers_and_keep_their_names(tmp_path: Path) -> None:
    source = make_file(tmp_path / "in.hdf5", {"demo_10": 3, "demo_2": 4, "demo_0": 5})
    dataset = imported(source, tmp_path / "dataset")
    names = [episode.metadata["source_episode"] for episode in dataset.episodes]
    assert (names, [episode.steps for episode in dataset.episodes]) == (["demo_0", "demo_2", "demo_10"], [5, 4, 3])
    export(ExportConfig(dataset.path, tmp_path / "out.hdf5"))
    assert_identical(content(source)[0], content(tmp_path / "out.hdf5")[0])


@pytest.mark.parametrize("packing", [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}])
def test_packed_files_are_read(tmp_path: Path, packing: dict[str, Any]) -> None:
    source = make_file(tmp_path / "in.hdf5", {"demo_0": 6}, **packing)
    assert_identical(content(source)[0], content(there_and_back(source, tmp_path))[0])


@settings(max_examples=20)
@given(
    steps=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    has_next=st.booleans(),
    dtype=st.sampled_from(["f2", "f4", ">f8", "u1", "i4", "?"]),
    shape=st.sampled_from([(), (3,), (2, 4), (16, 17, 3), (3, 16, 17), (5, 4, 2)]),
)
def test_any_robomimic_file_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], has_next: bool, dtype: str, shape: tuple[int, ...]
) -> None:
    folder, rng = tmp_path_factory.mktemp("file"), np.random.default_rng(len(steps))
    with h5py.File(folder / "in.hdf5", "w") as file:
        for i, count in enumerate(steps):
            group = file.create_group(f"data/demo_{i}")
            group["actions"] = rng.normal(size=(count, 4)).astype("f4")
            values = rng.integers(0, 256, (count + 1, *shape)).astype(dtype)
            group["obs/any"] = values[:-1]
            if has_next:
                group["next_obs/any"] = values[1:]
    assert_identical(content(folder / "in.hdf5")[0], content(there_and_back(folder / "in.hdf5", folder))[0])


def fill(dataset: Dataset, *, extras: bool = True) -> None:
    """Record two episodes of a camera at 10 Hz, joints at 40 Hz and commands at 20 Hz; one ends with an observation."""
    rng = np.random.default_rng(1)
    with dataset.writer() as writer:
        for later in (0, 1):
            success = bool(later)
            out = writer.begin({"success": success, "outcome": "success" if success else "failure", "operator": "ada"})
            for name, array in dataset.streams.items():
                if not extras and name in (ACTION_REQUESTED, TAKEOVER, REWARD):
                    continue
                rate_hz = {"camera/scene": 10, "joint/position": 40}.get(name, 20)
                count = 30 * rate_hz // 20 + (later if name == "gripper/opening" else 0)
                stamps_ns = np.arange(count, dtype=np.int64) * (10**9 // rate_hz) + 10**12
                out.append(name, stamps_ns, stamps_ns + 5, np.stack([array.sample(rng) for _ in stamps_ns]))
            out.end({})


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_dataset_of_ours_comes_back_aligned_at_its_commands(
    tmp_path: Path, robot: RobotSpec, compression: Any
) -> None:
    ours = create_dataset(tmp_path / "ours", robot, "reach")
    fill(ours)
    export(ExportConfig(ours.path, tmp_path / "out.hdf5", compression=compression))
    back = imported(tmp_path / "out.hdf5", tmp_path / "back")
    assert (back.spec, back.task) == (robot, "reach")
    for a, b in zip(ours.episodes, back.episodes, strict=True):
        for name in (ACTION_EXECUTED, ACTION_REQUESTED, TAKEOVER, REWARD, "gripper/opening"):
            np.testing.assert_array_equal(a.read(name)[2], b.read(name)[2], err_msg=name)
        np.testing.assert_array_equal(b.read("joint/position")[2][:30], a.read("joint/position")[2][::2])
        np.testing.assert_array_equal(b.read("camera/scene")[2], a.read("camera/scene")[2].repeat(2, axis=0))
        assert {key: b.metadata[key] for key in ("success", "outcome", "operator")} == {
            key: a.metadata[key] for key in ("success", "outcome", "operator")
        }


def test_an_export_has_everything_that_robomimic_trains_on(tmp_path: Path, robot: RobotSpec) -> None:
    ours = create_dataset(tmp_path / "ours", robot, "reach")
    fill(ours, extras=False)
    export(ExportConfig(ours.path, tmp_path / "out.hdf5"))
    with h5py.File(tmp_path / "out.hdf5") as file:
        data = file["data"]
        assert json.loads(data.attrs["env_args"]) == {"env_name": "reach", "type": 1, "env_kwargs": {}}
        assert (data.attrs["total"], list(data), data["demo_0"].attrs["num_samples"]) == (60, ["demo_0", "demo_1"], 30)
        assert set(data["demo_0"]) == {"actions", "dones", "next_obs", "obs", "rewards"}
        assert set(data["demo_0/obs"]) == {"camera_scene", "gripper_opening", "joint_position"}
        for name, last_reward in (("demo_0", 0), ("demo_1", 1)):
            demo = data[name]
            assert demo["rewards"][:].tolist() == [0] * 29 + [last_reward]
            assert demo["dones"][:].tolist() == [0] * 29 + [1]
            for key, obs in demo["obs"].items():
                np.testing.assert_array_equal(demo["next_obs"][key][:-1], obs[1:])
    assert imported(tmp_path / "out.hdf5", tmp_path / "back").episodes[0].length(REWARD) == 0


def test_an_export_names_the_environment_that_it_is_told(tmp_path: Path, file: Path) -> None:
    dataset = imported(file, tmp_path / "dataset")
    export(ExportConfig(dataset.path, tmp_path / "out.hdf5", env_args='{"env_name": "Can", "type": 1}'))
    assert content(tmp_path / "out.hdf5")[1]["data"]["env_args"] == '{"env_name": "Can", "type": 1}'


def test_done_steps_beyond_the_end_are_refused(tmp_path: Path, file: Path) -> None:
    dataset = imported(file, tmp_path / "dataset")
    with dataset.writer() as writer:
        writer.relabel(1, {"done_steps": [3, 9]})
    with pytest.raises(DatasetError, match="episode 1: done_steps names step 9, it has 9 steps"):
        export(ExportConfig(dataset.path, tmp_path / "out.hdf5"))
    assert not list(tmp_path.glob("*out.hdf5*"))
    with dataset.writer() as writer:  # as a repair says of a beginning
        writer.relabel(1, {"outcome": "incomplete"})
    export(ExportConfig(dataset.path, tmp_path / "out.hdf5", incomplete="include"))
    assert content(tmp_path / "out.hdf5")[0]["data/demo_1/dones"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_rewards_that_are_never_1_say_nothing_about_success(tmp_path: Path, file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened["data/demo_0/rewards"][:] = 0
        opened["data/demo_1/rewards"][:] = 2.5
    dataset = imported(file, tmp_path / "dataset")
    assert [(episode.metadata["success"], episode.outcome) for episode in dataset.episodes] == [(None, "")] * 2


def test_what_came_from_robomimic_goes_to_diffusion_policy_and_back(tmp_path: Path, file: Path) -> None:
    dataset = imported(file, tmp_path / "dataset")
    zarr_exporter.export(zarr_exporter.ExportConfig(dataset.path, tmp_path / "out.zarr"))
    config = zarr_importer.ImportConfig(tmp_path / "out.zarr", tmp_path / "back")
    back = import_source(zarr_importer.open_source(config), tmp_path / "back")
    assert back.spec == dataset.spec
    for a, b in zip(dataset.episodes, back.episodes, strict=True):
        for name in (*dataset.spec.observation.names, ACTION_EXECUTED, REWARD):
            np.testing.assert_array_equal(a.read(name)[2][: a.steps], b.read(name)[2], err_msg=name)


def test_a_damaged_dataset_leaves_no_draft(tmp_path: Path, file: Path) -> None:
    dataset = imported(file, tmp_path / "dataset")
    for chunk in (dataset.path / "episodes" / "000001" / "states" / "data").rglob("*"):
        if chunk.is_file() and chunk.name != "zarr.json":
            chunk.unlink()
    with pytest.raises(DatasetError, match="episode 1, stream states"):
        export(ExportConfig(dataset.path, tmp_path / "out.hdf5"))
    assert not list(tmp_path.glob("*out.hdf5*"))
    with pytest.raises(DatasetError, match="exists already"):
        export(ExportConfig(dataset.path, file))


def test_the_command_line_imports_and_exports(tmp_path: Path, file: Path) -> None:
    dataset, out = str(tmp_path / "dataset"), str(tmp_path / "out.hdf5")
    assert data_main(["import", "robomimic", str(file), dataset, "--task", "lift_cube"]) == 0
    assert open_dataset(dataset).task == "lift_cube"
    assert data_main(["export", "robomimic", dataset, out]) == 0
    assert_identical(content(file)[0], content(Path(out))[0])


def change(key: str, value: Any, **options: Any) -> Callable[[h5py.File], None]:
    """Put another array, link or nothing in the place of one."""

    def apply(file: h5py.File) -> None:
        if key in file:
            del file[key]
        if isinstance(value, (h5py.SoftLink, h5py.ExternalLink)):
            file[key] = value
        elif value is not None:
            file.create_dataset(key, data=value, **options)

    return apply


def claim(key: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file[key].attrs.__setitem__(name, value)


def empty(key: str, shape: tuple[int, ...], **options: Any) -> Callable[[h5py.File], None]:
    """Claim an array of which nothing is there."""

    def apply(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, shape, "f8", **options)

    return apply


def deflated_zeros(size_mib: int) -> bytes:
    """Pack zeros without ever holding them, so that the memory of who unpacks them can be seen."""
    deflater = zlib.compressobj(9)
    return b"".join(deflater.compress(bytes(1 << 20)) for _ in range(size_mib)) + deflater.flush()


def bomb(file: h5py.File) -> None:
    del file["data/demo_1/states"]
    out = file.create_dataset("data/demo_1/states", (9, 32), "f8", chunks=(9, 32), compression="gzip")
    out.id.write_direct_chunk((0, 0), deflated_zeros(300))


def virtual(file: h5py.File) -> None:
    del file["data/demo_1/states"]
    layout = h5py.VirtualLayout((9, 32), "f8")
    layout[:] = h5py.VirtualSource("/etc/other.hdf5", "x", (9, 32))
    file.create_virtual_dataset("data/demo_1/states", layout)


def endless(file: h5py.File) -> None:
    file["data/demo_1/obs/self"] = file["data/demo_1/obs"]


def rename(old: str, new: str) -> Callable[[h5py.File], None]:
    return lambda file: file.move(old, new)


DEMO = "data/demo_1"
NAN = np.full((9, 7), np.nan)
EXTERNAL = [("/etc/passwd", 0, 9 * 32 * 8)]
BAD = {
    "external link": (change(f"{DEMO}/states", h5py.ExternalLink("o.hdf5", "/x")), r"demo_1/states: is a ExternalLink"),
    "soft link": (change(f"{DEMO}/states", h5py.SoftLink("/data/demo_0/states")), r"demo_1/states: is a SoftLink"),
    "link for a demo": (change(DEMO, h5py.ExternalLink("o.hdf5", "/x")), r"data/demo_1: is a ExternalLink"),
    "link for data": (change("data", h5py.ExternalLink("o.hdf5", "/x")), r"in.hdf5/data: is a ExternalLink"),
    "external storage": (empty(f"{DEMO}/states", (9, 32), external=EXTERNAL), r"states: its values lie in other files"),
    "virtual": (virtual, r"demo_1/states: its values lie in other files"),
    "object dtype": (change(f"{DEMO}/states", ["text"] * 9), r"demo_1/states: dtype object is not allowed"),
    "compound dtype": (change(f"{DEMO}/states", np.zeros(9, "i4,f4")), r"demo_1/states: dtype .* is not allowed"),
    "complex dtype": (change(f"{DEMO}/states", np.zeros(9, "c8")), r"demo_1/states: dtype complex64 is not allowed"),
    "huge shape": (empty(f"{DEMO}/states", (1 << 40, 32), chunks=(1, 32)), r"demo_1/states: shape .* would need"),
    "nothing there": (empty(f"{DEMO}/states", (1 << 30, 32), chunks=(1 << 10, 32)), r"states: 0 of 1048576 chunks"),
    "not written": (empty(f"{DEMO}/states", (9, 32)), r"states: 2304 bytes are claimed, 0 are there"),
    "huge chunks": (empty(f"{DEMO}/states", (1 << 25, 32), chunks=(1 << 20, 32)), r"states: chunks .* at most"),
    "bomb": (bomb, r"states: chunk at \(0, 0\) inflates to more than its 2304 bytes"),
    "scale-offset filter": (
        change(f"{DEMO}/states", np.ones((9, 32), "i4"), scaleoffset=True), r"states: filter 6 .* is not allowed",
    ),
    "group within itself": (endless, r"groups are nested more than 8 deep"),
    "other dimensions": (
        change(f"{DEMO}/states", np.zeros((9, 33))), r"demo_1/states: is float64 \(33,\), in the first .*\(32,\)",
    ),
    "array missing": (change(f"{DEMO}/states", None), r"demo_1/states: is nothing, in the first demonstration float64"),
    "other length": (change(f"{DEMO}/states", np.zeros((8, 32))), r"demo_1/states: has 8 rows, actions has 9"),
    "no actions": (change(f"{DEMO}/actions", None), r"demo_1: there are no actions"),
    "empty": (change(f"{DEMO}/actions", np.zeros((0, 7))), r"demo_1.*"),
    "single value": (change(f"{DEMO}/actions", 1.0), r"demo_1/actions: is a single value"),
    "NaN in actions": (change(f"{DEMO}/actions", NAN), r"demo_1/actions: action 0 is not finite"),
    "NaN in rewards": (change(f"{DEMO}/rewards", np.full(9, np.nan)), r"demo_1/rewards: reward 0 is not finite"),
    "list for env_kwargs": (claim("data", "env_args", '{"env_kwargs": [1]}'), r"data: env_kwargs is \[1\], expected a"),
    "number for robots": (
        claim("data", "env_args", '{"env_kwargs": {"robots": 5}}'), r"data: robots is 5, expected a name or a list",
    ),
    "wrong total": (claim("data", "total", 16), r"data: total is 16, the demonstrations have 15 steps"),
    "wrong num_samples": (claim(DEMO, "num_samples", 10), r"demo_1: num_samples is 10, actions has 9 rows"),
    "no JSON": (claim("data", "env_args", "{"), r"attribute 'env_args' is no JSON"),
    "JSON list": (claim("data", "env_args", "[1]"), r"attribute 'env_args' is no JSON object"),
    "claims of another robot": (claim("data", "armature", "{}"), r"attribute 'armature'"),
    "other name": (rename(DEMO, "data/take_1"), r"data/take_1: expected groups demo_0"),
    "name with zeros": (rename(DEMO, "data/demo_01"), r"data/demo_01: expected groups demo_0"),
    "something beside": (change("extra", np.zeros(3)), r"extra beside data and mask is not known"),
    "mask of strangers": (change("mask/train", np.array([b"demo_7"])), r"mask/train: 'demo_7' is no demonstration"),
    "mask of numbers": (change("mask/train", np.zeros(3)), r"mask/train: is float64 \(3,\), expected a list of names"),
    "dones that are none": (change(f"{DEMO}/dones", np.full(9, 2)), r"demo_1/dones: expected one 0 or 1 per step"),
    "next_obs of nothing": (change(f"{DEMO}/obs/object", None), r"next_obs/object: there is no such array in obs"),
    "next_obs not shifted": (
        change(f"{DEMO}/next_obs/object", np.zeros((9, 10), "f4")), r"next_obs/object: rows from 0 are not those of ob",
    ),
    "key with dots": (rename(f"{DEMO}/obs/object", f"{DEMO}/obs/.."), r"demo_1/obs: the name '..' is not allowed"),
    "no data": (change("data", None), r"there is no group 'data'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_file_and_field_and_nothing_is_left(tmp_path: Path, file: Path, name: str) -> None:
    spoil, message = BAD[name]
    with h5py.File(file, "r+") as opened:
        spoil(opened)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match=message) as caught:
        imported(file, tmp_path / "dataset")
    assert str(file) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000
    assert not list(tmp_path.glob("*dataset*"))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DatasetError, match=r"in\.hdf5: is no whole HDF5 file"):
        imported(file, tmp_path / "dataset")
    assert not list(tmp_path.glob("*dataset*"))


def test_a_packed_chunk_with_other_bytes_is_refused(tmp_path: Path) -> None:
    source = make_file(tmp_path / "in.hdf5", {"demo_0": 6}, compression="gzip")
    with h5py.File(source) as opened:
        info = opened["data/demo_0/obs/agentview_image"].id.get_chunk_info(0)
    data = bytearray(source.read_bytes())
    data[info.byte_offset + 40 : info.byte_offset + 400] = bytes(360)
    source.write_bytes(data)
    with pytest.raises(DatasetError, match=r"demo_0/(next_)?obs/agentview_image: rows from 0 cannot be read"):
        imported(source, tmp_path / "dataset")
    assert not list(tmp_path.glob("*dataset*"))
