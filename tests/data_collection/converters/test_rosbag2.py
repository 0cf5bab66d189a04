from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.reader import zstd
from rosbags.typesys import Stores, get_typestore

from armature.cli import main
from armature.errors import ConfigError, DatasetError
from data_collection.converters.importing import import_source
from data_collection.converters.rosbag2 import messages as ros
from data_collection.converters.rosbag2.importer import EXAMPLE, ImportConfig, open_source
from data_collection.converters.rosbag2.mapping import load_mapping
from data_collection.converters.rosbag2.message_types import Decoder
from data_collection.converters.rosbag2.reader import describe_bag, find_bags, open_bag, read_messages

STORE = get_typestore(Stores.ROS2_JAZZY)
START_NS = 1_700_000_000_000_000_000
STEP_NS = 50_000_000
ROWS = 12

SAMPLES = {
    "mcap/convert_a": 150, "mcap/convert_b": 75, "mcap/talker": 20, "mcap/wbag": 6074,
    "mcap/reindex_test_bags/multiple_files": 3177,
    "sqlite3/convert_a": 150, "sqlite3/convert_b": 75, "sqlite3/talker": 20, "sqlite3/wbag": 6074,
    "sqlite3/reindex_test_bags/multiple_files": 3177,
}  # fmt: skip
STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
MAPPING: dict[str, Any] = {
    "robot": "small",
    "task": "lift",
    "rate_hz": 20,
    "streams": {
        "camera/scene": {"topic": "/camera"},
        "joint/position": {"topic": "/joint_states", "labels": ["a", "b"], "unit": "rad", "dtype": "float32"},
    },
    "action": {
        "topic": "/command", "kind": "joint_position",
        "parts": {"joint/position": {"labels": ["a", "b"], "unit": "rad"}},
    },
}  # fmt: skip


def stamp(row: int) -> int:
    return START_NS + row * STEP_NS


def write_bag(
    path: Path, topics: dict[str, list[Any]], storage: str = "mcap", compression: CompressionMode | None = None
) -> Path:
    """Write messages of (log time, message); their types are in their class."""
    writer = Writer(path, version=9, storage_plugin=STORAGES[storage])
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, messages in topics.items():
            kind = messages[0][1].__msgtype__
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for log_ns, message in messages:
                writer.write(connection, log_ns, STORE.serialize_cdr(message, kind))
    return path


def pixels(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 255, (4, 6, 3), np.uint8)


def robot_topics() -> dict[str, list[Any]]:
    """What a small robot says in `ROWS` ticks; every message is received 1 ms after its stamp."""
    rows = range(ROWS)
    joints = [
        ros.joint_message(np.array([k, k + 0.5, -k]), "position", ["b", "a", "other"], stamp(k), "") for k in rows
    ]
    targets = [ros.target_message(np.array([k, 2.0 * k]), ["a", "b"], stamp(k), STEP_NS) for k in rows]
    return {
        "/camera": [(stamp(k) + 1_000_000, ros.image_message(pixels(k), stamp(k), "cam")) for k in rows],
        "/joint_states": [(stamp(k) + 1_000_000, message) for k, message in enumerate(joints)],
        "/command": [(stamp(k) + 1_000_000, message) for k, message in enumerate(targets)],
    }  # fmt: skip


def write_mapping(folder: Path, mapping: dict[str, Any]) -> Path:
    path = folder / "map.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def import_bag(bag: Path, folder: Path, mapping: dict[str, Any] = MAPPING, **options: Any) -> Any:
    config = ImportConfig(bag, folder / "dataset", write_mapping(folder, mapping), **options)
    return import_source(open_source(config), config.dataset)


def with_stream(name: str, stream: dict[str, Any]) -> dict[str, Any]:
    return {**MAPPING, "streams": {**MAPPING["streams"], name: stream}}


def refused(folder: Path, bag: Path, match: str, mapping: dict[str, Any] = MAPPING) -> None:
    """The import names the fault, leaves nothing behind and takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=match) as raised:
            import_bag(bag, folder, mapping)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value)
    assert not (folder / "dataset").exists()
    assert not (folder / ".dataset.importing").exists()


# The sample bags of rosbag2


@pytest.mark.parametrize("name", SAMPLES)
def test_every_message_of_the_samples_is_read(shared_data: Path, name: str) -> None:
    bag = open_bag(shared_data / "rosbag2_samples" / name)
    counts = Counter(message.topic for message in read_messages(bag))
    assert counts.total() == SAMPLES[name]
    claims = shared_data / "rosbag2_samples" / name / "metadata.yaml"
    if claims.exists():
        info = yaml.safe_load(claims.read_text())["rosbag2_bagfile_information"]
        claimed = {t["topic_metadata"]["name"]: t["message_count"] for t in info["topics_with_message_count"]}
        assert {name: counts[name] for name in claimed} == claimed


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith("mcap")])
def test_samples_decode_alike_from_mcap_and_sqlite3(shared_data: Path, name: str) -> None:
    """The sqlite3 bags lack the definitions of test_msgs, and one has a shortened one of rcl_interfaces/Log."""
    folder = shared_data / "rosbag2_samples"
    bags = [open_bag(folder / kind) for kind in (name, name.replace("mcap", "sqlite3"))]
    texts = {topic.type: topic.definition.data for topic in bags[0].topics.values()}
    assert decoded(bags[0], {}) == decoded(bags[1], texts if "convert" in name else {})


def decoded(bag: Any, texts: dict[str, str]) -> dict[str, list[Any]]:
    decoders = {topic.name: Decoder(topic.type, topic.definition, texts) for topic in bag.topics.values()}
    found: dict[str, list[Any]] = {name: [] for name in bag.topics}
    for message in read_messages(bag):
        found[message.topic].append((message.log_ns, str(decoders[message.topic](message.data))))
    # Messages of the same time have no order between the storages.
    return {name: sorted(messages) for name, messages in found.items()}


def test_folders_of_bags_and_pieces_are_found(shared_data: Path, tmp_path: Path) -> None:
    samples = shared_data / "rosbag2_samples" / "mcap"
    assert [path.name for path in find_bags(samples)] == ["convert_a", "convert_b", "talker", "wbag"]
    assert [path.name for path in find_bags(samples / "reindex_test_bags")] == ["multiple_files"]
    assert len(find_bags(samples / "reindex_test_bags" / "multiple_files")) == 1
    assert len(find_bags(samples / "reindex_test_bags" / "multiple_files", each_file=True)) == 3
    for number in (1, 2, 10):
        shutil.copytree(samples / "talker", tmp_path / f"take_{number}")
    assert [path.name for path in find_bags(tmp_path)] == ["take_1", "take_2", "take_10"]


@pytest.mark.parametrize("kind", ["mcap", "sqlite3"])
def test_basic_types_become_streams(shared_data: Path, tmp_path: Path, kind: str) -> None:
    samples = shared_data / "rosbag2_samples"
    fields = ["float64_value", "uint8_value"]
    mapping = {
        "robot": "none", "task": "count", "rate_hz": 1000,
        "streams": {
            "value/float": {"topic": "b_basictypes", "field": "float64_value"},
            "value/byte": {"topic": "b_basictypes", "field": "uint8_value", "dtype": "uint8"},
        },
        "action": {"topic": "b_basictypes", "kind": "controller_input", "field": fields,
                   "parts": {"both": {"labels": ["float", "byte"], "unit": "1"}}},
    }  # fmt: skip
    if kind == "sqlite3":
        with pytest.raises(DatasetError, match="test_msgs/msg/BasicTypes is not defined in the bag"):
            import_bag(samples / kind / "convert_a", tmp_path, mapping)
        topic = open_bag(samples / "mcap/convert_a").topics["b_basictypes"]
        mapping["definitions"] = {topic.type: topic.definition.data}
    dataset = import_bag(samples / kind / "convert_a", tmp_path, mapping)
    (episode,) = dataset.episodes
    stamps_ns, received_ns, values = episode.read("value/float")
    raw = list(read_messages(open_bag(samples / kind / "convert_a"), {"b_basictypes"}))
    # CDR, little endian: bool, byte, char, float32 at 4, float64 at 8, int8 at 16, uint8 at 17.
    np.testing.assert_array_equal(values[:, 0], [struct.unpack_from("<d", m.data, 12)[0] for m in raw])
    np.testing.assert_array_equal(episode.read("value/byte")[2][:, 0], [m.data[4 + 17] for m in raw])
    np.testing.assert_array_equal(stamps_ns, [m.log_ns for m in raw])
    np.testing.assert_array_equal(received_ns, stamps_ns)
    assert episode.steps == 50
    assert values.dtype == np.float64
    assert dataset.attributes["source"]["streams"]["value/byte"] == {
        "topic": "b_basictypes", "type": "test_msgs/msg/BasicTypes", "clock": "log",
    }  # fmt: skip


# What a robot's bag becomes


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        *((storage, mode) for storage in STORAGES for mode in (None, CompressionMode.FILE, CompressionMode.MESSAGE)),
        ("mcap", CompressionMode.STORAGE),
    ],
)
def test_a_robots_bag(tmp_path: Path, storage: str, compression: CompressionMode | None) -> None:
    bag = write_bag(tmp_path / "take_7", robot_topics(), storage, compression)
    dataset = import_bag(bag, tmp_path, {**MAPPING, "prompt": "lift it"})
    (episode,) = dataset.episodes
    stamps_ns, received_ns, images = episode.read("camera/scene")
    np.testing.assert_array_equal(stamps_ns, [stamp(k) for k in range(ROWS)])
    np.testing.assert_array_equal(received_ns - stamps_ns, 1_000_000)
    np.testing.assert_array_equal(images, [pixels(k) for k in range(ROWS)])
    np.testing.assert_array_equal(episode.read("joint/position")[2], [[k + 0.5, k] for k in range(ROWS)])
    np.testing.assert_array_equal(episode.read("action/executed")[2], [[k, 2 * k] for k in range(ROWS)])
    assert dataset.spec.observation["joint/position"].dtype == "float32"
    assert (episode.metadata["source_episode"], episode.metadata["prompt"]) == ("take_7", "lift it")
    assert episode.length("reward") == 0


def test_a_single_file_and_a_folder_of_bags(tmp_path: Path) -> None:
    for number in (2, 10):
        write_bag(tmp_path / "bags" / f"take_{number}", robot_topics())
    dataset = import_bag(tmp_path / "bags", tmp_path)
    assert [episode.metadata["source_episode"] for episode in dataset.episodes] == ["take_2", "take_10"]
    single = tmp_path / "single"
    single.mkdir()
    dataset = import_bag(tmp_path / "bags" / "take_2" / "take_2.mcap", single)
    assert [episode.steps for episode in dataset.episodes] == [ROWS]


def test_the_command_line_lists_topics_where_the_mapping_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics())
    assert main(["data", "import", "rosbag2", str(bag), str(tmp_path / "dataset")]) == 2
    told = capsys.readouterr().err
    assert "sensor_msgs/msg/JointState" in told
    assert "needs --mapping" in " ".join(told.split())
    mapping = write_mapping(tmp_path, MAPPING)
    assert main(["data", "import", "rosbag2", str(bag), str(tmp_path / "dataset"), "--mapping", str(mapping)]) == 0
    assert (tmp_path / "dataset").is_dir()


def test_a_bag_is_described(shared_data: Path) -> None:
    table = describe_bag(shared_data / "rosbag2_samples" / "mcap" / "talker")
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["/parameter_events", "/rosout", "/topic"]
    assert cells[2] == ["0", "10", "10"]
    assert "20 messages in 4.531 s" in str(table.title)


def with_padding(message: Any) -> Any:
    rows = np.zeros((message.height, message.step + 5), np.uint8)
    rows[:, : message.step] = message.data.reshape(message.height, -1)
    message.step += 5
    message.data = rows.reshape(-1)
    return message


def as_bgr(message: Any) -> Any:
    message.encoding = "bgr8"
    message.data = message.data.reshape(-1, 3)[:, ::-1].reshape(-1).copy()
    return message


@pytest.mark.parametrize("change", [with_padding, as_bgr])
def test_image_layouts(tmp_path: Path, change: Any) -> None:
    topics = robot_topics()
    topics["/camera"] = [(log_ns, change(message)) for log_ns, message in topics["/camera"]]
    (episode,) = import_bag(write_bag(tmp_path / "bag", topics), tmp_path).episodes
    np.testing.assert_array_equal(episode.read("camera/scene")[2], [pixels(k) for k in range(ROWS)])


def test_grey_images_get_three_channels(tmp_path: Path) -> None:
    topics = robot_topics()
    for _, message in topics["/camera"]:
        message.encoding, message.step = "mono8", 6
        message.data = message.data[: 4 * 6]
    (episode,) = import_bag(write_bag(tmp_path / "bag", topics), tmp_path).episodes
    images = episode.read("camera/scene")[2]
    assert images.shape == (ROWS, 4, 6, 3)
    np.testing.assert_array_equal(images[3, ..., 0], pixels(3).reshape(-1)[:24].reshape(4, 6))
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_compressed_images(tmp_path: Path, ending: str) -> None:
    topics = robot_topics()
    files = [cv2.imencode(ending, pixels(k)[..., ::-1])[1].tobytes() for k in range(ROWS)]
    topics["/camera"] = [(stamp(k), ros.compressed_message(file, stamp(k), "")) for k, file in enumerate(files)]
    (episode,) = import_bag(write_bag(tmp_path / "bag", topics), tmp_path).episodes
    expected = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for file in files]
    np.testing.assert_array_equal(episode.read("camera/scene")[2], expected)


def test_other_types_by_field_paths_and_clocks(tmp_path: Path) -> None:
    topics = robot_topics()
    pose = np.arange(7.0)
    topics["/pose"] = [(stamp(k), ros.pose_message(pose + k, stamp(k) - 7, "base")) for k in range(ROWS)]
    topics["/keys"] = [
        (stamp(k), ros.array_message(np.arange(6, dtype=np.float64) + k, "float64")) for k in range(ROWS)
    ]
    streams = {
        **MAPPING["streams"],
        "tcp/pose": {"topic": "/pose", "dtype": "float32"},
        "tcp/height": {"topic": "/pose", "field": ["pose.position.z", "pose.position.x"], "clock": "log"},
        "object/keypoints": {"topic": "/keys", "shape": [3, 2]},
    }
    dataset = import_bag(write_bag(tmp_path / "bag", topics), tmp_path, {**MAPPING, "streams": streams})
    (episode,) = dataset.episodes
    np.testing.assert_array_equal(episode.read("tcp/pose")[2], [pose + k for k in range(ROWS)])
    np.testing.assert_array_equal(episode.read("tcp/height")[2], [[2 + k, k] for k in range(ROWS)])
    np.testing.assert_array_equal(episode.read("object/keypoints")[2][1], [[1, 2], [3, 4], [5, 6]])
    assert episode.read_stamps("tcp/pose")[0][0] == stamp(0) - 7
    assert episode.read_stamps("tcp/height")[0][0] == stamp(0)
    clocks = {name: stream["clock"] for name, stream in dataset.attributes["source"]["streams"].items()}
    assert (clocks["tcp/pose"], clocks["tcp/height"], clocks["object/keypoints"]) == ("header", "log", "log")
    assert dataset.spec.observation["tcp/pose"].labels == ros.POSE_LABELS


def test_messages_with_a_tail(tmp_path: Path) -> None:
    """What rclpy serialises and rosbag2_py writes ends in reserved, arbitrary bytes; ROS passes over them."""
    bag = write_bag(tmp_path / "bag", robot_topics(), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        tail = bytes.fromhex("404fd433937f000060000000")
        rows = database.execute("SELECT id, data FROM messages WHERE topic_id = 3").fetchall()
        database.executemany("UPDATE messages SET data = ? WHERE id = ?", [(data + tail, row) for row, data in rows])
    database.close()
    (episode,) = import_bag(bag, tmp_path).episodes
    np.testing.assert_array_equal(episode.read("action/executed")[2], [[k, 2 * k] for k in range(ROWS)])


def test_repeated_stamps_are_dropped_and_counted(tmp_path: Path) -> None:
    topics = robot_topics()
    for topic in ("/joint_states", "/command"):
        topics[topic].insert(4, topics[topic][3])
    (episode,) = import_bag(write_bag(tmp_path / "bag", topics), tmp_path).episodes
    assert episode.steps == ROWS
    assert episode.metadata["import_counts"]["joint/position"] == {"kept": ROWS, "repeated": 1, "out_of_order": 0}


def test_stamps_that_go_back_are_refused_or_left_out(tmp_path: Path) -> None:
    topics = robot_topics()
    topics["/joint_states"][5][1].header.stamp.sec -= 3600
    bag = write_bag(tmp_path / "bag", topics)
    refused(tmp_path, bag, r"bag\.mcap: /joint_states: message 5: the stamp goes back from \d+ to \d+ ns")
    joints = {**MAPPING["streams"]["joint/position"], "out_of_order": "drop"}
    (episode,) = import_bag(bag, tmp_path, with_stream("joint/position", joints)).episodes
    counts = {"kept": ROWS - 1, "repeated": 0, "out_of_order": 1}
    assert episode.metadata["import_counts"]["joint/position"] == counts


def test_an_interrupted_import_goes_on(tmp_path: Path) -> None:
    for number in range(3):
        write_bag(tmp_path / "bags" / f"take_{number}", robot_topics())
    config = ImportConfig(tmp_path / "bags", tmp_path / "dataset", write_mapping(tmp_path, MAPPING))

    def interrupt(count: int) -> None:
        if count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_source(open_source(config), config.dataset, interrupt)
    dataset = import_source(open_source(config), config.dataset)
    assert [episode.metadata["source_episode"] for episode in dataset.episodes] == ["take_0", "take_1", "take_2"]


# Mappings


def test_the_example_is_a_valid_mapping() -> None:
    mapping = load_mapping(EXAMPLE)
    assert mapping.streams["tcp/force"].field == ("wrench.force.x", "wrench.force.y", "wrench.force.z")


@pytest.mark.parametrize(
    ("mapping", "match"),
    [
        ({**MAPPING, "rate": 3}, r"unknown key of BagMapping 'rate'. Did you mean 'rate_hz'"),
        (with_stream("x", {"topic": "/camera", "unitt": "m"}), r"unknown key of streams.x \(StreamMapping\) 'unitt'"),
        ({**MAPPING, "rate_hz": -1}, "rate_hz must be above 0"),
        ({**MAPPING, "action": {**MAPPING["action"], "rate_hz": 0}}, "action.rate_hz must be above 0, is 0"),
        ({**MAPPING, "rate_hz": "fast"}, "rate_hz: expected float"),
        (with_stream("x", {"topic": "/camera", "dtype": "object"}), "dtype object is not allowed"),
        (with_stream("x", {"topic": "/camera", "shape": [1 << 40, 1 << 10], "dtype": "uint8"}), "would need"),
        (with_stream("x", {"topic": "/joint_states", "labels": ["a"], "low": [0.0, 1.0]}), "stream x: 2 low for 1"),
        (with_stream("../x", {"topic": "/camera"}), r"stream name '../x'"),
        (with_stream("x", {"topic": "/cam"}), r"no topic '/cam'. Valid: /camera \(sensor_msgs/msg/Image\), /joint"),
        (with_stream("x", {"topic": "/joint_states"}), "message 0: 'labels' must say which joints are meant. It has"),
        (with_stream("x", {"topic": "/camera", "field": "size"}), "field 'size' of an image"),
        (with_stream("x", {"topic": "/command", "field": "header.frame_id"}), "field header.frame_id holds no numbers"),
        (with_stream("action/executed", {"topic": "/command"}), "stream action/executed is what 'action' tells"),
    ],
)  # fmt: skip
def test_wrong_mappings(tmp_path: Path, mapping: dict[str, Any], match: str) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics())
    with pytest.raises((ConfigError, DatasetError), match=match):
        import_bag(bag, tmp_path, mapping)
    assert not (tmp_path / "dataset").exists()


# Bad bags


def change_metadata(bag: Path, **fields: Any) -> None:
    path = bag / "metadata.yaml"
    data = yaml.safe_load(path.read_text())
    data["rosbag2_bagfile_information"].update(fields)
    path.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"message_count": 5}, "message_count is 5, its topics add up to 36"),
        ({"message_count": "many"}, "message_count is 'many', expected int"),
        ({"version": 10}, "version 10 is not known"),
        ({"storage_identifier": "leveldb"}, "unknown storage 'leveldb'. Valid: mcap, sqlite3"),
        ({"compression_mode": "file", "compression_format": "rar"}, "unknown compression 'rar'. Valid: zstd"),
        ({"compression_mode": "twice"}, "unknown mode 'twice'"),
        ({"relative_file_paths": ["../other/bag.mcap"]}, "'../other/bag.mcap': absolute paths and '..' are not"),
        ({"relative_file_paths": ["/etc/passwd"]}, "'/etc/passwd': absolute paths"),
        ({"relative_file_paths": ["gone.mcap"]}, "gone.mcap: is named in metadata.yaml but missing"),
        ({"relative_file_paths": [3]}, "relative_file_paths holds 3"),
        ({"topics_with_message_count": [{"message_count": 36}]}, "topic_metadata is None"),
        ({"custom_data": {"armature_episode": "{"}}, "armature_episode is no JSON"),
        ({"custom_data": {"armature_episode": '{"success": 7}'}}, "success is 7"),
        ({"custom_data": {"armature_episode": '{"outcome": "fine"}'}}, "outcome is 'fine'. Valid: 'success'"),
        ({"custom_data": {"x": [[["deep"]]]}}, "custom_data is"),
    ],
)  # fmt: skip
def test_bad_metadata(tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics())
    change_metadata(bag, **fields)
    refused(tmp_path, bag, match)


def test_metadata_that_counts_otherwise(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics())
    info = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    info["topics_with_message_count"][0]["message_count"] += 1
    change_metadata(bag, **{**info, "message_count": 3 * ROWS + 1})
    refused(tmp_path, bag, "topic /camera: message_count is 13, the files hold 12")


def test_metadata_of_nested_aliases_takes_no_memory(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics())
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    (bag / "metadata.yaml").write_text("\n".join([*lines, "rosbag2_bagfile_information: {version: *a11}"]))
    refused(tmp_path, bag, "version is .*expected int")


def test_a_link_out_of_the_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics())
    (bag / "bag.mcap").rename(tmp_path / "elsewhere.mcap")
    (bag / "bag.mcap").symlink_to(tmp_path / "elsewhere.mcap")
    refused(tmp_path, bag, "bag.mcap: leads out of the bag")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("has_metadata", [True, False])
def test_cut_files(tmp_path: Path, storage: str, share: float, has_metadata: bool) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), storage)
    (file,) = (path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
    os.truncate(file, int(file.stat().st_size * share))
    if not has_metadata:
        (bag / "metadata.yaml").unlink()
    refused(tmp_path, bag, file.name)


def test_sqlite3_with_messages_still_in_its_log(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), "sqlite3")
    (bag / "bag.db3-wal").write_bytes(b"messages")
    refused(tmp_path, bag, "bag.db3-wal: holds messages that are not in the bag yet")


def test_sqlite3_message_without_end(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = zeroblob(900000000) WHERE id = 3")
    database.close()
    refused(tmp_path, bag, "bag.db3: cannot be read")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("timestamp = -5", "/camera: message 0: log time -5"),
        ("timestamp = 'noon'", "bag.db3: "),
        ("data = 'text'", "/camera: message 2: log time .*, str"),
    ],
)
def test_sqlite3_values_of_other_kinds(tmp_path: Path, change: str, match: str) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute(f"UPDATE messages SET {change} WHERE id = 3")
    database.close()
    refused(tmp_path, bag, match)


def patched(file: Path, place: int, data: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[place : place + len(data)] = data
    file.write_bytes(content)


def chunk_place(file: Path) -> int:
    """Find the first chunk: it follows the header."""
    content = file.read_bytes()
    return 8 + 9 + struct.unpack_from("<Q", content, 9)[0]


@pytest.mark.parametrize(
    ("offset", "data", "match"),
    [
        (1, struct.pack("<Q", 1 << 40), "the record at byte .* claims 1099511627776 bytes"),
        (9 + 16, struct.pack("<Q", 1 << 40), "that unpack to 1099511627776, at most"),
        (9 + 16, struct.pack("<Q", 77), "unpack to 77 bytes, it gives more"),
        (9 + 32, b"quux", "unknown compression 'quux'. Valid: \\(none\\), lz4, zstd"),
        (9 + 60, b"damage", "cannot be unpacked|it gives|claims 12 messages, 0 were read"),
    ],
)
def test_bad_chunks(tmp_path: Path, offset: int, data: bytes, match: str) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), compression=CompressionMode.STORAGE)
    patched(bag / "bag.mcap", chunk_place(bag / "bag.mcap") + offset, data)
    refused(tmp_path, bag, match)


def test_a_chunk_that_unpacks_without_end(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), compression=CompressionMode.STORAGE)
    packed = zstd.compress(bytes(500_000_000))
    record = struct.pack("<QQQII", 0, 2**62, 1000, 0, 4) + b"zstd" + struct.pack("<Q", len(packed)) + packed
    content = (bag / "bag.mcap").read_bytes()
    place = chunk_place(bag / "bag.mcap")
    bomb = struct.pack("<BQ", 6, len(record)) + record
    (bag / "bag.mcap").write_bytes(content[:place] + bomb + content[place:])
    refused(tmp_path, bag, "claims to unpack to 1000 bytes, it gives more")


def test_a_message_that_unpacks_without_end(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), "sqlite3", CompressionMode.MESSAGE)
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = ? WHERE id = 3", (zstd.compress(bytes(500_000_000)),))
    database.close()
    refused(tmp_path, bag, "bag.db3: cannot be read|a compressed message is cut, or larger than")


def test_definitions_never_run(tmp_path: Path) -> None:
    """rosbags executes Python made of definitions: names from a bag must not become code."""
    marker = tmp_path / "ran"
    code = f"a/msg/B:\n    pass\nopen({str(marker)!r}, 'w')\nclass C"
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connection = writer.add_connection("/camera", code, msgdef="float64 data\n", rihs01="RIHS01_" + "0" * 64)
        writer.write(connection, stamp(0), b"\0\1\0\0" + bytes(8))
    bag = open_bag(tmp_path / "bag")
    with pytest.raises(DatasetError, match="is no ROS name"):
        Decoder(bag.topics["/camera"].type, bag.topics["/camera"].definition, {})
    idl = f"module a {{ module msg {{ struct B {{ double x; }}; }}; }};\nopen({str(marker)!r}, 'w')"
    for text in ("float64 x\nb/C'); open('ran', 'w') y", idl, "float64 __class__"):
        for form in (MessageDefinitionFormat.MSG, MessageDefinitionFormat.IDL):
            with pytest.raises(DatasetError):
                Decoder("a/msg/B", MessageDefinition(form, text), {})
    constant = MessageDefinition(MessageDefinitionFormat.MSG, f"uint8 A=open({str(marker)!r}, 'w')\nfloat64 x")
    assert Decoder("a/msg/B", constant, {})(b"\0\1\0\0" + struct.pack("<d", 2.5)).x == 2.5
    assert not marker.exists()
    assert not Path("ran").exists()


def break_image(**fields: Any) -> Any:
    def change(topics: dict[str, list[Any]]) -> None:
        for name, value in fields.items():
            setattr(topics["/camera"][7][1], name, value)

    return change


def break_joints(**fields: Any) -> Any:
    def change(topics: dict[str, list[Any]]) -> None:
        for name, value in fields.items():
            setattr(topics["/joint_states"][7][1], name, value)

    return change


def nan_action(topics: dict[str, list[Any]]) -> None:
    topics["/command"][7][1].points[0].positions[1] = np.nan


def no_points(topics: dict[str, list[Any]]) -> None:
    topics["/command"][7][1].points = []


def zero_stamps(topics: dict[str, list[Any]]) -> None:
    for _, message in topics["/camera"]:
        message.header.stamp.sec = message.header.stamp.nanosec = 0


def impossible_stamp(topics: dict[str, list[Any]]) -> None:
    topics["/camera"][7][1].header.stamp.nanosec = 4_000_000_000


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (break_image(height=5), r"bag.mcap: /camera: message 7: rgb8 image of 6x5, step 18, holds 72 bytes"),
        (break_image(height=2**32 - 1, width=2**32 - 1), "/camera: message 7: rgb8 image of 4294967295x4294967295"),
        (break_image(step=17), "step 17"),
        (break_image(step=0, data=np.empty(0, np.uint8)), "step 0, holds 0 bytes"),
        (break_image(height=0, data=np.empty(0, np.uint8)), "image of 6x0"),
        (break_image(encoding="32FC7"), "message 7: unknown encoding '32FC7'. Valid: bgr8, mono8, rgb8"),
        (break_image(is_bigendian=9), "is_bigendian is 9"),
        (break_image(height=6, width=4, step=12), r"image is \(6, 4, 3\), expected \(4, 6, 3\)"),
        (break_joints(name=["b", "c", "d"]), "/joint_states: message 7: lacks a. It has: b, c, d"),
        (break_joints(name=["b"]), "message 7: has 1 names and 3 values in position"),
        (break_joints(name=["a", "a", "b"]), "message 7: names a joint twice: a, a, b"),
        (break_joints(position=np.array([np.inf, 0, 0])), r"message 7: joint/position is not finite at elements \[1\]"),
        (break_joints(position=np.array([1e300, 0, 0])), "message 7: holds 1e.300, which is no float32"),
        (nan_action, r"/command: message 7: action/executed is not finite at elements \[1\]"),
        (no_points, "/command: message 7: JointTrajectory has no points"),
        (zero_stamps, "/camera: message 1: the stamp is 0 again: its publisher does not stamp"),
        (impossible_stamp, "/camera: message 7: header.stamp is"),
    ],
)  # fmt: skip
def test_bad_messages(tmp_path: Path, change: Any, match: str) -> None:
    topics = robot_topics()
    change(topics)
    refused(tmp_path, write_bag(tmp_path / "bag", topics), match)


def test_bytes_that_are_no_message(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", robot_topics(), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        (raw,) = database.execute("SELECT data FROM messages WHERE id = 3").fetchone()
        # A sequence of 2^32-1 bytes in an image of 72.
        huge = raw.replace(struct.pack("<I", 72), b"\xff\xff\xff\xff")
        database.execute("UPDATE messages SET data = ? WHERE id = 3", (huge,))
    database.close()
    refused(tmp_path, bag, "bag.db3: /camera: message 2: is no sensor_msgs/msg/Image")


@pytest.mark.parametrize("what", ["cut", "bomb", "text", "other size"])
def test_bad_jpegs(tmp_path: Path, what: str) -> None:
    good = cv2.imencode(".jpg", pixels(0))[1].tobytes()
    sizes = good.index(b"\xff\xc0") + 5
    bad = {
        "cut": good[:-40],
        "bomb": good[:sizes] + b"\xff\xff\xff\xff" + good[sizes + 4 :],
        "text": b"<html>404</html>",
        "other size": cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes(),
    }
    topics = robot_topics()
    files = [good, good, bad[what]]
    topics["/camera"] = [(stamp(k), ros.compressed_message(file, stamp(k), "")) for k, file in enumerate(files)]
    match = "no whole JPEG" if what in ("cut", "text") else r"image is \(\d+, \d+, 3\), expected \(4, 6, 3\)"
    refused(tmp_path, write_bag(tmp_path / "bag", topics), f"/camera: message 2: .*{match}")


def test_a_topic_missing_in_a_later_bag(tmp_path: Path) -> None:
    write_bag(tmp_path / "bags" / "take_1", robot_topics())
    topics = robot_topics()
    del topics["/joint_states"]
    write_bag(tmp_path / "bags" / "take_2", topics)
    refused(tmp_path, tmp_path / "bags", r"take_2: there is no topic '/joint_states'. Valid: /camera")


def test_differing_sizes_between_bags(tmp_path: Path) -> None:
    write_bag(tmp_path / "bags" / "take_1", robot_topics())
    topics = robot_topics()
    other = np.zeros((5, 6, 3), np.uint8)
    topics["/camera"] = [(stamp(0), ros.image_message(other, stamp(0), ""))]
    write_bag(tmp_path / "bags" / "take_2", topics)
    refused(tmp_path, tmp_path / "bags", r"take_2.mcap: /camera: message 0: image is \(5, 6, 3\), expected \(4, 6, 3\)")


@pytest.mark.parametrize("content", [{}, {"notes.txt": "x"}])
def test_no_bags(tmp_path: Path, content: dict[str, str]) -> None:
    (tmp_path / "empty").mkdir()
    for name, text in content.items():
        (tmp_path / "empty" / name).write_text(text)
    refused(tmp_path, tmp_path / "empty", "holds no bag")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(storage=st.sampled_from(sorted(STORAGES)), data=st.data())
def test_any_damage_is_one_error_or_none(tmp_path_factory: pytest.TempPathFactory, storage: str, data: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    bag = write_bag(folder / "bag", robot_topics(), storage)
    file = data.draw(st.sampled_from(sorted(bag.iterdir())))
    content = bytearray(file.read_bytes())
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[place] = value
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        dataset = import_bag(bag, folder)
    except DatasetError:
        assert not (folder / "dataset").exists()
        assert not (folder / ".dataset.importing").exists()
    else:
        assert dataset.episodes[0].steps == ROWS
    shutil.rmtree(folder)
