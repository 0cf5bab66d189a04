"""Faults planted into recordings of the real simulator: each is found where it was put, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from armature.spec import JOINT_POSITION
from data_collection.audit.config import AuditConfig
from data_collection.audit.dataset_audit import audit_dataset

SCENE, WRIST = "camera/scene", "camera/wrist"


def without_frames(recording, stream, first, last):
    stamps_ns, values = recording[stream]
    rows = np.r_[0:first, last + 1 : len(stamps_ns)]
    return {**recording, stream: (stamps_ns[rows], values[rows])}


def frozen(recording, stream, first, last):
    stamps_ns, values = recording[stream]
    values = values.copy()
    values[first : last + 1] = values[first - 1]
    return {**recording, stream: (stamps_ns, values)}


def late(recording, stream, delay_ns):
    stamps_ns, values = recording[stream]
    return {**recording, stream: (stamps_ns + delay_ns, values)}


def leaping(recording, stream, at, element, by):
    stamps_ns, values = recording[stream]
    values = values.copy()
    values[at:, element] += by
    return {**recording, stream: (stamps_ns, values)}


def duplicated(recording, stream, rows):
    stamps_ns, values = recording[stream]
    values = values.copy()
    for row in rows:
        values[row] = values[row - 1]
    return {**recording, stream: (stamps_ns, values)}


PLANTS = {
    1: lambda r: without_frames(r, SCENE, 20, 27),
    2: lambda r: frozen(r, WRIST, 12, 23),
    4: lambda r: late(r, SCENE, 40_000_000),
    5: lambda r: leaping(r, JOINT_POSITION, 25, 3, 0.3),
    6: lambda r: duplicated(r, SCENE, (9, 14, 21)),
}
"""Episode to what is done to it; the others stay as the simulator gave them."""
EXPECTED = {
    (1, SCENE, "gap"): (0.95, 0.45),
    (2, WRIST, "frozen"): (0.55, 0.60),
    (4, SCENE, "content_skew"): (None, 0.040),
    (5, JOINT_POSITION, "jump"): (1.25, 0.30),
    (6, SCENE, "repeated"): (0.45, 3),
}
"""Episode, stream and kind to the time and size of the finding."""
TOLERANCE = {"content_skew": 0.013, "jump": 0.06}


@pytest.mark.parametrize(
    "encodings", [pytest.param({}, marks=pytest.mark.slow), {SCENE: "jpeg", WRIST: "jpeg"}], ids=["lossless", "jpeg"]
)
def test_each_planted_fault_is_found_where_it_is_and_nothing_else(
    write_dataset, lift_spec, lift_recordings, encodings
) -> None:
    recordings = [PLANTS.get(k, lambda r: r)(r) for k, r in enumerate(lift_recordings)]
    audit = audit_dataset(write_dataset(lift_spec, recordings, encodings=encodings), AuditConfig())
    assert {(f.episode, f.stream, f.kind) for f in audit.findings} == set(EXPECTED)
    assert len(audit.findings) == len(EXPECTED)
    for finding in audit.findings:
        at_s, value = EXPECTED[finding.episode, finding.stream, finding.kind]
        assert finding.at_s == (None if at_s is None else pytest.approx(at_s))
        assert finding.value == pytest.approx(value, abs=TOLERANCE.get(finding.kind, 1e-6))
        assert finding.severity == "fault"
        assert finding.value > finding.limit


def test_nothing_is_found_in_clean_recordings(write_dataset, lift_spec, lift_recordings) -> None:
    audit = audit_dataset(write_dataset(lift_spec, lift_recordings), AuditConfig())
    assert audit.findings == []
    assert [episode.index for episode in audit.episodes] == list(range(len(lift_recordings)))
    lag_s, episodes = audit.lags_s[SCENE]
    assert abs(lag_s) < 0.015
    assert episodes == len(lift_recordings)


@pytest.mark.parametrize("delay_ms", [-40, 60])
def test_a_late_camera_is_measured_in_every_episode(write_dataset, lift_spec, lift_recordings, delay_ms: int) -> None:
    recordings = [late(r, SCENE, delay_ms * 1_000_000) for r in lift_recordings]
    audit = audit_dataset(write_dataset(lift_spec, recordings), AuditConfig())
    found = {f.episode: f.message for f in audit.findings if f.kind == "content_skew"}
    assert sorted(found) == list(range(len(lift_recordings)))
    assert all(("behind" if delay_ms > 0 else "ahead") in message for message in found.values())
    lag_s, _ = audit.lags_s[SCENE]
    assert lag_s == pytest.approx(delay_ms / 1e3, abs=0.015)
