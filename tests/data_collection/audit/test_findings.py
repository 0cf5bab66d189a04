"""Every kind of finding, on a small synthetic arm whose motion is known."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from armature.errors import ConfigError
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.audit.config import AuditConfig
from data_collection.audit.content import runs
from data_collection.audit.dataset_audit import DatasetAudit, audit_dataset
from data_collection.audit.findings import KINDS, Finding, worst
from data_collection.audit.motion import Motion
from data_collection.audit.skew import content_lag
from data_collection.audit.timing import Span, Timing, gaps, median_age_s
from data_collection.audit.traces import ImageTrace, VectorTrace
from data_collection.store import open_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER

CAMERA, JOINTS, TCP, GRIPPER = "camera/scene", "joint/position", "tcp/pose", "gripper/opening"
RATE_HZ = {ACTION_EXECUTED: 50, JOINTS: 100, TCP: 100, GRIPPER: 50, CAMERA: 30}
BEGIN_NS = 1_700_000_000_000_000_017
DURATION_S = 8.0
_ARM = ArraySpec(JOINTS, (2,), "float32", "rad", "", (-3.0, -3.0), (3.0, 3.0), ("shoulder", "elbow"))
ARM = RobotSpec(
    "arm",
    ObservationSpec(
        (
            ArraySpec(CAMERA, (36, 48, 3), "uint8", "rgb8"),
            _ARM,
            ArraySpec(TCP, (2,), "float32", "m", labels=("x", "y")),
            ArraySpec(GRIPPER, (1,), "float32", "m"),
        ),
        30.0,
    ),
    ActionSpec("joint_position", (_ARM,), 50.0),
)


def angles(time_s: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Where the arm is: a smooth motion that goes on all the time and whose speed changes."""
    phase = np.random.default_rng(seed).uniform(0, 6, 4)
    first = 0.8 * np.sin(1.1 * time_s + phase[0]) + 0.3 * np.sin(3.7 * time_s + phase[1])
    second = 0.7 * np.sin(1.7 * time_s + phase[2]) + 0.25 * np.sin(4.3 * time_s + phase[3])
    return np.stack([first, second], axis=-1)


def picture(q: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A bar that turns with the arm, before a structured ground."""
    y, x = np.mgrid[0:72, 0:96]
    image = np.stack([60 + 30 * np.sin(x / 9), 70 + 20 * np.cos(y / 7), 90 + 0 * x], axis=-1).astype(np.uint8)
    base, shoulder, elbow = np.array([48.0, 66.0]), q[0], q[0] + q[1]
    middle = base + 30 * np.array([np.sin(shoulder), -np.cos(shoulder)])
    tip = middle + 26 * np.array([np.sin(elbow), -np.cos(elbow)])
    for a, b, colour in ((base, middle, (230, 225, 220)), (middle, tip, (240, 120, 60))):
        ends = (tuple((16 * p).round().astype(int).tolist()) for p in (a, b))
        cv2.line(image, *ends, colour, 7, cv2.LINE_AA, shift=4)
    return cv2.resize(image, (48, 36), interpolation=cv2.INTER_AREA)


def values_at(stream: str, time_s: NDArray[np.float64], seed: int = 0) -> NDArray[Any]:
    q = angles(time_s, seed)
    if stream == CAMERA:
        return np.stack([picture(row) for row in q])
    if stream == TCP:
        return np.stack([np.sin(q[:, 0]), np.cos(q[:, 1])], axis=-1).astype(np.float32)
    if stream == GRIPPER:
        return np.full((len(time_s), 1), 0.04, np.float32)
    return q.astype(np.float64 if stream == ACTION_EXECUTED else np.float32)


def recording(seed: int = 0, jitter_s: float = 0.002) -> dict[str, tuple[NDArray[np.int64], NDArray[Any]]]:
    """All streams at their own rates, with uneven stamps."""
    rng, found = np.random.default_rng(seed + 100), {}
    for stream, rate_hz in RATE_HZ.items():
        time_s = np.arange(0, DURATION_S, 1 / rate_hz)
        time_s = time_s + rng.uniform(0, min(jitter_s, 0.2 / rate_hz), len(time_s))
        found[stream] = (BEGIN_NS + (1e9 * time_s).astype(np.int64), values_at(stream, time_s, seed))
    return found


@pytest.fixture(scope="module")
def clean() -> dict:
    return recording()


@pytest.fixture
def audit_of(write_dataset, clean):
    """Return a function that audits one recording, changed as told."""

    def audit(changes: dict | None = None, config: AuditConfig | None = None, spec=ARM, **metadata) -> DatasetAudit:
        merged = {name: part for name, part in {**clean, **(changes or {})}.items() if part is not None}
        given = {"success": True, "outcome": "success", **metadata}
        return audit_dataset(write_dataset(spec, [merged], metadata=given), config or AuditConfig())

    return audit


def summary(audit: DatasetAudit) -> list[tuple[str, str, float | None]]:
    return [(f.stream, f.kind, None if f.at_s is None else round(f.at_s, 1)) for f in audit.findings]


def test_a_clean_recording_with_uneven_stamps_gives_nothing(audit_of) -> None:
    audit = audit_of()
    assert audit.findings == []
    lag = audit.episodes[0].lags[CAMERA]
    assert abs(lag.lag_s) < 0.006
    assert lag.is_trustworthy(AuditConfig())


def test_gaps_at_the_begin_inside_and_at_the_end(audit_of, clean) -> None:
    stamps_ns, frames = clean[CAMERA]
    time_s = (stamps_ns - BEGIN_NS) / 1e9
    kept = (time_s > 0.5) & ((time_s < 3) | (time_s > 3.4)) & (time_s < 7)
    audit = audit_of({CAMERA: (stamps_ns[kept], frames[kept])})
    assert summary(audit) == [(CAMERA, "gap", 0.0), (CAMERA, "gap", 3.0), (CAMERA, "gap", 7.0)]
    begin, inside, end = (f.message for f in audit.findings)
    assert "begins 0.5" in begin
    assert "no sample for 0.4" in inside
    assert "ends 1.0" in end


def test_a_frozen_joint_stream_and_its_leap(audit_of, clean) -> None:
    stamps_ns, values = clean[JOINTS]
    stuck = values.copy()
    stuck[300:400] = stuck[299]
    audit = audit_of({JOINTS: (stamps_ns, stuck)})
    kinds = {(f.stream, f.kind, round(f.at_s, 2)) for f in audit.findings}
    assert (JOINTS, "frozen", 2.99) in kinds
    assert {kind for _, kind, _ in kinds} <= {"frozen", "jump"}


def test_a_frozen_vector_shows_by_its_leap_but_a_gripper_may_rest(audit_of, clean) -> None:
    stamps_ns, values = clean[TCP]
    stuck = values.copy()
    stuck[200:300] = stuck[199]
    assert summary(audit_of({TCP: (stamps_ns, stuck)})) == [(TCP, "still", 2.0)]


@pytest.mark.parametrize(("first", "kinds"), [(0, ["frozen"]), (60, ["frozen"])], ids=["throughout", "to the end"])
def test_a_camera_that_never_comes_back(audit_of, clean, first: int, kinds: list[str]) -> None:
    stamps_ns, frames = clean[CAMERA]
    stuck = frames.copy()
    stuck[first:] = stuck[first]
    (finding,) = audit_of({CAMERA: (stamps_ns, stuck)}).findings
    assert (finding.stream, finding.kind) == (CAMERA, "frozen")
    assert finding.at_s == pytest.approx(first / 30, abs=0.01)
    assert finding.value == pytest.approx(DURATION_S - (first + 1) / 30, abs=0.01)


def test_equal_frames_while_the_robot_rests_are_no_fault(audit_of, clean) -> None:
    resting = {}
    for stream, (stamps_ns, _) in clean.items():
        time_s = (stamps_ns - BEGIN_NS) / 1e9
        held_s = np.where(time_s < 2, time_s, np.where(time_s < 5, 2.0, time_s - 3))
        resting[stream] = (stamps_ns, values_at(stream, held_s))
    audit = audit_of(resting)
    assert [(f.stream, f.kind, f.severity) for f in audit.findings] == [(JOINTS, "idle", "note")]
    assert (audit.findings[0].at_s, audit.findings[0].value) == (pytest.approx(2, abs=0.1), pytest.approx(3, abs=0.15))
    assert audit.episodes[0].streams[CAMERA].repeated > 80
    assert audit.faults == []


def test_frames_inserted_between_others_are_repeats(audit_of, clean) -> None:
    stamps_ns, frames = clean[CAMERA]
    rows = np.sort(np.r_[np.arange(len(frames)), [40, 90]])
    stamps_ns = stamps_ns[rows]
    stamps_ns[1:][np.diff(rows) == 0] += 1_000_000
    (finding,) = audit_of({CAMERA: (stamps_ns, frames[rows])}).findings
    assert (finding.kind, finding.value, finding.at_s) == ("repeated", 2, pytest.approx(40 / 30, abs=0.01))
    assert not audit_of({CAMERA: (stamps_ns, frames[rows])}, AuditConfig(repeated_frames=2)).findings


def test_a_spike_is_two_jumps_and_a_full_turn_is_a_note(audit_of, clean) -> None:
    stamps_ns, values = clean[JOINTS]
    spiked, turned = values.copy(), values.copy()
    spiked[500, 1] += 0.2
    turned[500:, 0] += np.float32(2 * np.pi)
    assert summary(audit_of({JOINTS: (stamps_ns, spiked)})) == [(JOINTS, "jump", 5.0), (JOINTS, "jump", 5.0)]
    (finding,) = audit_of({JOINTS: (stamps_ns, turned)}).findings
    assert (finding.kind, finding.severity) == ("wrap", "note")
    assert finding.message.startswith("shoulder turns over by +6.")


def test_a_leap_in_an_unknown_unit_is_only_noted(write_dataset, clean) -> None:
    state = ArraySpec("state", (2,), "float32", "unknown", labels=("palm", "thumb"))
    spec = RobotSpec("hand", ObservationSpec((state,), 30.0), ActionSpec("controller_input", (state,), 50.0))
    stamps_ns, values = clean[JOINTS]
    values = values.copy()
    values[500:, 1] += 0.8
    recording = {"state": (stamps_ns, values), ACTION_EXECUTED: clean[ACTION_EXECUTED]}
    (finding,) = audit_dataset(write_dataset(spec, [recording]), AuditConfig()).findings
    assert (finding.kind, finding.severity, finding.at_s) == ("step", "note", pytest.approx(5, abs=0.01))
    assert finding.message.startswith("thumb leaps by +0.7")


def test_not_a_number_is_found_wherever_it_is(audit_of, clean) -> None:
    joints, commands = clean[JOINTS][1].copy(), clean[ACTION_EXECUTED][1].copy()
    joints[250, 0], commands[100:103, 1] = np.nan, np.inf
    audit = audit_of({JOINTS: (clean[JOINTS][0], joints), ACTION_EXECUTED: (clean[ACTION_EXECUTED][0], commands)})
    assert {(f.stream, f.kind, f.value) for f in audit.faults} == {
        (JOINTS, "not_finite", 1),
        (ACTION_EXECUTED, "not_finite", 3),
    }


def test_reward_takeover_and_request_are_read_too(audit_of, write_dataset, clean) -> None:
    stamps_ns, commands = clean[ACTION_EXECUTED]
    rewards, requests = np.zeros((len(stamps_ns), 1)), np.full_like(commands, np.nan)
    engaged = np.zeros((len(stamps_ns), 1), np.uint8)
    optional = {REWARD: (stamps_ns, rewards), ACTION_REQUESTED: (stamps_ns, requests), TAKEOVER: (stamps_ns, engaged)}
    audit = audit_of(optional)
    assert audit.findings == []
    assert {REWARD, ACTION_REQUESTED, TAKEOVER} < audit.episodes[0].streams.keys()
    rewards[7] = np.nan
    counts = {TAKEOVER: {"received": 240, "dropped": {"queue_full": 10}}}
    found = {(f.stream, f.kind, f.value) for f in audit_of(optional, counts=counts).faults}
    assert found == {(REWARD, "not_finite", 1), (TAKEOVER, "drops", 10 / 240)}
    dataset = write_dataset(ARM, [clean | optional], "damaged")
    (chunk,) = (dataset.path / "episodes/000000" / REWARD / "data").glob("c.*")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert [(f.stream, f.kind) for f in audit_dataset(dataset, AuditConfig()).faults] == [(REWARD, "damaged")]


def test_saturated_commands_are_noted_but_switches_are_not(audit_of, clean) -> None:
    stamps_ns, values = clean[ACTION_EXECUTED]
    limited = np.clip(values * 3.2, -3, 3)
    limited[:, 1] = np.where(values[:, 1] > 0, 3.0, -3.0)
    audit = audit_of({ACTION_EXECUTED: (stamps_ns, limited)})
    (finding,) = audit.findings
    assert (finding.kind, finding.severity, finding.stream) == ("saturated", "note", ACTION_EXECUTED)
    assert finding.value == pytest.approx(float((np.abs(limited[:, 0]) >= 3).mean()))
    assert finding.message.startswith("shoulder is at its bound in ")


def test_rates_jitter_and_clocks(audit_of, clean) -> None:
    stamps_ns, frames = clean[CAMERA]
    assert summary(audit_of({CAMERA: (stamps_ns[::2], frames[::2])})) == [(CAMERA, "rate", None)]
    stamps_ns, commands = clean[ACTION_EXECUTED]
    fast = BEGIN_NS + (np.arange(400) * 0.01e9).astype(np.int64)
    alone = {CAMERA: None, JOINTS: None, TCP: None, GRIPPER: None}
    # A control loop at 100 Hz repeats and interpolates targets; displacements that come too often add up.
    assert "rate" not in {kind for _, kind, _ in summary(audit_of({ACTION_EXECUTED: (fast, commands), **alone}))}
    displacing = replace(ARM, action=replace(ARM.action, kind="controller_input"))
    found = audit_of({ACTION_EXECUTED: (fast, commands), **alone}, spec=displacing)
    assert (ACTION_EXECUTED, "rate", None) in summary(found)
    found = audit_of({ACTION_EXECUTED: (stamps_ns[::2], commands[::2]), **alone})
    assert (ACTION_EXECUTED, "rate", None) in summary(found)
    uneven = BEGIN_NS + np.arange(240, dtype=np.int64) * 33_000_000
    uneven[1::2] += 7_000_000
    found = audit_of({CAMERA: (uneven, values_at(CAMERA, (uneven - BEGIN_NS) / 1e9))}, AuditConfig(jitter=0.3))
    assert summary(found) == [(CAMERA, "jitter", None)]


def test_a_camera_on_another_clock_is_a_stamp_skew(audit_of, clean) -> None:
    stamps_ns, frames = clean[CAMERA]
    found = audit_of({CAMERA: (stamps_ns - 3_600_000_000_000, frames)}).findings
    assert (CAMERA, "stamp_skew", 1.0) in {(f.stream, f.kind, f.value) for f in found}
    # A small shift leaves the ages as they were, and only the content tells.
    (finding,) = audit_of({CAMERA: (stamps_ns - 60_000_000, frames)}).findings
    assert (finding.kind, finding.value) == ("content_skew", pytest.approx(0.06, abs=0.01))
    assert "ms ahead of the joints" in finding.message


def test_streams_without_samples_and_dropped_ones(audit_of) -> None:
    assert summary(audit_of({TCP: None})) == [(TCP, "missing", None)]
    assert summary(audit_of({ACTION_EXECUTED: None})) == [(ACTION_EXECUTED, "missing", None)]
    counts = {CAMERA: {"received": 240, "recorded": 230, "dropped": {"queue_full": 7, "invalid": 3}}}
    (finding,) = audit_of(counts=counts).findings
    assert (finding.stream, finding.kind, finding.message) == (
        CAMERA, "drops", "10 of 240 samples were dropped while recording",
    )  # fmt: skip
    assert audit_of(counts={CAMERA: {"received": 2000, "dropped": {"invalid": 3}}}).findings == []


@pytest.mark.parametrize("counts", ["many", {CAMERA: 3}, {CAMERA: {"dropped": "x", "received": None}}])
def test_foreign_counts_are_not_believed(audit_of, counts: Any) -> None:
    assert audit_of(counts=counts).findings == []


def test_outcomes_twins_and_damage(write_dataset, clean) -> None:
    dataset = write_dataset(ARM, [clean, clean], metadata={})
    assert summary(audit_dataset(dataset, AuditConfig())) == [("", "outcome", None), ("", "twin", None)]
    victims = sorted((dataset.path / "episodes" / "000001" / "tcp").rglob("*"))
    largest = max((file for file in victims if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-40])
    audit = audit_dataset(dataset, AuditConfig())
    (finding,) = audit.faults
    assert (finding.episode, finding.stream, finding.kind) == (1, TCP, "damaged")
    assert CAMERA in audit.episodes[1].lags


def test_an_interrupted_recording_is_noted(write_dataset, clean) -> None:
    # What a recorder leaves that died: whole blocks, no end.
    dataset = write_dataset(ARM, [])
    with dataset.writer() as writer:
        episode = writer.begin({})
        for stream, (stamps_ns, values) in clean.items():
            episode.append(stream, stamps_ns, stamps_ns, values)
        episode.commit()
        copied = shutil.copytree(dataset.path, dataset.path.with_name("copy"), ignore=shutil.ignore_patterns("*.lock"))
    audit = audit_dataset(open_dataset(copied), AuditConfig())
    assert "incomplete" in {finding.kind for finding in audit.findings}


def test_a_dataset_without_episodes_has_no_findings(write_dataset) -> None:
    assert audit_dataset(write_dataset(ARM, []), AuditConfig()).findings == []


def test_limits_that_make_no_sense_are_refused(audit_of) -> None:
    with pytest.raises(ConfigError, match="gap_s is -1, must be finite and not negative"):
        AuditConfig(gap_s=-1)
    with pytest.raises(ConfigError, match=r"unknown motion_stream 'joint/positon'. Did you mean 'joint/position'"):
        audit_of(config=AuditConfig(motion_stream="joint/positon"))


@given(st.lists(st.integers(1, 400), min_size=3, max_size=60))
def test_exactly_the_distances_above_the_limit_are_gaps(steps_ms: list[int]) -> None:
    stamps_ns = BEGIN_NS + np.concatenate(([0], np.cumsum(steps_ms))).astype(np.int64) * 1_000_000
    span, config = Span(int(stamps_ns[0]), int(stamps_ns[-1])), AuditConfig()
    limit_s = max(0.1, 2.5 * float(np.median(steps_ms)) / 1e3)
    expected = [
        (round(1e-3 * sum(steps_ms[:k]), 3), step / 1e3) for k, step in enumerate(steps_ms) if step / 1e3 > limit_s
    ]
    found = [(round(f.at_s, 3), f.value) for f in gaps(0, "x", stamps_ns, span, config)]
    assert found == expected


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50), st.integers(0, 5_000_000))
def test_the_age_of_a_stream_at_its_own_stamps_is_the_delay(steps: list[int], delay_ns: int) -> None:
    stamps_ns = np.cumsum(steps).astype(np.int64) * 10_000_000
    assert median_age_s(stamps_ns, stamps_ns + delay_ns) == pytest.approx(delay_ns / 1e9)
    assert median_age_s(stamps_ns, stamps_ns - 10_000_000_000_000) == np.inf


@given(st.lists(st.booleans(), max_size=40))
def test_runs_cover_exactly_what_is_true(flags: list[bool]) -> None:
    rebuilt = np.zeros(len(flags), bool)
    found = runs(np.array(flags, bool))
    for first, last in found:
        rebuilt[first : last + 1] = True
    assert rebuilt.tolist() == flags
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(found))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6), lag_ms=st.integers(-120, 120))
def test_a_lag_that_is_trusted_is_not_far_off(seed: int, lag_ms: int) -> None:
    joints_s, frames_s = np.arange(0, DURATION_S, 0.01), np.arange(0, DURATION_S, 1 / 30)
    frames = values_at(CAMERA, frames_s - lag_ms / 1e3, seed)
    grey = frames.astype(np.float32).mean(axis=3)
    motion = np.concatenate(([0], np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2)))).astype(np.float32)
    camera = ImageTrace((1e9 * frames_s).astype(np.int64), np.zeros(len(frames), bool), motion)
    lag = content_lag(camera, Motion.of(VectorTrace((1e9 * joints_s).astype(np.int64), angles(joints_s, seed))))
    if lag.is_trustworthy(AuditConfig()):
        assert lag.lag_s == pytest.approx(lag_ms / 1e3, abs=0.025)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_motion_that_has_nothing_to_do_with_the_joints_is_not_trusted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stamps_ns = (np.arange(240) * 1e9 / 30).astype(np.int64)
    camera = ImageTrace(stamps_ns, np.zeros(240, bool), rng.uniform(0, 5, 240).astype(np.float32))
    lag = content_lag(camera, Motion.of(VectorTrace(stamps_ns, angles(stamps_ns / 1e9, seed))))
    assert not lag.is_trustworthy(AuditConfig())


def test_a_robot_that_stands_still_has_no_lag_and_no_frozen_camera() -> None:
    stamps_ns = (np.arange(100) * 1e8).astype(np.int64)
    still = Motion.of(VectorTrace(stamps_ns, np.ones((100, 3))))
    assert still.fast == 0
    assert not still.is_moving(stamps_ns, 0.1).any()
    assert content_lag(ImageTrace(stamps_ns, np.zeros(100, bool), np.ones(100, np.float32)), still) is None


def test_the_worst_findings_are_kept_and_the_others_counted() -> None:
    many = [Finding(0, "x", "gap", float(k), value, 0.1, "silent") for k, value in enumerate([1, 5, 2, 4, 3])]
    kept = worst(many, 2)
    assert [(f.at_s, f.value) for f in kept] == [(1.0, 5), (3.0, 4)]
    assert kept[-1].message == "silent; and 3 smaller of this kind in the episode"
    assert worst(many, 5) == many


def test_every_kind_says_what_it_means() -> None:
    assert all(severity in ("fault", "note") and meaning for severity, meaning in KINDS.values())


def test_timing_of_few_samples() -> None:
    assert Timing.of(np.empty(0, np.int64)) == Timing(0, 0.0, 0.0, 0.0, 0.0)
    assert Timing.of(np.array([7])) == Timing(1, 0.0, 0.0, 0.0, 0.0)
    assert Timing.of(np.array([0, 10**8, 3 * 10**8])).rate_hz == pytest.approx(2 / 0.3)
