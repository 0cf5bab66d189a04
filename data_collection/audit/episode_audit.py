"""The audit of one episode: every stream is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from armature.errors import DatasetError
from data_collection.audit import content, timing
from data_collection.audit.config import AuditConfig
from data_collection.audit.findings import Finding, worst
from data_collection.audit.motion import Motion, motion_stream
from data_collection.audit.skew import Lag, content_lag
from data_collection.audit.timing import Span, Timing
from data_collection.audit.traces import ImageTrace, VectorTrace, read_trace
from data_collection.store import Dataset, Episode
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, OPTIONAL

ABSOLUTE_ACTIONS = ("joint_position", "planar_position")


@dataclass(frozen=True)
class StreamFigures:
    """One stream of one episode."""

    timing: Timing
    dropped: int
    repeated: int
    """Samples equal to the one before, moving or not."""


@dataclass
class EpisodeAudit:
    """What was measured and found in one episode."""

    index: int
    outcome: str
    steps: int
    duration_s: float
    streams: dict[str, StreamFigures] = field(default_factory=dict[str, StreamFigures])
    lags: dict[str, Lag | None] = field(default_factory=dict[str, Lag | None])
    """Per camera, trustworthy or not."""
    findings: list[Finding] = field(default_factory=list[Finding])
    commands_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"findings": [finding_json(f) for f in self.findings]}


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as plain data."""
    return {"severity": finding.severity, **asdict(finding)}


def audit_episode(dataset: Dataset, episode: Episode, config: AuditConfig) -> EpisodeAudit:
    """Measure and judge one episode; damage becomes a finding."""
    audit = EpisodeAudit(episode.index, episode.outcome, episode.steps, episode.duration_s)
    examiner = _Examiner(dataset, episode, config, audit)
    found = list(examiner.findings())
    for key in dict.fromkeys((f.stream, f.kind) for f in found):
        audit.findings += worst([f for f in found if (f.stream, f.kind) == key], config.findings_max)
    audit.findings.sort(key=lambda f: (f.severity, f.at_s is None, f.at_s or 0.0))
    return audit


class _Examiner:
    """Reads the streams in an order in which each can be judged: commands, the robot's motion, the rest."""

    def __init__(self, dataset: Dataset, episode: Episode, config: AuditConfig, audit: EpisodeAudit) -> None:
        self.episode, self.config, self.audit = episode, config, audit
        self.spec, self.arrays = dataset.spec, dataset.streams
        self.index = episode.index
        self.motion_name = motion_stream(self.spec, config.motion_stream)

    def findings(self) -> Iterator[Finding]:
        yield from self._end()
        command = yield from self._read(ACTION_EXECUTED)
        if command is None or len(command.stamps_ns) == 0:
            return
        self.ticks_ns = command.stamps_ns
        self.span = Span(int(command.stamps_ns[0]), int(command.stamps_ns[-1]))
        yield from self._commands(command)
        path = None if self.motion_name is None else (yield from self._read(self.motion_name))
        motion = Motion.of(command if path is None or len(path.stamps_ns) == 0 else path)
        yield from content.idle(self.index, self.motion_name or ACTION_EXECUTED, motion, self.span, self.config)
        if path is not None and len(path.stamps_ns):
            yield from self._path(path, command)
        for array in self.spec.observation:
            if array.name != self.motion_name:
                yield from self._observation(array.name, motion)
        for name in OPTIONAL:
            yield from self._optional(name)

    def _end(self) -> Iterator[Finding]:
        if not self.episode.is_complete:
            yield self._whole("incomplete", 1, "the recording broke off; the committed part is kept")

    def _whole(self, kind: str, value: float, message: str, stream: str = "", limit: float = 0) -> Finding:
        return Finding(self.index, stream, kind, None, value, limit, message)

    def _read(self, stream: str) -> Any:
        """Read a stream and note its figures; yield what is wrong with it as a whole and return it, or None."""
        try:
            trace = read_trace(self.episode, stream, self.arrays[stream].is_image)
        except DatasetError as error:
            yield self._whole("damaged", 1, str(error), stream)
            return None
        dropped, received = _drops(self.episode.metadata, stream)
        if len(trace.stamps_ns) or dropped or stream not in OPTIONAL:
            figures = StreamFigures(Timing.of(trace.stamps_ns), dropped, int(trace.repeats.sum()))
            self.audit.streams[stream] = figures
        if len(trace.stamps_ns) == 0 and stream not in OPTIONAL:
            yield self._whole("missing", 1, "has no sample", stream)
        if dropped > self.config.drop_fraction * received:
            message = f"{dropped} of {received} samples were dropped while recording"
            yield self._whole("drops", dropped / received, message, stream, self.config.drop_fraction)
        return trace

    def _commands(self, command: VectorTrace) -> Iterator[Finding]:
        self.audit.commands_hash = hashlib.sha256(np.ascontiguousarray(command.values).tobytes()).hexdigest()[:16]
        # A control loop may command targets more often than a policy gives them; displacements would add up.
        adds_up = self.spec.action.kind not in ABSOLUTE_ACTIONS
        yield from self._timing(ACTION_EXECUTED, command, self.spec.action.rate_hz, exact=adds_up)
        yield from content.not_finite(self.index, ACTION_EXECUTED, command, self.span)
        yield from content.saturated(self.index, ACTION_EXECUTED, command, self.spec.action, self.config)

    def _path(self, path: VectorTrace, command: VectorTrace) -> Iterator[Finding]:
        name = str(self.motion_name)
        yield from self._timing(name, path, self.spec.observation.rate_hz)
        yield from content.not_finite(self.index, name, path, self.span)
        yield from content.jumps(self.index, self.arrays[name], path, self.span, self.config)
        # Only absolute targets tell by themselves that the robot should be moving.
        if self.spec.action.kind in ABSOLUTE_ACTIONS:
            yield from content.frozen_vector(self.index, name, path, Motion.of(command), True, self.span, self.config)

    def _observation(self, name: str, motion: Motion) -> Iterator[Finding]:
        trace = yield from self._read(name)
        if trace is None or len(trace.stamps_ns) == 0:
            return
        yield from self._timing(name, trace, self.spec.observation.rate_hz)
        judge = self._camera if isinstance(trace, ImageTrace) else self._vector
        yield from judge(name, trace, motion)

    def _camera(self, name: str, trace: ImageTrace, motion: Motion) -> Iterator[Finding]:
        self.audit.lags[name] = lag = content_lag(trace, motion)
        yield from timing.stamp_skew(self.index, name, trace.stamps_ns, self.ticks_ns, self.config)
        still = list(content.still_frames(self.index, name, trace, motion, self.span, self.config))
        yield from still
        # What little moved before or after a freeze is no ground to judge the lag on.
        if all(finding.kind != "frozen" for finding in still):
            yield from content.content_skew(self.index, name, trace, lag, self.config)

    def _vector(self, name: str, trace: VectorTrace, motion: Motion) -> Iterator[Finding]:
        yield from content.not_finite(self.index, name, trace, self.span)
        yield from content.frozen_vector(self.index, name, trace, motion, False, self.span, self.config)

    def _optional(self, name: str) -> Iterator[Finding]:
        trace = yield from self._read(name)
        # A request of NaN says that nothing was asked for.
        if trace is not None and name != ACTION_REQUESTED:
            yield from content.not_finite(self.index, name, trace, self.span)

    def _timing(
        self, name: str, trace: VectorTrace | ImageTrace, rate_hz: float, exact: bool = False
    ) -> Iterator[Finding]:
        yield from timing.gaps(self.index, name, trace.stamps_ns, self.span, self.config)
        yield from timing.rates(self.index, name, Timing.of(trace.stamps_ns), rate_hz, exact, self.config)


def _drops(metadata: Mapping[str, Any], stream: str) -> tuple[int, int]:
    """Return how many samples of a stream the recorder dropped and received; zeros where it did not say."""
    counts = metadata.get("counts")
    counts = counts.get(stream) if isinstance(counts, Mapping) else None
    if not isinstance(counts, Mapping):
        return 0, 0
    dropped = counts.get("dropped", {})
    reasons = dropped.values() if isinstance(dropped, Mapping) else [dropped]
    total = sum(n for n in reasons if isinstance(n, int))
    received = counts.get("received", 0)
    return total, max(received if isinstance(received, int) else 0, total)
