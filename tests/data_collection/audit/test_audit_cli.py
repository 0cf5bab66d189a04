"""The commands: what is printed, written and returned; the report; memory; real recordings."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr

from armature.cli import main
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.audit import report
from data_collection.audit.config import AuditConfig
from data_collection.audit.dataset_audit import audit_dataset
from data_collection.audit.figures import thinned
from data_collection.audit.traces import driven_spans
from data_collection.streams import ACTION_EXECUTED, REWARD, TAKEOVER

AGENT = ArraySpec("agent/position", (2,), "float32", "px", "", (0.0, 0.0), (512.0, 512.0), ("x", "y"))
CAMERA = ArraySpec("camera/scene", (48, 48, 3), "uint8", "rgb8")
PUSHER = RobotSpec("pusher", ObservationSpec((CAMERA, AGENT), 20.0), ActionSpec("planar_position", (AGENT,), 20.0))


def pushing(seed: int, steps: int = 80, broken: bool = False) -> dict:
    """A dot that goes in a curve; broken: half a second of pictures is missing."""
    stamps_ns = np.arange(steps, dtype=np.int64) * 50_000_000
    phase = np.arange(steps) / 9 + seed
    position = np.stack([256 + 150 * np.sin(phase), 256 + 140 * np.cos(1.3 * phase)], axis=1)
    frames = np.full((steps, 48, 48, 3), 200, np.uint8)
    for frame, (x, y) in zip(frames, position * 48 / 512, strict=True):
        cv2.circle(frame, (round(16 * x), round(16 * y)), 16 * 5, (40, 60, 220), -1, cv2.LINE_AA, shift=4)
    kept = np.delete(np.arange(steps), np.arange(30, 40)) if broken else np.arange(steps)
    return {
        "camera/scene": (stamps_ns[kept], frames[kept]),
        "agent/position": (stamps_ns, position.astype(np.float32)),
        ACTION_EXECUTED: (stamps_ns, position),
        REWARD: (stamps_ns[-1:], np.array([[float(seed)]])),
    }


@pytest.fixture
def clean(write_dataset) -> Path:
    return write_dataset(PUSHER, [pushing(k) for k in range(2)], "clean").path


@pytest.fixture
def broken(write_dataset) -> Path:
    return write_dataset(PUSHER, [pushing(2), pushing(3, broken=True)], "broken").path


def test_exit_codes_and_text(clean: Path, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "audit", str(clean)]) == 0
    assert "fault" not in [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.split()]
    assert main(["data", "audit", str(broken)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "fault gap: episode 1 camera/scene at 1.45 s: no sample for 0.550 s, limit 0.125 s" in lines
    assert main(["data", "audit", str(broken), "--limits.gap-s", "0.6"]) == 0


def test_notes_fail_only_when_asked(write_dataset, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_dataset(PUSHER, [pushing(0)], metadata={}).path)
    assert main(["data", "audit", path]) == 0
    assert main(["data", "audit", path, "--strict"]) == 1
    assert "note outcome: dataset: 1 of 1 episodes have no outcome: 0" in capsys.readouterr().out


def test_json_for_scripts(clean: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "audit", str(broken), "--random", str(clean), "--reference", str(broken), "--json"]
    assert main([*arguments, "-"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert main([*arguments, str(tmp_path / "audit.json")]) == 1
    assert json.loads((tmp_path / "audit.json").read_text()) == printed
    assert printed["summary"]["kinds"] == {"gap": 1}
    (finding,) = printed["findings"]
    assert {k: finding[k] for k in ("episode", "stream", "kind", "severity")} == {
        "episode": 1, "stream": "camera/scene", "kind": "gap", "severity": "fault",
    }  # fmt: skip
    # Returns: random 0 and 1, own 2 and 3, which is also the reference.
    assert (printed["coverage"]["tq"], printed["coverage"]["saco"]) == (1.0, 1.0)
    assert printed["episodes"][0]["streams"]["camera/scene"]["timing"]["rate_hz"] == pytest.approx(20)


def test_the_report_is_one_page_that_needs_nothing_else(broken: Path, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    assert main(["data", "audit", str(broken), "--html", str(page)]) == 1
    text = page.read_text()
    assert "1 fault in 1 of 2 episodes" in text
    assert "no sample for 0.550 s" in text
    loaded = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert loaded
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in loaded)
    assert len(re.findall("<img ", text)) == 2 * report.FRAMES
    assert text.index("<h2>Episode 1</h2>") < text.index("<h2>Episode 0</h2>")


def test_names_from_outside_are_escaped(write_dataset, tmp_path: Path) -> None:
    label = ArraySpec("agent/position", (2,), "float32", "px", "", (0.0, 0.0), (512.0, 512.0), ("<script>x", "y"))
    spec = RobotSpec("<script>y", ObservationSpec((CAMERA, label), 20.0), ActionSpec("planar_position", (label,), 20.0))
    page = tmp_path / "audit.html"
    assert main(["data", "audit", str(write_dataset(spec, [pushing(0)]).path), "--html", str(page)]) == 0
    assert "<script" not in page.read_text()


def test_a_large_dataset_shows_the_faulty_episodes_first_and_says_so(
    write_dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "SHOWN_MAX", 2)
    dataset = write_dataset(PUSHER, [pushing(0), pushing(1), pushing(2), pushing(3, broken=True)])
    audit = audit_dataset(dataset, AuditConfig())
    report.write_report(audit, dataset, tmp_path / "audit.html")
    assert [episode.index for episode in report.shown_episodes(audit)] == [3, 0]
    assert "2 of 4 episodes are shown below" in (tmp_path / "audit.html").read_text()


def test_a_report_of_an_empty_and_of_a_damaged_dataset(write_dataset, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    assert main(["data", "audit", str(write_dataset(PUSHER, [], "empty").path), "--html", str(page)]) == 0
    assert "No faults in 0 episodes" in page.read_text()
    dataset = write_dataset(PUSHER, [pushing(0)], "damaged")
    files = [file for file in (dataset.path / "episodes").rglob("*") if file.is_file() and "camera" in str(file)]
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    assert main(["data", "audit", str(dataset.path), "--html", str(page), "--reference", str(dataset.path)]) == 1
    assert "damaged" in page.read_text()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot_marks_the_findings(broken: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"plot{suffix}"
    streams = ["--streams", "camera/scene", "agent/position"]
    assert main(["data", "plot", str(broken), "--episode", "1", *streams, "--out", str(out)]) == 0
    assert "gap: episode 1 camera/scene at 1.45 s" in capsys.readouterr().out
    if suffix == ".svg":
        text = out.read_text()
        assert all(word in text for word in ("camera/scene", "agent/position"))
    else:
        assert cv2.imread(str(out)).shape[0] > 300


def test_plot_shades_where_a_person_drove_in_the_place_of_a_policy(write_dataset, tmp_path: Path) -> None:
    recording = pushing(0)
    stamps_ns = recording[ACTION_EXECUTED][0]
    alternating = np.isin(np.arange(80) // 20, (1, 3)).astype(np.uint8)[:, None]
    policy_and_person = {**recording, TAKEOVER: (stamps_ns, alternating)}
    person = {**recording, TAKEOVER: (stamps_ns, np.ones((80, 1), np.uint8))}
    dataset = write_dataset(PUSHER, [policy_and_person, person, recording], "driven")
    assert driven_spans(dataset.episodes[0]) == [(1_000_000_000, 2_000_000_000), (3_000_000_000, 3_950_000_000)]
    shaded = []
    for episode in range(3):
        out = tmp_path / f"{episode}.svg"
        main(["data", "plot", str(dataset.path), "--episode", str(episode), "--out", str(out)])
        shaded.append(out.read_text().count("a person drives"))
    assert shaded == [2, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episode", "7", "--out", "x.png"], "there is no episode 7"),
        (["--episode", "0", "--out", "x.gif"], "out is x.gif, must end in .png, .svg or .pdf"),
        (
            ["--episode", "0", "--out", "x.png", "--streams", "camera/scen"],
            "unknown stream 'camera/scen'. Did you mean",
        ),
        (["--episode", "0", "--out", "/absent/x.png"], "/absent/x.png: cannot be written: No such file or directory"),
    ],
)
def test_a_mistake_in_plot_is_one_line(
    clean: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "plot", str(clean), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_mistake_in_audit_is_one_line(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "audit", "/absent"]) == 2
    assert main(["data", "audit", str(clean), "--html", "/absent/x.html"]) == 2
    assert "armature: /absent/x.html: cannot be written: No such file or directory" in capsys.readouterr().err


def test_thinned_curves_keep_their_extremes() -> None:
    y = np.sin(np.arange(100_000) / 500.0)
    y[77_777] = 9.0
    x, kept = thinned(np.arange(100_000.0), y)
    assert len(kept) <= 1200
    assert kept.max() == 9.0
    assert x[kept.argmax()] == 77_777
    assert (np.diff(x) > 0).all()


def test_the_audit_of_a_long_recording_takes_little_memory(write_dataset) -> None:
    camera = ArraySpec("camera/scene", (240, 320, 3), "uint8", "rgb8")
    spec = RobotSpec("pusher", ObservationSpec((camera, AGENT), 20.0), PUSHER.action)
    recording = pushing(0, steps=600)
    stamps_ns = recording["agent/position"][0]
    shades = np.arange(600, dtype=np.uint8)[:, None, None, None]
    recording["camera/scene"] = (stamps_ns, np.broadcast_to(shades, (600, 240, 320, 3)))
    dataset = write_dataset(spec, [recording])
    tracemalloc.start()
    try:
        audit_dataset(dataset, AuditConfig())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 40e6 < 600 * 240 * 320 * 3


def test_human_push_t_demonstrations_have_no_faults(write_dataset, shared_data: Path) -> None:
    source = shared_data / "pusht_human" / "pusht_cchi_v7_replay.zarr"
    if not source.is_dir():
        pytest.skip(f"the Push-T recordings are not at {source}")
    group = zarr.open_group(source, mode="r", zarr_format=2)
    ends = np.asarray(group["meta/episode_ends"])[:12].tolist()
    camera = ArraySpec("camera/scene", (96, 96, 3), "uint8", "rgb8")
    block = ArraySpec("object/pose", (3,), "float32", "px,rad", labels=("x", "y", "angle"))
    action = ActionSpec("planar_position", (AGENT,), 10.0)
    spec = RobotSpec("pusht", ObservationSpec((camera, AGENT, block), 10.0), action)
    recordings = []
    for begin, end in zip([0, *ends], ends, strict=False):
        stamps_ns = np.arange(end - begin, dtype=np.int64) * 100_000_000
        state = np.asarray(group["data/state"][begin:end], np.float32)
        recordings.append(
            {
                "camera/scene": (stamps_ns, np.asarray(group["data/img"][begin:end]).astype(np.uint8)),
                "agent/position": (stamps_ns, state[:, :2]),
                "object/pose": (stamps_ns, state[:, 2:]),
                ACTION_EXECUTED: (stamps_ns, np.asarray(group["data/action"][begin:end], np.float64)),
            }
        )
    audit = audit_dataset(write_dataset(spec, recordings, metadata={}), AuditConfig())
    assert [finding.kind for finding in audit.findings] == ["outcome"]
