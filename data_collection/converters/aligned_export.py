"""What the formats with one rate for everything need: an episode's streams as rows at the ticks of its commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from armature import alignment
from armature.alignment import StreamPolicy, newest_not_after
from armature.config import from_plain
from armature.errors import DatasetError, InvalidValue
from armature.spec import ArraySpec
from data_collection.converters.foreign_array import ForeignArray, Plan
from data_collection.store import Dataset, Episode
from data_collection.streams import ACTION_EXECUTED, OPTIONAL, REWARD, TAKEOVER
from data_collection.windows import MAX_AGE_NS

Incomplete = Literal["refuse", "leave-out", "include"]
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class AlignedEpisode:
    """For every tick, which row of each stream was the newest: by the function that also serves the robot."""

    episode: Episode
    ticks_ns: NDArray[np.int64]
    rows: dict[str, NDArray[np.int64]]
    """By stream; -1 where there is none. Streams without samples are left out."""

    @property
    def steps(self) -> int:
        """Count the ticks."""
        return len(self.ticks_ns)

    def blocks(self, array: ArraySpec, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        """Read a stream tick by tick in pieces of some MiB; where there is no sample, floats are NaN.

        Rewards are summed instead: each counts once, at the newest tick not after it, and other ticks have 0.
        `rows` may name other rows than those of the ticks. Raises DatasetError where there is no sample and no NaN.
        """
        if array.name == REWARD and REWARD in self.rows:
            yield self._rewards()
            return
        rows = self.rows.get(array.name, np.full(self.steps, -1)) if rows is None else rows
        count = max(1, _BLOCK_BYTES // max(1, array.size * np.dtype(array.dtype).itemsize))
        for start in range(0, len(rows), count):
            yield self._read(array, rows[start : start + count])

    def next_rows(self, stream: str, period_ns: int) -> NDArray[np.int64]:
        """Return which row was the newest one tick later; after the last tick, `period_ns` later."""
        stamps_ns, _ = self.episode.read_stamps(stream)
        later_ns = np.append(self.ticks_ns[1:], self.ticks_ns[-1] + period_ns)
        return newest_not_after(stamps_ns, later_ns, MAX_AGE_NS)

    def _rewards(self) -> NDArray[np.float64]:
        """Return the rewards (N, 1), those from before the first tick at the first: their sum is the episode's."""
        stamps_ns, _, values = self.episode.read(REWARD)
        ticks = np.maximum(np.searchsorted(self.ticks_ns, stamps_ns, side="right") - 1, 0)
        rewards = np.zeros((self.steps, 1))
        rewards[ticks] = -0.0  # to which a lone -0.0 can be added and come out bit for bit
        np.add.at(rewards, ticks, values)
        return rewards

    def _read(self, array: ArraySpec, rows: NDArray[np.int64]) -> NDArray[Any]:
        has_sample = rows >= 0
        if has_sample.all():
            return self.episode.read_rows(array.name, rows)
        if np.dtype(array.dtype).kind != "f":
            raise DatasetError(f"{_name(self.episode)}: {array.name} has no sample at some ticks; leave it out")
        values = np.full((len(rows), *array.shape), math.nan, array.dtype)
        if has_sample.any():
            values[has_sample] = self.episode.read_rows(array.name, rows[has_sample])
        return values


def episodes_to_export(dataset: Dataset, incomplete: Incomplete) -> list[Episode]:
    """List the episodes; raise DatasetError naming those that are incomplete unless told what to do with them."""
    episodes = dataset.episodes
    broken = [episode.index for episode in episodes if not episode.is_complete]
    if broken and incomplete == "refuse":
        raise DatasetError(f"{dataset.path}: incomplete episodes: {broken}; give --incomplete leave-out or include")
    if incomplete == "leave-out":
        episodes = [episode for episode in episodes if episode.is_complete]
    if not episodes:
        raise DatasetError(f"{dataset.path}: has no episodes to export")
    return episodes


def export_plan(
    dataset: Dataset,
    episodes: list[Episode],
    leave_out: tuple[str, ...],
    source: Mapping[str, Any],
    own_array: Callable[[ArraySpec], ForeignArray],
) -> Plan:
    """Decide where each stream goes: where the `source` of an import from this format says, else by `own_array`."""
    names = _exported_streams(dataset, episodes, leave_out)
    arrays = {
        name: from_plain(ForeignArray, source[name]) if name in source else own_array(dataset.streams[name])
        for name in names
    }
    keys = [array.key for array in arrays.values()]
    if double := {key for key in keys if keys.count(key) > 1}:
        raise DatasetError(f"{dataset.path}: two streams would both be written as {', '.join(sorted(double))}")
    spec = dataset.spec.select(tuple(name for name in dataset.spec.observation.names if name in arrays))
    return Plan(spec, dataset.task, arrays)


def align(episode: Episode, streams: tuple[str, ...]) -> AlignedEpisode:
    """Align `streams` at the stamps of the executed commands, as `windows.aligned_episode` does.

    Ticks before the first sample of an observation are left out. Raises DatasetError where an observation has no
    samples or is silent for longer than MAX_AGE_NS.
    """
    ticks_ns = episode.read_stamps(ACTION_EXECUTED)[0]
    stamps = {name: episode.read_stamps(name)[0] for name in streams if episode.length(name)}
    needed = [name for name in streams if name not in OPTIONAL]
    if empty := [name for name in (ACTION_EXECUTED, *needed) if episode.length(name) == 0]:
        raise DatasetError(f"{_name(episode)} has no samples of {', '.join(dict.fromkeys(empty))}")
    try:
        policies = dict.fromkeys(needed, StreamPolicy("newest", MAX_AGE_NS))
        found = alignment.align({name: stamps[name] for name in needed}, ticks_ns, policies)
    except InvalidValue as error:
        raise DatasetError(f"{_name(episode)}: {error}") from error
    ticks_ns = ticks_ns[found.ticks]
    if len(ticks_ns) == 0:
        raise DatasetError(f"{_name(episode)} ended before every observation had a sample")
    # Where these have no sample, that is no error, and no reason to leave the tick out.
    optional = {n: newest_not_after(s, ticks_ns, MAX_AGE_NS) for n, s in stamps.items() if n in OPTIONAL}
    return AlignedEpisode(episode, ticks_ns, found.index | optional)


def _exported_streams(dataset: Dataset, episodes: list[Episode], leave_out: tuple[str, ...]) -> list[str]:
    """List the streams to export: observations and action, and of the others those that have samples anywhere."""
    if wrong := [name for name in leave_out if name not in dataset.streams or name == ACTION_EXECUTED]:
        raise DatasetError(f"leave_out: {', '.join(wrong)}: valid are {', '.join(dataset.streams)}, not the action")
    extra = [name for name in OPTIONAL if any(episode.length(name) for episode in episodes)]
    names = [name for name in (*dataset.spec.observation.names, ACTION_EXECUTED, *extra) if name not in leave_out]
    if TAKEOVER in names and (lacking := [episode.index for episode in episodes if not episode.length(TAKEOVER)]):
        raise DatasetError(
            f"{dataset.path}: episodes {lacking} do not say who drove ({TAKEOVER}): --leave-out {TAKEOVER}"
        )
    return names


def _name(episode: Episode) -> str:
    return f"{episode.dataset}: episode {episode.index}"
