"""The newest samples of every stream, and the aligned observation that a policy needs. Used by one thread."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.alignment import StreamPolicy, newest_not_after
from armature.errors import SpecMismatch, unknown
from armature.spec import ArraySpec, ObservationSpec
from armature.types import Observation, Sample

LAG_NS = 500_000_000
"""Samples stay this much longer than the history needs, because `now` may lag behind the newest stream."""


class ObservationBuffer:
    """Aligns streams by stamp at the ticks now, now - period, ... of the spec's rate.

    Values are kept by reference and copied once, into the observation: a pushed array must not be changed afterwards.
    All stamps, `now_ns` included, are on the clock of the acquisition stamps. Streams that `policies` does not name
    take the newest sample of at most `max_age_ns`.
    """

    def __init__(
        self, spec: ObservationSpec, obs_steps: int, max_age_ns: int, policies: Mapping[str, StreamPolicy] | None = None
    ) -> None:
        period_ns = round(1e9 / spec.rate_hz)
        self._ages_ns = np.arange(obs_steps - 1, -1, -1, dtype=np.int64) * period_ns
        of_stream = dict.fromkeys(spec.names, StreamPolicy(max_age_ns=max_age_ns)) | dict(policies or {})
        keep_ns = obs_steps * period_ns + LAG_NS
        self._streams = {name: _Stream(spec[name], policy, keep_ns) for name, policy in of_stream.items()}
        self._begin_ns = 0
        self.dropped: Counter[str] = Counter()

    def push(self, name: str, stamp_ns: int, received_ns: int, value: NDArray[Any]) -> bool:
        """Take one sample; return False, counting it in `dropped`, when its stamp is not newer or before the episode.

        Raises SpecMismatch on an unknown stream and InvalidValue on a value that is not what the spec says.
        """
        stream = self._stream(name)
        stream.spec.validate(value)
        if stamp_ns < self._begin_ns or (stream.stamps_ns and stamp_ns <= stream.stamps_ns[-1]):
            self.dropped[name] += 1
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
        ticks_ns = now_ns - self._ages_ns
        values: dict[str, NDArray[Any]] = {}
        for name, stream in self._streams.items():
            indices = self._indices(stream, ticks_ns)
            if indices.min() < 0:
                return None
            values[name] = np.stack([stream.samples[int(i)].value for i in indices])
        return Observation(now_ns, values)

    def missing(self, now_ns: int) -> list[str]:
        """Name every stream that keeps `latest` from answering, and why, in words for a person."""
        ticks_ns = now_ns - self._ages_ns
        lacking = (s for s in self._streams.values() if self._indices(s, ticks_ns).min() < 0)
        return [self._explain(stream, now_ns) for stream in lacking]

    def reset(self, begin_ns: int) -> None:
        """Begin an episode: drop samples stamped before `begin_ns` and refuse them from now on."""
        self._begin_ns = begin_ns
        for stream in self._streams.values():
            stream.drop_before(begin_ns)

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            raise SpecMismatch(unknown("observation", name, self._streams))
        return self._streams[name]

    def _indices(self, stream: _Stream, ticks_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sample index of every tick, -1 where there is none; history before the first sample is 0."""
        indices = newest_not_after(np.array(stream.stamps_ns, dtype=np.int64), ticks_ns, stream.policy.limit_ns)
        if indices[-1] >= 0 and stream.forgotten_ns < self._begin_ns:
            indices[ticks_ns < stream.stamps_ns[0]] = 0
        return indices

    def _explain(self, stream: _Stream, now_ns: int) -> str:
        limit = f"limit {stream.policy.limit_ns / 1e9:.3f} s"
        newest = bisect_right(stream.stamps_ns, now_ns) - 1
        if newest < 0:
            return f"{stream.spec.name}: no sample yet"
        age_ns = now_ns - stream.stamps_ns[newest]
        if age_ns > stream.policy.limit_ns:
            return f"{stream.spec.name}: newest sample is {age_ns / 1e9:.3f} s old ({limit})"
        return f"{stream.spec.name}: gap in the last {self._ages_ns[0] / 1e9:.3f} s of history ({limit})"


class _Stream:
    """The samples of one array that an observation may still need, stamps ascending."""

    def __init__(self, spec: ArraySpec, policy: StreamPolicy, keep_ns: int) -> None:
        self.spec = spec
        self.policy = policy
        self.stamps_ns: list[int] = []
        self.samples: list[Sample] = []
        self.forgotten_ns = -1
        self._keep_ns = keep_ns + policy.max_age_ns

    def append(self, sample: Sample) -> None:
        self.stamps_ns.append(sample.stamp_ns)
        self.samples.append(sample)
        # Deletion in blocks keeps the average cost of a push constant for streams of 1 kHz.
        if self.stamps_ns[0] < sample.stamp_ns - 2 * self._keep_ns:
            # One older sample stays: a stream that is held may still need it.
            self.drop_before(self.stamps_ns[bisect_right(self.stamps_ns, sample.stamp_ns - self._keep_ns) - 1])

    def drop_before(self, stamp_ns: int) -> None:
        count = bisect_left(self.stamps_ns, stamp_ns)
        if count:
            self.forgotten_ns = self.stamps_ns[count - 1]
            del self.stamps_ns[:count]
            del self.samples[:count]
