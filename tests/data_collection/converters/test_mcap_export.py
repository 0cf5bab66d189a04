from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rosbags.highlevel import AnyReader

from armature.cli import main
from armature.errors import DatasetError
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.converters.importing import import_source
from data_collection.converters.rosbag2 import messages as ros
from data_collection.converters.rosbag2.exporter import ExportConfig, export
from data_collection.converters.rosbag2.importer import ImportConfig, open_source
from data_collection.converters.rosbag2.message_types import jazzy
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD

START_NS = 1_700_000_000_000_000_000
ARM = ArraySpec(
    "joint/position", (2,), "float32", "rad", labels=("joint1", "joint2"), low=(-1.0, -2.0), high=(1.0, 2.0)
)
HAND = ArraySpec("gripper/opening", (1,), "float32", "m", labels=("gripper",))
OBSERVED = (
    ArraySpec("camera/scene", (24, 32, 3), "uint8", "rgb8", "scene_optical"),
    ArraySpec("camera/wrist", (20, 30, 3), "uint8", "rgb8"),
    ARM, HAND,
    ArraySpec("joint/velocity", (2,), "float64", "rad/s", labels=("joint1", "joint2")),
    ArraySpec("tcp/pose", (7,), "float32", "m", "base", labels=ros.POSE_LABELS),
    ArraySpec("object/keypoints", (3, 2), "float32", "px"),
    ArraySpec("counter/2d", (1,), "int64", "1"),
)  # fmt: skip
SPEC = RobotSpec("small", ObservationSpec(OBSERVED, 20.0), ActionSpec("joint_position", (ARM, HAND), 10.0))


def record(path: Path, spec: RobotSpec = SPEC, episodes: int = 2) -> Dataset:
    dataset = create_dataset(path, spec, "lift", encodings={"camera/wrist": "jpeg"} if spec is SPEC else {})
    rng = np.random.default_rng(0)
    with dataset.writer() as writer:
        for index in range(episodes):
            labels = {"prompt": f"lift {index}", "seed": index, "success": index == 0, "outcome": "success"}
            out = writer.begin(labels)
            for place, (name, array) in enumerate(dataset.streams.items()):
                # No reward in the first episode; every stream has its own rate and length.
                if name != REWARD or index:
                    out.append(name, *samples(array, 30 + 7 * place, rng))
            out.end({})
    return dataset


def samples(array: ArraySpec, count: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    stamps_ns = START_NS + np.cumsum(rng.integers(1, 50_000_000, count))
    values = np.stack([array.sample(rng) for _ in range(count)])
    if array.dtype == "int64":
        values = rng.integers(-(2**63), 2**63 - 1, (count, *array.shape))
    if array.is_image:
        values = np.stack([cv2.GaussianBlur(image, (7, 7), 2) for image in values])
    if array.name == ACTION_REQUESTED:
        values[3] = np.nan
    return stamps_ns.astype(np.int64), np.arange(count, dtype=np.int64) + 12_345, values


def back(bags: Path, path: Path, **options: Any) -> Dataset:
    return import_source(open_source(ImportConfig(bags, path, **options)), path)


def require_equal(a: Dataset, b: Dataset) -> None:
    assert a.spec == b.spec
    assert a.task == b.task
    assert len(a.episodes) == len(b.episodes)
    for one, other in zip(a.episodes, b.episodes, strict=True):
        for name in one.streams:
            for left, right in zip(one.read(name), other.read(name), strict=True):
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_ours_to_mcap_to_ours(tmp_path: Path, compression: Any) -> None:
    dataset = record(tmp_path / "dataset")
    counted: list[tuple[int, int]] = []
    config = ExportConfig(tmp_path / "dataset", tmp_path / "bags", compression=compression)
    export(config, lambda *count: counted.append(count))
    assert counted == [(1, 2), (2, 2)]
    again = back(tmp_path / "bags", tmp_path / "again")
    require_equal(dataset, again)
    assert again.spec.fingerprint == dataset.spec.fingerprint
    kept = ("prompt", "seed", "success", "outcome")
    for one, other in zip(dataset.episodes, again.episodes, strict=True):
        assert {key: one.metadata[key] for key in kept} == {key: other.metadata[key] for key in kept}


def test_rosbags_reads_equal_stamps_and_bytes(tmp_path: Path) -> None:
    """Through rosbags alone, with the definitions that the bag carries."""
    dataset = record(tmp_path / "dataset")
    export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    episode = dataset.episodes[1]
    found: dict[str, list[Any]] = {}
    with AnyReader([tmp_path / "bags" / "episode_000001"]) as reader:
        for connection, log_ns, raw in reader.messages():
            found.setdefault(connection.topic, []).append((log_ns, reader.deserialize(raw, connection.msgtype)))
        assert reader.message_count == sum(2 * episode.length(name) for name in episode.streams)
    expected = {
        "/camera/scene/image_raw": ("camera/scene", lambda m: m.data.reshape(m.height, m.width, 3)),
        "/joint/position": ("joint/position", lambda m: m.position),
        "/joint/velocity": ("joint/velocity", lambda m: m.velocity),
        "/tcp/pose": ("tcp/pose", ros.pose_of),
        "/object/keypoints": ("object/keypoints", lambda m: m.data.reshape(3, 2)),
        "/counter/_2d": ("counter/2d", lambda m: m.data),
        "/action/executed": (ACTION_EXECUTED, lambda m: m.points[0].positions),
        "/action/requested": (ACTION_REQUESTED, lambda m: m.points[0].positions),
        "/control/takeover": ("control/takeover", lambda m: m.data),
        "/reward": (REWARD, lambda m: m.data),
    }
    for topic, (name, values) in expected.items():
        stamps_ns, received_ns, data = episode.read(name)
        np.testing.assert_array_equal([log_ns for log_ns, _ in found[topic]], stamps_ns)
        np.testing.assert_array_equal([message.data for _, message in found[f"{topic}/received_ns"]], received_ns)
        np.testing.assert_array_equal([values(message) for _, message in found[topic]], data, err_msg=topic)
        for log_ns, message in found[topic] if hasattr(found[topic][0][1], "header") else ():
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == log_ns
    joints = found["/joint/position"][0][1]
    assert (joints.name, len(joints.velocity), found["/action/executed"][0][1].joint_names) == (
        ["joint1", "joint2"], 0, ["joint1", "joint2", "gripper"],
    )  # fmt: skip
    assert found["/camera/scene/image_raw"][0][1].header.frame_id == "scene_optical"
    assert found["/action/executed"][0][1].points[0].time_from_start.nanosec == 100_000_000


def test_jpegs_keep_their_bytes(tmp_path: Path) -> None:
    dataset = record(tmp_path / "dataset", episodes=1)
    export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    (episode,) = dataset.episodes
    with AnyReader([tmp_path / "bags" / "episode_000000"]) as reader:
        (connection,) = reader.topics["/camera/wrist/image_raw/compressed"].connections
        messages = [reader.deserialize(raw, connection.msgtype) for _, _, raw in reader.messages([connection])]
    assert len(messages) == episode.length("camera/wrist")
    for row, message in enumerate(messages):
        assert message.data.tobytes() == episode.read_encoded("camera/wrist", row)
        assert message.format == "jpeg"


def test_one_episode_and_the_command_line(tmp_path: Path) -> None:
    record(tmp_path / "dataset")
    bags = tmp_path / "bags"
    assert main(["data", "export", "mcap", str(tmp_path / "dataset"), str(bags), "--episode", "1"]) == 0
    assert sorted(path.name for path in bags.iterdir()) == ["episode_000001", "mapping.yaml"]
    assert main(["data", "import", "rosbag2", str(bags), str(tmp_path / "again")]) == 0
    (episode,) = open_dataset(tmp_path / "again").episodes
    assert episode.metadata["prompt"] == "lift 1"
    with pytest.raises(DatasetError, match=r"there is no episode 7. Valid: 0, 1"):
        export(ExportConfig(tmp_path / "dataset", tmp_path / "other", episode=7))


def test_a_recorded_robot(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "dataset", robot)
    export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    require_equal(dataset, back(tmp_path / "bags", tmp_path / "again"))


def test_claims_are_those_of_ros(tmp_path: Path) -> None:
    record(tmp_path / "dataset", episodes=1)
    export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    info = yaml.safe_load((tmp_path / "bags/episode_000000/metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (info["version"], info["storage_identifier"]) == (9, "mcap")
    types = Counter(topic["topic_metadata"]["type"] for topic in info["topics_with_message_count"])
    assert types["sensor_msgs/msg/JointState"] == 3
    assert types["trajectory_msgs/msg/JointTrajectory"] == 2
    assert all(topic["topic_metadata"]["type_description_hash"] for topic in info["topics_with_message_count"])


def test_an_interrupted_export_goes_on(tmp_path: Path) -> None:
    dataset = record(tmp_path / "dataset", episodes=3)
    config = ExportConfig(tmp_path / "dataset", tmp_path / "bags")

    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(config, interrupt)
    draft = tmp_path / ".bags.exporting"
    first = (draft / "episode_000000" / "episode_000000.mcap").stat().st_mtime_ns
    # The third was begun when the computer went off.
    (draft / "episode_000002").mkdir()
    (draft / "episode_000002" / "episode_000002.mcap").write_bytes(b"half")
    export(config)
    assert not draft.exists()
    assert (tmp_path / "bags/episode_000000/episode_000000.mcap").stat().st_mtime_ns == first
    require_equal(dataset, back(tmp_path / "bags", tmp_path / "again"))


def test_a_draft_of_another_export_is_begun_anew(tmp_path: Path) -> None:
    draft = tmp_path / ".bags.exporting"
    (draft / "episode_000000").mkdir(parents=True)
    (draft / ".done").write_text("other\nepisode_000000\n")
    dataset = record(tmp_path / "dataset")
    export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    require_equal(dataset, back(tmp_path / "bags", tmp_path / "again"))


def one_stream(path: Path, array: ArraySpec, stamp_ns: int) -> None:
    spec = RobotSpec("small", ObservationSpec((array,), 20.0), ActionSpec("joint_position", (ARM,), 20.0))
    dataset = create_dataset(path, spec, "lift")
    with dataset.writer() as writer:
        out = writer.begin({})
        stamps_ns = np.array([stamp_ns], np.int64)
        out.append(array.name, stamps_ns, stamps_ns, np.zeros((1, *array.shape), array.dtype))
        out.end({})


@pytest.mark.parametrize(
    ("array", "stamp_ns", "match"),
    [
        (HAND, 2**62, "episode 0, stream gripper/opening: stamp 4611686018427387904 ns does not fit a ROS time"),
        (ArraySpec("x", (1,), "longdouble", "1"), 1, "stream x: no ROS message holds longdouble. Valid: float16"),
    ],
)
def test_what_ros_cannot_hold(tmp_path: Path, array: ArraySpec, stamp_ns: int, match: str) -> None:
    one_stream(tmp_path / "dataset", array, stamp_ns)
    with pytest.raises(DatasetError, match=match):
        export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


def test_streams_that_would_share_a_topic(tmp_path: Path) -> None:
    streams = tuple(ArraySpec(name, (1,), "float32", "1") for name in ("a/1", "a/_1"))
    spec = RobotSpec("small", ObservationSpec(streams, 20.0), ActionSpec("joint_position", (ARM,), 20.0))
    record(tmp_path / "dataset", spec)
    with pytest.raises(DatasetError, match="two streams would share the topic /a/_1"):
        export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))


def test_refusals(tmp_path: Path) -> None:
    create_dataset(tmp_path / "dataset", SPEC, "lift")
    with pytest.raises(DatasetError, match="has no episodes to export"):
        export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    (tmp_path / "bags").mkdir()
    with pytest.raises(DatasetError, match="bags: exists already"):
        export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    with pytest.raises(DatasetError, match="no dataset here"):
        export(ExportConfig(tmp_path / "nothing", tmp_path / "other"))
    assert not (tmp_path / ".other.exporting").exists()


def test_a_damaged_dataset_leaves_no_bags(tmp_path: Path) -> None:
    record(tmp_path / "dataset")
    chunk = next((tmp_path / "dataset/episodes/000001/joint/position/data").glob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(DatasetError, match="episode 1, stream joint/position: damaged"):
        export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


def test_receive_times_that_do_not_fit(tmp_path: Path) -> None:
    record(tmp_path / "dataset", episodes=1)
    export(ExportConfig(tmp_path / "dataset", tmp_path / "bags"))
    path = tmp_path / "bags" / "mapping.yaml"
    path.write_text(path.read_text().replace("received: /tcp/pose/", "received: /joint/position/"))
    with pytest.raises(DatasetError, match=r"topic /joint/position/received_ns: 44 receive times for 65 messages of"):
        back(tmp_path / "bags", tmp_path / "again")


# Messages there and back


def there_and_back(message: Any) -> Any:
    kind = message.__msgtype__
    return jazzy().deserialize_cdr(jazzy().serialize_cdr(message, kind), kind)


STAMPS = st.integers(0, ros.STAMP_NS_MAX)
FLOATS = arrays.arrays(np.float64, 7, elements=st.floats(allow_subnormal=True))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=FLOATS, stamp_ns=STAMPS, order=st.permutations(range(7)))
def test_vectors_survive(values: Any, stamp_ns: int, order: list[int]) -> None:
    labels = [f"joint{k}" for k in range(7)]
    for field in ros.JOINT_FIELDS:
        message = there_and_back(ros.joint_message(values, field, labels, stamp_ns, "base"))
        found = ros.joints_of(message, field, [labels[k] for k in order])
        np.testing.assert_array_equal(found, values[order])
    target = there_and_back(ros.target_message(values, labels, stamp_ns, 50_000_000))
    np.testing.assert_array_equal(ros.target_of(target, labels), values)
    np.testing.assert_array_equal(ros.pose_of(there_and_back(ros.pose_message(values, stamp_ns, "base"))), values)
    raw = jazzy().serialize_cdr(target, ros.JOINT_TRAJECTORY)
    assert ros.stamp_ns_of(bytes(raw)) == stamp_ns


@settings(deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(ros.MULTI_ARRAYS)))
def test_arrays_survive(data: Any, dtype: str) -> None:
    values = data.draw(arrays.arrays(dtype, (3, 2)))
    found = ros.exactly(ros.field_of(there_and_back(ros.array_message(values, dtype)), ["data"]), (3, 2), dtype)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@settings(deadline=None)
@given(pixels=arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))), stamp_ns=STAMPS)
def test_images_survive(pixels: Any, stamp_ns: int) -> None:
    np.testing.assert_array_equal(ros.pixels_of(there_and_back(ros.image_message(pixels, stamp_ns, ""))), pixels)
