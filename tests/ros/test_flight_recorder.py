"""The flight recorder: what a fault leaves on disk, what a broken disk does to it, and what the viewer shows of it."""

from __future__ import annotations

import errno
import io
import json
import re
import threading
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from control_lab import Lab
from crash_fs import CrashFs, FailingFs, FastFs, read_tree, states, write_tree
from full_disk import QuotaFs
from hypothesis import given
from hypothesis import strategies as st
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from armature.cli import main as armature
from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.control_path import ControlPath
from armature.control.residual import NoResidual
from armature.errors import ConfigError
from armature.types import ActionChunk, Command, GateState, Reason, Sample, Tick
from armature_ros.announcements import Episode
from armature_ros.conversions import joint_state_to_msg
from armature_ros.flight_dump import ARRAYS, DOCUMENT, Flight, dump_folders
from armature_ros.flight_reading import FlightError, read_flight
from armature_ros.flight_recorder import ITEMS_MAX, WAITING_MAX, FlightRecorder
from armature_ros.flight_report import render
from armature_ros.flight_summary import FlightSummary
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import latched_qos, published_stream_qos
from sim.defaults import panda_limits
from sim.tasks import SimConfig, robot_spec

SPEC = robot_spec(SimConfig()).action
PERIOD_NS, BEGIN_NS = 10_000_000, 1_000_000_000_000
EPISODE = Episode(0, 0, 5_000_000_000)
PUSHED_RAD_S = 1.2
POSTURE = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.8, 0.06])


def fly(recorder: FlightRecorder, ticks: int = 700) -> list[Command]:
    """Drive the real control path by a chunk every 400 ms; after 5 s something pushes joint 1 away, until it latches.

    The chunk of 2.0 s comes after that of 2.4 s and is dropped.
    """
    path = ControlPath(SPEC, panda_limits(), SchedulerConfig("receding_horizon", 8), NoResidual(), PERIOD_NS)
    sent: list[Command] = []
    arm, late = POSTURE.copy(), None
    for k in range(ticks):
        now_ns, t_s = BEGIN_NS + k * PERIOD_NS, k * PERIOD_NS / 1e9
        sample = Sample(now_ns, now_ns, arm.copy())
        assert path.take_state(sample)
        recorder.on_state(sample)
        if k == 0:
            path.arm()
        if k % 40 == 0:
            times_s = t_s + np.arange(16) * 0.05
            actions = POSTURE + np.outer(0.2 * np.sin(times_s), [1, 1, 1, 1, 1, 1, 1, 0])
            chunk = ActionChunk(now_ns, now_ns, 50_000_000, actions, "test-0123456789ab")
            for due in [] if k == 200 else [chunk] if late is None else [chunk, late]:
                recorder.on_chunk(due, now_ns, was_taken=path.take_chunk(due, now_ns))
            late = chunk if k == 200 else None
        command = path.tick(Tick(now_ns, now_ns))
        assert command is not None
        sent.append(command)
        recorder.on_command(command, now_ns)
        if command.state is GateState.LATCHED:
            recorder.dump("tracking_lost", path.counts())
            return sent
        arm = arm + 0.5 * (command.action - arm)
        if t_s >= 5:
            pushed = PUSHED_RAD_S * (t_s - 5)
            arm[0] = POSTURE[0] + 0.2 * np.sin(5) - pushed
    return sent


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def record(tmp_path: Path, said: list[str]) -> Callable[..., FlightRecorder]:
    """Return a function that makes a recorder: record(**options)."""
    folder = tmp_path / "flights"
    return lambda **options: FlightRecorder(folder, SPEC, limits=panda_limits(), log=said.append, **options)


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Command]]:
    """The dump of a drive that ended in a fault, and the commands that were sent."""
    folder = tmp_path_factory.mktemp("flights")
    recorder = FlightRecorder(folder, SPEC, limits=panda_limits(), log=lambda _: None)
    sent = fly(recorder)
    recorder.close()
    (dump,) = dump_folders(folder)
    return dump, sent


def written(recorder: FlightRecorder, folder: Path) -> Flight:
    """Have one dump written and read it."""
    recorder.dump("test")
    recorder.close()
    (dump,) = dump_folders(folder)
    return read_flight(dump)


def arrive(lab: Lab, number: int, states: Publisher) -> None:
    """Have the arm of a lockstep graph arrive at a step, and wait for the command that answers it."""
    states.publish(joint_state_to_msg(SPEC.labels, POSTURE, EPISODE.begin_ns + number * SPEC.period_ns))
    lab.wait(lambda: len(lab.commands) > number, f"command {number}")


@pytest.mark.ros
def test_in_lockstep_a_dump_of_the_control_node_is_on_one_clock_with_dropped_chunks_counters_and_limits(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Simulated time is the clock of the ticks; what is dropped comes behind it and must not clear the rest."""
    flights, begin_ns, step_ns = tmp_path / "flights", EPISODE.begin_ns, SPEC.period_ns
    graph = make_graph("sim", GraphConfig(cameras=False, overrides=(f"control_node.flight_folder={flights}",)))
    lab = Lab([node for node in graph if node.name == "control_node"])
    try:
        episodes = lab.node.create_publisher(String, "episode", latched_qos())
        episodes.publish(EPISODE.to_msg())
        states = lab.node.create_publisher(JointState, "joint_states", published_stream_qos(lockstep=True))
        for service in ("reset", "arm"):
            lab.wait(lambda name=service: lab.call(name).success, service)
        plan = np.tile(POSTURE, (16, 1))
        for number in range(12):
            if number % 8 == 0:
                lab.answer(begin_ns + number * step_ns, plan)
            if number == 10:
                lab.answer(begin_ns + 8 * step_ns, plan)
                lab.answer(begin_ns + 2 * step_ns, plan)
                for why in ("duplicate", "out of order"):
                    lab.wait(lambda why=why: lab.count(f"chunk dropped: {why}") == 1, why)
            arrive(lab, number, states)
        assert lab.call("stop").success
        arrive(lab, 12, states)
        lab.wait(lambda: dump_folders(flights), "dump")
    finally:
        lab.close()
    flight = read_flight(flights)
    ticks = [begin_ns + number * step_ns for number in range(13)]
    assert flight.states.received_ns.tolist() == flight.states.stamp_ns.tolist() == ticks
    assert flight.commands.sent_ns.tolist() == flight.commands.stamp_ns.tolist() == ticks
    answered = [chunk_ns - begin_ns for chunk_ns in flight.chunks.stamp_ns]
    assert answered == [0, 8 * step_ns, 8 * step_ns, 2 * step_ns]
    assert flight.chunks.was_taken.tolist() == [True, True, False, False]
    assert flight.chunks.received_ns[2:].tolist() == [ticks[9]] * 2
    assert set(flight.chunks.received_ns) <= set(ticks)
    assert flight.about.reason == "operator"
    assert flight.about.counters["chunk dropped: duplicate"] == 1
    assert flight.about.counters["chunk dropped: out of order"] == 1
    assert flight.limits.velocity_max.tolist() == list(panda_limits().velocity_max)


def test_a_latch_leaves_the_last_five_seconds_to_the_last_bit(flown: tuple[Path, list[Command]]) -> None:
    dump, sent = flown
    assert re.fullmatch(r"flight_\d{8}T\d{6}\.\d{3}Z_tracking_lost", dump.name)
    flight = read_flight(dump)
    kept = sent[-501:]
    assert len(sent) > 501
    np.testing.assert_array_equal(flight.commands.action, [command.action for command in kept])
    np.testing.assert_array_equal(flight.commands.requested, [command.requested for command in kept])
    assert flight.commands.stamp_ns.tolist() == [command.stamp_ns for command in kept]
    assert flight.commands.chunk_stamp_ns.tolist() == [command.chunk_stamp_ns for command in kept]
    assert np.diff(flight.states.received_ns).tolist() == [PERIOD_NS] * 500
    names = [tuple(np.array(flight.about.reasons)[row]) for row in flight.commands.reasons]
    assert [set(found) for found in names] == [{reason.value for reason in command.reasons} for command in kept]
    last = flight.about.states[flight.commands.state[-1]], flight.about.states[flight.commands.state[-2]]
    assert last == ("latched", "armed")
    assert flight.about.counters["tracking_lost"] == 1


def test_chunks_are_kept_whole_and_one_that_was_dropped_is_marked(flown: tuple[Path, list[Command]]) -> None:
    chunks = read_flight(flown[0]).chunks
    assert chunks.was_taken.sum() == len(chunks.was_taken) - 1
    (dropped,) = np.flatnonzero(~chunks.was_taken)
    assert chunks.stamp_ns[dropped] == BEGIN_NS + 200 * PERIOD_NS
    assert chunks.length.tolist() == [16] * len(chunks.length)
    times_s = (chunks.stamp_ns - BEGIN_NS)[:, None] / 1e9 + np.arange(16) * 0.05
    np.testing.assert_allclose(chunks.actions[:, 0], 0.2 * np.sin(times_s.ravel()), atol=1e-12)


def test_what_is_older_than_the_window_is_forgotten(record: Callable[..., FlightRecorder], tmp_path: Path) -> None:
    recorder = record(seconds=0.1)
    for k in range(100):
        recorder.on_state(Sample(k * PERIOD_NS, k * PERIOD_NS, POSTURE))
    flight = written(recorder, tmp_path / "flights")
    assert (flight.states.received_ns // PERIOD_NS).tolist() == list(range(89, 100))


def test_a_flood_is_bounded_in_number_too(record: Callable[..., FlightRecorder], tmp_path: Path) -> None:
    recorder = record()
    for k in range(ITEMS_MAX + 7):
        recorder.on_state(Sample(k, k, POSTURE))
    flight = written(recorder, tmp_path / "flights")
    assert (flight.states.received_ns[0], len(flight.states.received_ns)) == (7, ITEMS_MAX)


def test_a_clock_that_goes_back_begins_anew(record: Callable[..., FlightRecorder], tmp_path: Path) -> None:
    recorder = record()
    for time_ns in (10**12, 10**12 + 1, 5, 6):
        recorder.on_state(Sample(time_ns, time_ns, POSTURE))
    assert written(recorder, tmp_path / "flights").states.received_ns.tolist() == [5, 6]


MALFORMED = {
    "too short": (POSTURE[:6], 6),
    "too long": (np.zeros(700), 700),
    "nothing": (None, 0),
    "no numbers": (np.array(["a"] * 8), 8),
    "objects": (np.array([None] * 8), 8),
    "a table": (np.zeros((2, 4)), 8),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_request_that_no_gate_takes_is_recorded_for_what_it_was(
    record: Callable[..., FlightRecorder], tmp_path: Path, name: str
) -> None:
    requested, size = MALFORMED[name]
    recorder = record()
    recorder.on_command(Command(0, POSTURE, requested, (Reason.MALFORMED,)), 0)
    flight = written(recorder, tmp_path / "flights")
    assert flight.commands.requested_size.tolist() == [size]
    assert np.isnan(flight.commands.requested).all()
    assert FlightSummary(flight).reasons()[0].reason == "request has the wrong size"


def test_dumps_never_replace_each_other(record: Callable[..., FlightRecorder], tmp_path: Path, said: list[str]) -> None:
    recorder = record(fs=FastFs())
    for number in range(WAITING_MAX):
        recorder.on_state(Sample(number, number, POSTURE))
        recorder.dump("test")
    recorder.close()
    counts = sorted(len(read_flight(path).states.stamp_ns) for path in dump_folders(tmp_path / "flights"))
    assert counts == [1, 2, 3, 4]
    assert len(said) == 4


def test_the_oldest_make_room_and_the_newest_stays_whatever_the_clock_says(
    record: Callable[..., FlightRecorder], tmp_path: Path
) -> None:
    folder = tmp_path / "flights"
    folder.mkdir()
    for year in (2999, 2998, 2997):
        (folder / f"flight_{year}0101T000000.000Z_old").mkdir()
    (folder / "notes").mkdir()
    (folder / ".flight_2996_half.partial").mkdir()
    recorder = record(kept=2, fs=FastFs())
    recorder.dump("new")
    recorder.close()
    names = sorted(path.name for path in folder.iterdir())
    assert names[1:] == ["flight_29990101T000000.000Z_old", "notes"]
    assert names[0].endswith("Z_new")


def test_a_folder_that_cannot_be_made_is_told_and_the_loop_goes_on(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = FlightRecorder(tmp_path / "file" / "flights", SPEC, log=said.append)
    sent = fly(recorder)
    recorder.close()
    assert sent[-1].state is GateState.LATCHED
    (line,) = said
    assert line.startswith("flight recorder: 'tracking_lost' is not written: NotADirectoryError")
    assert "file" in line


def test_a_full_disk_is_told_and_the_dump_before_is_kept(
    record: Callable[..., FlightRecorder], tmp_path: Path, said: list[str]
) -> None:
    fs = QuotaFs(tmp_path, 1_000_000)
    recorder = record(fs=fs)
    fly(recorder)
    recorder.close()
    fs.limit_bytes = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) + 10_000
    again = record(fs=fs)
    fly(again)
    again.close()
    assert "No space left on device" in said[1]
    (dump,) = (tmp_path / "flights").iterdir()
    assert len(read_flight(dump).commands.stamp_ns) == 501


def few(recorder: FlightRecorder) -> None:
    """Record ten states and have them dumped twice."""
    for k in range(10):
        recorder.on_state(Sample(k, k, POSTURE))
    recorder.dump("first")
    recorder.dump("second")
    recorder.close()


def test_whatever_the_disk_refuses_no_half_of_a_dump_is_left(tmp_path: Path) -> None:
    whole = CrashFs(tmp_path)
    few(FlightRecorder(tmp_path / "whole", SPEC, log=lambda _: None, fs=whole, kept=1))
    assert len(whole.log) > 20
    for at in range(len(whole.log)):
        said: list[str] = []
        folder = tmp_path / f"refused_{at}"
        fs = FailingFs(tmp_path, at, errno.EIO)
        few(FlightRecorder(folder, SPEC, log=said.append, fs=fs, kept=1))
        assert fs.failed is not None
        assert any("Input/output error" in line for line in said), fs.failed
        for dump in dump_folders(folder):
            assert len(read_flight(dump).states.stamp_ns) == 10, fs.failed
        assert dump_folders(folder), fs.failed


def test_a_crash_at_any_step_leaves_whole_dumps_and_the_older_one(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    fs = CrashFs(root)
    few(FlightRecorder(root / "flights", SPEC, log=lambda _: None, fs=fs, kept=1))
    tried = 0
    for where, tree, _ in states({}, fs.log, final=None, every=1):
        left = tmp_path / f"crash_{tried}"
        write_tree(left, tree)
        for dump in dump_folders(left / "flights"):
            assert len(read_flight(dump).states.stamp_ns) == 10, where
        few(FlightRecorder(left / "flights", SPEC, log=lambda _: None, fs=FastFs()))
        assert not list((left / "flights").glob(".*")), where
        tried += 1
    assert tried > 20


class StuckFs(FastFs):
    """A disk that does not answer until `freed` is set."""

    def __init__(self) -> None:
        self.freed = threading.Event()
        self.asked = threading.Event()

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self.asked.set()
        assert self.freed.wait(60)
        super().write(path, data)


def test_a_disk_that_is_stuck_makes_nobody_wait(
    record: Callable[..., FlightRecorder], tmp_path: Path, said: list[str]
) -> None:
    fs = StuckFs()
    recorder = record(fs=fs)
    recorder.dump("first")
    assert fs.asked.wait(60)
    for number in range(WAITING_MAX + 2):
        # Were the disk waited for, this would never come to its end.
        recorder.dump(f"later {number}")
    recorder.close(timeout_s=0.0)
    assert not fs.freed.is_set()
    waits = f"flight recorder: {WAITING_MAX} dumps wait for the disk already"
    assert said[:2] == [f"{waits}; 'later 4' is not written", f"{waits}; 'later 5' is not written"]
    assert "the disk has not answered" in said[2]
    fs.freed.set()
    recorder.close(timeout_s=60)
    assert len(dump_folders(tmp_path / "flights")) == 1 + WAITING_MAX


@pytest.mark.parametrize(("option", "value"), [("seconds", 0.0), ("seconds", float("inf")), ("kept", 0)])
def test_impossible_settings_are_named(record: Callable[..., FlightRecorder], option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        record(**{option: value})


@pytest.fixture
def dump(flown: tuple[Path, list[Command]], tmp_path: Path) -> Path:
    """A copy of the dump that a test may spoil."""
    write_tree(tmp_path / "dump", read_tree(flown[0]))
    return tmp_path / "dump"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", [ARRAYS, DOCUMENT])
def test_a_truncated_dump_is_refused_naming_the_file(dump: Path, name: str, share: float) -> None:
    content = (dump / name).read_bytes()
    (dump / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(FlightError, match=re.escape(str(dump / name))):
        read_flight(dump)


@given(st.data())
def test_a_flipped_bit_in_the_arrays_is_noticed_or_changes_nothing(
    flown: tuple[Path, list[Command]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sound = read_flight(flown[0])
    content = bytearray((flown[0] / ARRAYS).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    spoilt = tmp_path_factory.mktemp("spoilt")
    (spoilt / DOCUMENT).write_bytes((flown[0] / DOCUMENT).read_bytes())
    (spoilt / ARRAYS).write_bytes(content)
    try:
        found = read_flight(spoilt)
    except FlightError:
        return
    # A bit of the archive that says nothing about the content, such as a date.
    for part in ("states", "commands", "chunks", "limits"):
        for name, array in vars(getattr(sound, part)).items():
            np.testing.assert_array_equal(getattr(getattr(found, part), name), array)


DOCUMENTS = {
    "format armature-flight 2, this version reads armature-flight 1": lambda d: d.update(format_version=2),
    "unknown key of About 'extra'": lambda d: d.update(extra=1),
    "lacks key 'labels'": lambda d: d.pop("labels"),
    "commands.state goes up to 3, there are 2 names": lambda d: d.update(states=["armed", "hold"]),
    "8 labels, 7 units": lambda d: d.update(units=d["units"][:7]),
    r"expected kind f \(501, 7\)": lambda d: d.update(labels=d["labels"][:7], units=d["units"][:7]),
}


@pytest.mark.parametrize(("message", "change"), DOCUMENTS.items(), ids=DOCUMENTS.keys())
def test_a_description_that_does_not_fit_is_refused(dump: Path, message: str, change: Callable[[dict], object]) -> None:
    document = json.loads((dump / DOCUMENT).read_text())
    change(document)
    (dump / DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(FlightError, match=message):
        read_flight(dump)


ARRAY_CHANGES = {
    "lacks commands.action": lambda a: a.pop("commands.action"),
    "unknown array more": lambda a: a.update(more=np.zeros(1)),
    r"commands.state is float64 \(501,\)": lambda a: a.update({"commands.state": np.full(501, np.nan)}),
    r"states.value is float64 \(501, 9\)": lambda a: a.update({"states.value": np.zeros((501, 9))}),
    r"chunks.length is int64 \(\)": lambda a: a.update({"chunks.length": np.int64(5)}),
    r"chunks.actions is float64 .* expected kind f \(-1, 8\)": lambda a: a["chunks.length"].__setitem__(0, -16),
}


@pytest.mark.parametrize(("message", "change"), ARRAY_CHANGES.items(), ids=ARRAY_CHANGES.keys())
def test_arrays_that_do_not_fit_are_refused(dump: Path, message: str, change: Callable[[dict], object]) -> None:
    with np.load(dump / ARRAYS) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(dump / ARRAYS, **arrays)
    with pytest.raises(FlightError, match=message):
        read_flight(dump)


@pytest.mark.fault(row=38)
def test_a_pickle_in_a_dump_is_not_run(dump: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> tuple:
            return (marker.touch, ())

    with np.load(dump / ARRAYS) as archive:
        arrays = dict(archive)
    np.savez(dump / ARRAYS, **{**arrays, "states.stamp_ns": np.array([Malicious()], dtype=object)})
    with pytest.raises(FlightError, match="allow_pickle"):
        read_flight(dump)
    assert not marker.exists()


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(dump: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("states.value.npy", "w") as file:
        for _ in range(600):
            file.write(bytes(2**20))
    (dump / ARRAYS).write_bytes(buffer.getvalue())
    with pytest.raises(FlightError, match="would need 629145600 bytes, at most 536870912 are read"):
        read_flight(dump)


class Tags(HTMLParser):
    """Notes what a page loads, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def require_whole(page: str, figures: int) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(target.startswith("#") for target in tags.loads)
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == figures
    for svg in drawn:
        ElementTree.fromstring(svg)


def test_terminal_and_page_tell_what_happened(
    flown: tuple[Path, list[Command]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = tmp_path / "flight.html"
    assert armature(["flight", str(flown[0].parent), "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    text = page.read_text()
    require_whole(text, figures=3)
    assert "<h1>Arm is far from where it was commanded to be</h1>" in text
    for words in ("latched", "arm is far from where it was commanded to be", "panda_joint1", "test-0123456789ab"):
        assert words in text
    assert str(flown[0]) in " ".join(out.split())
    assert "arm is far from where it was commanded to be" in out
    assert "latched" in out
    assert "1 of no use" in out
    assert f"page: {page}" in err


def test_the_figures_are_those_of_the_drive(flown: tuple[Path, list[Command]]) -> None:
    summary = FlightSummary(read_flight(flown[0]))
    assert summary.period_s == 0.01
    assert (summary.begin_s, summary.command_s[-1]) == (-5.0, 0.0)
    assert summary.chunk_counts() == (13, 1)
    assert [change.state for change in summary.changes()] == ["armed", "latched"]
    joint = summary.elements()[0]
    assert (joint.label, joint.unit, joint.velocity_max) == ("panda_joint1", "rad", 1.0875)
    assert joint.tracking == pytest.approx(0.2, abs=0.02)
    steps = np.diff([command.action[0] for command in flown[1][-501:]])
    assert joint.commanded_speed == pytest.approx(np.abs(steps).max() / 0.01)
    assert summary.elements()[7].velocity_max == float("inf")
    last = summary.ticks(1)[0]
    assert (last.state, last.tracking_label, last.state_age_s) == ("latched", "panda_joint1", 0.0)
    assert last.tracking == pytest.approx(joint.tracking)


def test_texts_of_a_dump_are_escaped(dump: Path) -> None:
    document = json.loads((dump / DOCUMENT).read_text())
    document["reason"] = "<script>alert(1)</script>"
    document["labels"][0] = "$\\frac{<u>"
    (dump / DOCUMENT).write_text(json.dumps(document))
    page = render(FlightSummary(read_flight(dump)), "<i>name")
    assert "&lt;script&gt;alert(1)" in page
    assert not {"<script", "<i>", "<u>"} & set(re.findall(r"<[a-z]+>?", page))
    require_whole(page, figures=3)


def test_a_dump_of_nothing_can_be_shown(
    record: Callable[..., FlightRecorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flight = written(record(), tmp_path / "flights")
    require_whole(render(FlightSummary(flight), "empty"), figures=2)
    assert armature(["flight", str(tmp_path / "flights")]) == 0
    assert "none came" in capsys.readouterr().out


@pytest.mark.parametrize(("make", "words"), [(False, "there is no such folder"), (True, "holds neither flight.json")])
def test_what_is_no_dump_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool, words: str
) -> None:
    if make:
        (tmp_path / "other").mkdir()
    assert armature(["flight", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_page_that_cannot_be_written_is_named(
    flown: tuple[Path, list[Command]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert armature(["flight", str(flown[0]), "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "page.html: cannot be written: No such file" in capsys.readouterr().err
