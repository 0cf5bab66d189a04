"""The newest samples of every stream, and the aligned observation that a policy needs. Used by one thread."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.alignment import StreamPolicy
from armature.control.stream_watch import FrozenWatch, Lack, LiveChecks, Obstacle, Refusal, find_skew
from armature.errors import SpecMismatch, unknown
from armature.spec import ArraySpec, ObservationSpec
from armature.types import Observation, Sample

LAG_NS = 500_000_000
"""Samples stay this much longer than the history needs, because `now` may lag behind the newest stream."""


class ObservationBuffer:
    """Aligns streams by stamp at the ticks now, now - period, ... of the spec's rate.

    Values are kept by reference and copied once, into the history of an observation; one without history shares them. A
    pushed array must not be changed afterwards.
    All stamps, `now_ns` included, are on the clock of the acquisition stamps. Streams that `policies` does not name
    take the newest sample of at most `max_age_ns`.

    `live` says what samples of a running robot have to satisfy. In simulated and recorded time, which may begin at 0
    and has no clock to compare with, there is none: stamps only have to grow.
    """

    def __init__(
        self,
        spec: ObservationSpec,
        obs_steps: int,
        max_age_ns: int,
        policies: Mapping[str, StreamPolicy] | None = None,
        live: LiveChecks | None = None,
    ) -> None:
        period_ns = round(1e9 / spec.rate_hz)
        self._ages_ns = [age * period_ns for age in range(obs_steps - 1, -1, -1)]
        of_stream = dict.fromkeys(spec.names, StreamPolicy(max_age_ns=max_age_ns)) | dict(policies or {})
        keep_ns = obs_steps * period_ns + LAG_NS
        self._streams = {name: _Stream(spec[name], policy, keep_ns) for name, policy in of_stream.items()}
        self._live = live
        frozen_after_ns: Mapping[str, int] = {} if live is None else live.frozen_after_ns
        for name, limit_ns in frozen_after_ns.items():
            self._stream(name).watch = FrozenWatch(limit_ns)
        self._begin_ns = 0
        self._clock_ns = 0
        self.refused: Counter[tuple[str, Refusal]] = Counter()
        """Samples that were not taken, by stream and reason."""
        self.withheld: Counter[tuple[str, Lack]] = Counter()
        """Live: calls of `latest` without an answer, by the streams that were to blame and why."""
        self.clock_resets = 0
        """Live: how often everything was forgotten because the clock had been set back."""

    def push(self, name: str, stamp_ns: int, received_ns: int, value: NDArray[Any]) -> bool:
        """Take one sample; return False, counting it in `refused` by reason, where its stamp cannot be right.

        Raises SpecMismatch on an unknown stream and InvalidValue on a value that is not what the spec says.
        """
        stream = self._stream(name)
        stream.spec.validate(value)
        self._watch_clock()
        reason = self._refusal(stream, stamp_ns)
        if reason is not None:
            self.refused[name, reason] += 1
            return False
        stream.append(Sample(stamp_ns, received_ns, value))
        return True

    def newest(self, name: str) -> Sample | None:
        """Return the newest sample of a stream, for instance to watch its receive time on the steady clock."""
        samples = self._stream(name).samples
        return samples[-1] if samples else None

    def latest(self, now_ns: int) -> Observation | None:
        """Return the observation aligned at `now_ns`, or None while `missing` names a stream.

        A tick before the first sample of the episode repeats that sample.
        """
        found = self._align(now_ns)
        obstacles = self._obstacles(found, now_ns)
        if obstacles:
            if self._live is not None:
                self.withheld.update((obstacle.stream, obstacle.lack) for obstacle in obstacles)
            return None
        return Observation(now_ns, {name: self._streams[name].history(rows) for name, rows in found.items()})

    def missing(self, now_ns: int) -> list[str]:
        """Name every stream that keeps `latest` from answering, and why, in words for a person."""
        return [str(obstacle) for obstacle in self._obstacles(self._align(now_ns), now_ns)]

    def reset(self, begin_ns: int) -> None:
        """Begin an episode: drop samples stamped before `begin_ns` and refuse them from now on."""
        self._begin_ns = begin_ns
        for stream in self._streams.values():
            stream.drop_before(begin_ns)

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            raise SpecMismatch(unknown("observation", name, self._streams))
        return self._streams[name]

    def _watch_clock(self) -> None:
        """Forget everything when the clock was set back: what is kept would lie in the future for ever."""
        if self._live is None:
            return
        now_ns = self._live.now_ns()
        if now_ns < self._clock_ns - self._live.future_max_ns:
            for stream in self._streams.values():
                stream.clear()
            self._begin_ns = self._clock_ns = now_ns
            self.clock_resets += 1
        self._clock_ns = max(self._clock_ns, now_ns)

    def _refusal(self, stream: _Stream, stamp_ns: int) -> Refusal | None:
        wrong = None if self._live is None else self._live.stamp_refusal(stamp_ns)
        if wrong is not None:
            return wrong
        if stamp_ns < self._begin_ns:
            return Refusal.BEFORE_EPISODE
        if not stream.stamps_ns or stamp_ns > stream.stamps_ns[-1]:
            return None
        return Refusal.REPEATED if stamp_ns == stream.stamps_ns[-1] else Refusal.BACKWARDS

    def _align(self, now_ns: int) -> dict[str, list[int]]:
        """Return by stream the sample index of every tick, -1 where there is none; before the first sample it is 0."""
        ticks_ns = [now_ns - age_ns for age_ns in self._ages_ns]
        return {name: self._indices(stream, ticks_ns) for name, stream in self._streams.items()}

    def _indices(self, stream: _Stream, ticks_ns: list[int]) -> list[int]:
        indices = [stream.newest_not_after(tick_ns) for tick_ns in ticks_ns]
        if indices[-1] >= 0 and stream.forgotten_ns < self._begin_ns:
            return [0 if tick_ns < stream.stamps_ns[0] else i for tick_ns, i in zip(ticks_ns, indices, strict=True)]
        return indices

    def _obstacles(self, found: Mapping[str, list[int]], now_ns: int) -> list[Obstacle]:
        """Return everything that keeps the samples `found` from being an observation."""
        watched = [(stream, self._fault(stream, found[name], now_ns)) for name, stream in self._streams.items()]
        faults = [fault for _, fault in watched if fault is not None]
        if self._live is None or faults:
            return faults
        fresh = {n: s for n, s in self._streams.items() if s.policy.mode != "hold"}
        stamps_ns = {n: np.array([s.stamps_ns[i] for i in found[n]], dtype=np.int64) for n, s in fresh.items()}
        skew = find_skew(stamps_ns, now_ns - np.array(self._ages_ns, dtype=np.int64), self._live.skew_max_ns)
        return [] if skew is None else [skew]

    def _fault(self, stream: _Stream, rows: list[int], now_ns: int) -> Obstacle | None:
        """Say why a stream by itself cannot be observed; live, its age counts at the clock too."""
        limit_ns, name = stream.policy.limit_ns, stream.spec.name
        newest = bisect_right(stream.stamps_ns, now_ns) - 1
        if newest < 0:
            return Obstacle(name, Lack.SILENT, "no sample yet")
        age_ns = (now_ns if self._live is None else max(now_ns, self._live.now_ns())) - stream.stamps_ns[newest]
        limit = f"limit {limit_ns / 1e9:.3f} s"
        if age_ns > limit_ns:
            return Obstacle(name, Lack.STALE, f"newest sample is {age_ns / 1e9:.3f} s old ({limit})")
        if min(rows) < 0:
            return Obstacle(name, Lack.GAP, f"gap in the last {self._ages_ns[0] / 1e9:.3f} s of history ({limit})")
        if stream.watch is not None and stream.watch.is_frozen:
            unchanged = f"unchanged for {stream.watch.unchanged_ns / 1e9:.3f} s while its stamps advanced"
            return Obstacle(name, Lack.FROZEN, f"{unchanged} (limit {stream.watch.limit_ns / 1e9:.3f} s)")
        return None


class _Stream:
    """The samples of one array that an observation may still need, stamps ascending."""

    def __init__(self, spec: ArraySpec, policy: StreamPolicy, keep_ns: int) -> None:
        self.spec = spec
        self.policy = policy
        self.watch: FrozenWatch | None = None
        self.stamps_ns: list[int] = []
        self.samples: list[Sample] = []
        self.forgotten_ns = -1
        self._keep_ns = keep_ns + policy.max_age_ns

    def append(self, sample: Sample) -> None:
        if self.watch is not None:
            self.watch.see(sample.stamp_ns, sample.value)
        self.stamps_ns.append(sample.stamp_ns)
        self.samples.append(sample)
        # Deletion in blocks keeps the average cost of a push constant for streams of 1 kHz.
        if self.stamps_ns[0] < sample.stamp_ns - 2 * self._keep_ns:
            # One older sample stays: a stream that is held may still need it.
            self.drop_before(self.stamps_ns[bisect_right(self.stamps_ns, sample.stamp_ns - self._keep_ns) - 1])

    def newest_not_after(self, tick_ns: int) -> int:
        """Find what `alignment.newest_not_after` finds, for one tick and without arrays."""
        index = bisect_right(self.stamps_ns, tick_ns) - 1
        return index if index >= 0 and tick_ns - self.stamps_ns[index] <= self.policy.limit_ns else -1

    def history(self, rows: list[int]) -> NDArray[Any]:
        """Return the samples of some indices (T, ...); a single one, which may be a large image, is not copied."""
        values = [self.samples[i].value for i in rows]
        return values[0][None] if len(values) == 1 else np.stack(values)

    def drop_before(self, stamp_ns: int) -> None:
        count = bisect_left(self.stamps_ns, stamp_ns)
        if count:
            self.forgotten_ns = self.stamps_ns[count - 1]
            del self.stamps_ns[:count]
            del self.samples[:count]

    def clear(self) -> None:
        self.stamps_ns.clear()
        self.samples.clear()
        self.forgotten_ns = -1
        if self.watch is not None:
            self.watch.clear()
