"""The demo: figures by literal numbers, film and report from a real dataset, the command on a real graph."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from armature.errors import ArmatureError
from armature_ros.demo import main
from armature_ros.episodes import EpisodeOutcome
from armature_ros.measurements import Measurements, MemoryMonitor, Stopwatch, StreamTotals
from armature_ros.report import write_report
from armature_ros.summary import build_summary, duration_text, key_figures
from armature_ros.video import VideoConfig, write_video
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, stream_specs
from sim.tasks import SimConfig, robot_spec

STEPS, PERIOD_NS = 6, 50_000_000
DEMO = [sys.executable, "-m", "armature.cli", "demo", "--checkpoint", "expert"]


def write_episode(dataset: Dataset, seed: int, *, success: bool) -> None:
    """Record one episode of random values; its first request is missing and its second was limited."""
    rng = np.random.default_rng(seed)
    stamps_ns = np.arange(1, STEPS + 1) * PERIOD_NS
    values = {name: np.stack([a.sample(rng) for _ in range(STEPS)]) for name, a in stream_specs(dataset.spec).items()}
    values[ACTION_REQUESTED] = values[ACTION_EXECUTED].copy()
    values[ACTION_REQUESTED][0] = np.nan
    values[ACTION_REQUESTED][1, 0] += 0.1
    with dataset.writer() as writer:
        episode = writer.begin()
        for name, data in values.items():
            episode.append(name, stamps_ns, stamps_ns, data)
        episode.end({"seed": seed, "success": success})


def outcome(seed: int, *, success: bool) -> EpisodeOutcome:
    """Word what sim_node and recorder_node say about an episode of which one image was lost."""
    result = {"seed": seed, "success": success, "steps": STEPS, "fault": "", "command_latency_s": [0.002, 0.004, 0.006]}
    counts = {"received": STEPS - 1, "recorded": STEPS - 1, "dropped": {}}
    return EpisodeOutcome({**result, "published": {"camera/scene": STEPS}}, {"counts": {"camera/scene": counts}})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two episodes, the second of which failed."""
    folder = tmp_path_factory.mktemp("run")
    dataset = create_dataset(folder / "dataset", robot_spec(SimConfig(image_size=32)), "lift")
    measurements = Measurements(chunk_latency_s=[0.01, 0.03], tick_period_s=[0.04, 0.06])
    for seed, success in ((1000, True), (1001, False)):
        write_episode(dataset, seed, success=success)
        measurements.add_episode(outcome(seed, success=success), 1.5, 0.05)
    summary = build_summary(
        measurements,
        dataset,
        {"episodes": 3.0, "film": 0.5},
        2_500_000_000,
        title="test",
        description="Two <episodes>.",
        provenance={"command": "none"},
        from_scratch=None,
    )
    (folder / "summary.json").write_text(json.dumps(summary, allow_nan=False))
    (folder / "measurements.json").write_text(json.dumps(asdict(measurements), allow_nan=False))
    return folder


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def test_summary_holds_the_figures(run: Path) -> None:
    summary = summary_of(run)
    assert summary["success"] == {
        "successes": 1,
        "episodes": 2,
        "rate": 0.5,
        "interval_95": pytest.approx([0.0945, 0.9055], abs=1e-3),
    }
    assert summary["latency_ms"]["chunk"] == {"p50": 20.0, "p99": 29.8, "count": 2}
    assert summary["latency_ms"]["camera_to_command"] == {"p50": 4.0, "p99": 6.0, "count": 6}
    assert summary["control_tick_ms"] == {"mean": 50.0, "std": 10.0, "p50": 50.0, "p99": 59.8, "count": 2}
    assert summary["gate"] == {"commands": 12, "held": 2, "limited": 2}
    assert summary["streams"]["camera/scene"] == {"published": 12, "received": 10, "recorded": 10, "dropped": 2}
    assert summary["peak_memory_gb"] == 2.5
    assert summary["seeds"] == [1000, 1001]


def test_terminal_and_report_word_the_same_figures(run: Path) -> None:
    page = write_report(run).read_text()
    for _, value, detail in key_figures(summary_of(run)):
        assert value in page
        assert detail in page


def test_report_is_self_contained_and_escapes_its_texts(run: Path) -> None:
    page = write_report(run).read_text()
    assert "1 of 2 episodes succeeded" in page
    assert "Two &lt;episodes&gt;." in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert page.count("<svg") == 4
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {source for source in sources if not source.startswith(("data:", "#"))} <= {"episodes.mp4"}


def test_film_shows_every_recorded_frame_and_holds_the_outcome(run: Path, tmp_path: Path) -> None:
    config = VideoConfig(tile_px=64, strip_px=16, hold_s=0.1)
    count = write_video(tmp_path / "film.mp4", open_dataset(run / "dataset"), config)
    with av.open(str(tmp_path / "film.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == count == 2 * (STEPS + 1)
    assert (frames[0].width, frames[0].height) == (128, 80)


def test_loss_is_counted_wherever_it_happens() -> None:
    totals = StreamTotals()
    totals.add(10, {"received": 8, "recorded": 7})
    totals.add(None, {"received": 5, "recorded": 4})
    assert totals == StreamTotals(published=10, received=13, recorded=11, dropped=4)


def test_durations_are_worded_for_people() -> None:
    assert [duration_text(s) for s in (0.44, 93.2, 247.0)] == ["0.4 s", "93 s", "4 min 07 s"]


def test_stopwatch_adds_up_phases_of_the_same_name() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.phase("sleep"):
            time.sleep(0.01)
    assert list(watch.phases_s) == ["sleep"]
    assert watch.phases_s["sleep"] >= 0.02


def test_peak_memory_includes_child_processes() -> None:
    own_bytes = psutil.Process().memory_info().rss
    child = [sys.executable, "-c", "import time; data = b'x' * 200_000_000; time.sleep(1.5)"]
    with MemoryMonitor() as memory:
        subprocess.run(child, check=True)
    assert memory.peak_bytes > own_bytes + 150_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes", "0"], "--episodes is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--from-scratch", "--demos", "0"], "--demos is 0"),
        (["--demos", "3"], "--demos only means something with --from-scratch"),
        (["--task", "lft"], "Did you mean 'lift'"),
        (["--checkpoint", "no/such"], "no/such"),
        (["--state"], "--state only means something with --from-scratch"),
        (["--checkpoint", "a", "--from-scratch"], "exclude each other"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ArmatureError, match=re.escape(words)):
        main(arguments)


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ArmatureError, match="is not empty"):
        main(["--checkpoint", "expert", "--out", str(tmp_path)])


@pytest.mark.ros
def test_demo_of_the_expert_writes_everything(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([*DEMO, "--episodes", "1", "--out", str(out)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = summary_of(out)
    assert summary["success"]["successes"] == 1
    assert all(s["dropped"] == 0 and s["recorded"] == s["published"] for s in summary["streams"].values())
    assert summary["latency_ms"]["chunk"]["count"] == summary["episodes"][0]["steps"]
    assert "1/1" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "summary.json", "measurements.json", "report.html", "episodes.mp4", "dataset", "nodes.log"
    }  # fmt: skip


def await_first_episode(process: subprocess.Popen[str], log: Path) -> None:
    deadline_s = time.monotonic() + 120
    while not (log.exists() and '"kind": "end"' in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ros
def test_interrupt_leaves_committed_episodes_and_no_process(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*DEMO, "--episodes", "50", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            await_first_episode(process, out / "dataset" / "commits.jsonl")
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 4
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not any(child.is_running() for child in children)
    episodes = open_dataset(out / "dataset").episodes
    assert len(episodes) >= 1
    assert episodes[0].read("camera/scene")[2].shape == (episodes[0].steps, 128, 128, 3)


def test_camera_to_command_counts_the_ticks_that_a_chunk_answers():
    measurements = Measurements(replan_steps=2)
    measurements.add_episode(outcome(1000, success=True), 1.5, 0.05)
    assert measurements.command_latency_s == [0.002, 0.006]
