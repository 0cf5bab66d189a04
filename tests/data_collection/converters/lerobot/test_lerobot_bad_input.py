"""Every LeRobotDataset that is not what it says is refused with one error, and nothing is left of the import."""

from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from armature.errors import DatasetError
from data_collection.converters.lerobot.exporter import ExportConfig, export
from data_collection.converters.lerobot.layout import inside
from data_collection.converters.lerobot.video import VideoFile, write_video
from data_collection.store import Dataset

Import = Callable[..., Dataset]
Spoil = Callable[[Path], Any]
FPS = 10
FLOATS = pa.list_(pa.float32())
FRONT = "observation.images.front"
VIDEO_1 = f"videos/chunk-000/{FRONT}/episode_000001.mp4"
DATA_1 = "data/chunk-000/episode_000001.parquet"
LIST_V30 = "meta/episodes/chunk-000/file-000.parquet"


def put(path: Path, content: Any) -> None:
    lines = content if isinstance(content, list) else [content]
    path.write_text("\n".join(json.dumps(line) for line in lines))


def changed_info(**changes: Any) -> Spoil:
    def change(root: Path) -> None:
        path = root / "meta/info.json"
        put(path, json.loads(path.read_text()) | changes)

    return change


def changed_feature(key: str, **changes: Any) -> Spoil:
    """Change a feature, or add one that is like `action` but for the changes."""

    def change(root: Path) -> None:
        features = json.loads((root / "meta/info.json").read_text())["features"]
        changed_info(features=features | {key: features.get(key, features["action"]) | changes})(root)

    return change


def changed_rows(key: str, change: Callable[[Any], Any]) -> Spoil:
    def write(root: Path) -> None:
        table = pq.read_table(root / DATA_1)
        values = change(table[key].to_pylist())
        column = values if isinstance(values, pa.Array) else pa.array(values, table[key].type)
        pq.write_table(table.set_column(table.column_names.index(key), key, column), root / DATA_1)

    return write


def changed_episodes(**changes: Any) -> Spoil:
    def change(root: Path) -> None:
        path = root / "meta/episodes.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        put(path, [rows[0], rows[1] | changes, rows[2]])

    return change


def cut_in_half(file: str) -> Spoil:
    return lambda root: os.truncate(root / file, (root / file).stat().st_size // 2)


def linked_out(root: Path) -> None:
    shutil.move(root / DATA_1, root.parent / "elsewhere.parquet")
    (root / DATA_1).symlink_to(root.parent / "elsewhere.parquet")


def unknown_codec(root: Path) -> None:
    (root / VIDEO_1).write_bytes((root / VIDEO_1).read_bytes().replace(b"avc1", b"zzz9"))


def filmed(frames: int, height: int = 32, file: str = VIDEO_1) -> Spoil:
    return lambda root: write_video(root / file, [np.zeros((height, 48, 3), np.uint8)] * frames, FPS, "h264")


def with_nan(values: Any) -> Any:
    values[2][1] = float("nan")
    return values


def at(k: int, value: Any) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[k] = value
        return values

    return change


TEMPLATE = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
BAD_V21: dict[str, tuple[Spoil, str]] = {
    "no dataset": (lambda root: shutil.rmtree(root / "meta"), "there is no LeRobotDataset here"),
    "info is no JSON": (lambda root: (root / "meta/info.json").write_text("{"), "info.json: cannot be read"),
    "info too deep": (lambda root: (root / "meta/info.json").write_text("[" * 100_000), "info.json: cannot be read"),
    "info is a list": (lambda root: put(root / "meta/info.json", [[1]]), "expected an object"),
    "unknown version": (changed_info(codebase_version="v1.6"), "codebase_version 'v1.6' is not known; valid: v2"),
    "newer version": (changed_info(codebase_version="v4.0"), "codebase_version 'v4.0' is not known"),
    "fps 0": (changed_info(fps=0), "fps is 0"),
    "fps is a text": (changed_info(fps="10"), "fps is '10'"),
    "total_episodes": (changed_info(total_episodes=4), "total_episodes is 4, .* lists 3"),
    "too few total_episodes": (changed_info(total_episodes=2), "total_episodes is 2, .* lists 3"),
    "total_episodes 2^40": (changed_info(total_episodes=1 << 40), "total_episodes is 1099511627776, at most"),
    "total_frames": (changed_info(total_frames=99), "total_frames is 99, the lengths in .* add up to 21"),
    "dtype": (changed_feature("action", dtype="complex64"), "feature 'action': dtype 'complex64' is not known"),
    "pickles": (changed_feature("action", dtype="object"), "feature 'action': dtype 'object' is not known"),
    "text": (changed_feature("note", dtype="string", shape=[1]), "'note': dtype 'string'.*--leave-out note"),
    "unknown next": (changed_feature("next.other"), "'next.other': its meaning is not known"),
    "2^40 elements": (changed_feature("action", shape=[1 << 40]), "feature 'action': shape .* would need 43980465"),
    "2^38 elements": (changed_feature("action", shape=[1 << 38]), "feature 'action': shape .* has 274877906944"),
    "2^20 pixels a side": (changed_feature(FRONT, shape=[1 << 20, 1 << 20, 3]), "feature .*front': shape"),
    "2^14 pixels a side": (changed_feature(FRONT, shape=[1 << 14, 1 << 10, 3]), "is 32x48, info.json says 16384x1024"),
    "negative shape": (changed_feature("action", shape=[-3]), r"feature 'action': shape \(-3,\)"),
    "depth camera": (changed_feature(FRONT, shape=[32, 48, 1]), "is no colour picture"),
    "key leads out": (changed_feature("../../evil"), r"key '\.\./\.\./evil'"),
    "absolute key": (changed_feature("/etc/passwd"), "key '/etc/passwd'"),
    "two keys, one stream": (changed_feature("observation.State"), "'observation.state': would be stream 'state'"),
    "a stream of the store": (changed_feature("control/takeover"), "'control/takeover', which has a meaning"),
    "data_path leads out": (changed_info(data_path="../../{episode_index}.parquet"), "data_path: .* leads out of"),
    "absolute video_path": (changed_info(video_path="/etc/{episode_index}"), "video_path: '/etc/0' leads out of"),
    "data_path takes apart": (changed_info(data_path="{episode_index.__class__}"), "data_path: .* is no path template"),
    "data_path pads": (changed_info(data_path="{episode_index:0999999999d}"), "data_path: .* is no path template"),
    "data_path unknown field": (changed_info(data_path="{chunk}"), "data_path: unknown field 'chunk'"),
    "data_path with a NUL": (changed_info(data_path="a\0b"), "data_path: .* is no path"),
    "linked out": (linked_out, "data_path: .* leads out of"),
    "truncated table": (cut_in_half(DATA_1), "episode_000001.parquet: cannot be read"),
    "missing table": (lambda root: (root / DATA_1).unlink(), "episode_000001.parquet: cannot be read"),
    "truncated video": (cut_in_half(VIDEO_1), "episode_000001.mp4: cannot be decoded"),
    "missing video": (lambda root: (root / VIDEO_1).unlink(), "01.mp4: there is no such video; 1 of 3 episodes lack"),
    "no videos": (lambda root: shutil.rmtree(root / "videos"), "3 of 3 episodes lack theirs. Import all without"),
    "a frame too few": (filmed(4), "000001.mp4: has 4 frames, the tables have 5 rows"),
    "a frame too many": (filmed(6), "000001.mp4: has 6 frames, the tables have 5 rows"),
    "video of another size": (filmed(5, height=16), "is 16x48, info.json says 32x48"),
    "unknown codec": (unknown_codec, "episode_000001.mp4: its video codec is unknown here"),
    "length": (changed_episodes(length=6), "total_frames is 21, the lengths .* add up to 22"),
    "length and total": (
        lambda root: (changed_episodes(length=6)(root), changed_info(total_frames=22)(root)),
        "episode_000001.parquet: has 5 rows, the list of episodes says 6",
    ),
    "number twice": (changed_episodes(episode_index=0), "numbered from 0 on, without gaps"),
    "unknown task": (changed_episodes(tasks=["dance"]), "episode 1: its task 'dance' is not among"),
    "several tasks": (changed_episodes(tasks=["push", "pull"]), "episode 1: tasks is .* exactly one task"),
    "no list": (lambda root: (root / "meta/episodes.jsonl").unlink(), "episodes.jsonl: cannot be read"),
    "list is no JSON": (lambda root: (root / "meta/episodes.jsonl").write_text("x"), "episodes.jsonl: cannot be read"),
    "NaN action": (changed_rows("action", with_nan), "episode 1, row 2: action is not finite at element 1"),
    "NaN reward": (
        changed_rows("next.reward", at(2, float("nan"))), "episode 1, row 2: next.reward is not finite .*--leave-out",
    ),
    "action dims": (
        changed_rows("action", lambda _: pa.array([[0.0] * 4] * 5, pa.list_(pa.float32(), 4))),
        r"column action is fixed_size_list<.*>\[4\], info.json says float32 \(3,\)",
    ),
    "state dims": (
        changed_rows("observation.state", lambda _: pa.array([[0.0] * 4] * 5, FLOATS)),
        r"column observation.state: has rows of \[4\] elements, info.json says \(3,\)",
    ),
    "state ragged": (
        changed_rows("observation.state", lambda _: pa.array([[0.0] * n for n in (2, 4, 3, 3, 3)], FLOATS)),
        "column observation.state: has rows of",
    ),
    "state of texts": (changed_rows("observation.state", lambda _: pa.array(["x"] * 5)), "observation.state is string"),
    "state with a gap": (
        changed_rows("observation.state", lambda rows: pa.array([None, *rows[1:]], FLOATS)),
        "column observation.state: has empty cells",
    ),
    "late row": (changed_rows("timestamp", at(3, np.float32(0.31))), "row 3: timestamp is 0.31.*, expected 0.3 "),
    "row left out": (changed_rows("frame_index", at(3, 4)), "row 3: frame_index is 4, expected 3"),
    "row of another": (changed_rows("episode_index", at(0, 2)), "row 0: episode_index is 2, expected 1"),
    "row of another task": (changed_rows("task_index", at(4, 0)), "row 4: task_index is 0, expected 1"),
    "done in between": (changed_rows("next.done", at(1, True)), "row 1: next.done is true before the last row"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_V21)
def test_bad_v21_is_one_error_and_nothing_is_left(name: str, v21: Path, tmp_path: Path, bring_in: Import) -> None:
    spoil, message = BAD_V21[name]
    spoil(v21)
    require_refusal(bring_in, v21, tmp_path, message)


def require_refusal(bring_in: Import, source: Path, tmp_path: Path, message: str) -> None:
    before = sorted(tmp_path.iterdir())
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=message) as refusal:
            bring_in(source, tmp_path / "set")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert str(source) in str(refusal.value) or "key '" in message
    assert sorted(tmp_path.iterdir()) == before


def changed_list(**changes: Any) -> Spoil:
    def change(root: Path) -> None:
        path = root / LIST_V30
        rows = pq.read_table(path).to_pylist()
        rows[1] |= changes
        pq.write_table(pa.Table.from_pylist(rows), path)

    return change


BAD_V30: dict[str, tuple[Spoil, str]] = {
    "total_episodes": (changed_info(total_episodes=4), "total_episodes is 4, .* lists 3"),
    "total_frames": (changed_info(total_frames=20), "total_frames is 20, the lengths .* add up to 21"),
    "rows overlap": (changed_list(dataset_from_index=6), r"episode 1: rows 6\.\.12, by the lengths 7\.\.12"),
    "another table": (
        changed_list(**{"data/file_index": 1}),
        "list of episodes says 16|file-001.parquet: cannot be",
    ),
    "negative table": (changed_list(**{"data/file_index": -1}), "file_index is -1"),
    "another video": (changed_list(**{f"videos/{FRONT}/file_index": 7}), "file-007.mp4: there is no such video"),
    "wrong time in the video": (changed_list(**{f"videos/{FRONT}/from_timestamp": 0.2}), "front from 0.2 s to 1.2 s"),
    "no list": (lambda root: shutil.rmtree(root / "meta/episodes"), "holds no Parquet file"),
    "truncated list": (cut_in_half(LIST_V30), "file-000.parquet: cannot be read"),
    "no tasks": (lambda root: (root / "meta/tasks.parquet").unlink(), "tasks.parquet: cannot be read"),
    "truncated table": (cut_in_half("data/chunk-000/file-000.parquet"), "file-000.parquet: cannot be read"),
    "a frame too few": (
        filmed(20, file=f"videos/{FRONT}/chunk-000/file-000.mp4"),
        "has 20 frames, the tables have 21 rows",
    ),
}


@pytest.mark.parametrize("name", BAD_V30)
def test_bad_v30_is_one_error_and_nothing_is_left(name: str, v30: Path, tmp_path: Path, bring_in: Import) -> None:
    spoil, message = BAD_V30[name]
    spoil(v30)
    require_refusal(bring_in, v30, tmp_path, message)


@given(relative=st.text(st.sampled_from("./a\\\0~"), max_size=8))
def test_no_path_leads_out(relative: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp()
    try:
        path = inside(root, relative, "here")
    except DatasetError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(root)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def vast_png() -> bytes:
    """Return a PNG whose header claims 2^15 x 2^15 pixels."""
    small = png(np.zeros((32, 48, 3), np.uint8))
    header = b"IHDR" + (1 << 15).to_bytes(4, "big") * 2 + small[24:29]
    return small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: png(np.zeros((16, 48, 3), np.uint8)), r"a picture is \(16, 48, 3\), info.json says \(32, 48, 3\)"),
        (lambda: png(np.zeros((32, 48), np.uint8)), r"a picture is \(32, 48, 1\)"),
        (lambda: png(np.zeros((32, 48, 3), np.uint8))[:-30], "a picture cannot be decoded"),
        (vast_png, r"a picture cannot be decoded|a picture is \(32768"),
        (lambda: b"GIF89a", "a picture cannot be decoded"),
        (lambda: None, "a picture is not in the table"),
    ],
)
def test_bad_pictures_in_a_table(
    content: Callable[[], Any], message: str, v21: Path, tmp_path: Path, bring_in: Import
) -> None:
    export(ExportConfig(bring_in(v21, tmp_path / "set").path, tmp_path / "out", images=True))
    shutil.rmtree(tmp_path / "set")
    path = tmp_path / "out/data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    cells = table[FRONT].to_pylist()
    cells[3]["bytes"] = content()
    pq.write_table(table.set_column(table.column_names.index(FRONT), FRONT, pa.array(cells)), path)
    require_refusal(bring_in, tmp_path / "out", tmp_path, f"file-001.parquet: column {FRONT}: {message}")


def test_a_video_that_ends_early_is_noticed_while_decoding(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [np.zeros((32, 48, 3), np.uint8)] * 5, FPS, "h264")
    video = VideoFile(tmp_path / "a.mp4", 32, 48)
    assert sum(len(block) for block in video.blocks(0.2, 3, FPS)) == 3
    with pytest.raises(DatasetError, match=r"3 frames from 0.2 s on, the table has 4 rows"):
        list(video.blocks(0.2, 4, FPS))
    with pytest.raises(DatasetError, match=r"frame 1 is at 0.1000 s, expected at 0.0500 s"):
        list(video.blocks(0, 4, 2 * FPS))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda said: said["streams"].pop("action"), "'action'"),
        (lambda said: said["streams"].update(action=["joint/position", "reward"]), r"feature 'action' is \(2,\)"),
        (lambda said: said["streams"].update(action=["../evil"]), "'../evil'"),
        (lambda said: said["streams"].update({"next.reward": ["joint/position"]}), "feature 'next.reward' is"),
        (lambda said: said["spec"]["observation"]["arrays"][0].update(name="../evil"), "stream name '../evil'"),
        (lambda said: said["spec"]["observation"]["arrays"][0].update(shape=[1 << 40]), "is no sample of 1 to"),
        (lambda said: said.update(spec=[]), "does not fit"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(
    spoil: Callable[[Any], Any], message: str, tmp_path: Path, bring_in: Import, own_dataset: Dataset
) -> None:
    export(ExportConfig(own_dataset.path, tmp_path / "out", images=True))
    path = tmp_path / "out/meta/armature.json"
    said = json.loads(path.read_text())
    spoil(said)
    path.write_text(json.dumps(said))
    require_refusal(bring_in, tmp_path / "out", tmp_path, message)
