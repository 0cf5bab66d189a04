"""From committed episodes to training windows in memory: align once, then gather by integer indices.

Random reads through zarr-python reach a thousand windows a second, gathers in memory millions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from armature.alignment import newest_not_after
from armature.errors import ConfigError, DatasetError
from armature.spec import RobotSpec, require_compatible
from data_collection.store import Episode
from data_collection.streams import ACTION_EXECUTED

ACTION = "action"
MAX_AGE_NS = 1_000_000_000


def aligned_episode(episode: Episode, spec: RobotSpec, max_age_ns: int = MAX_AGE_NS) -> dict[str, NDArray]:
    """Return the observations of `spec` as the robot saw them when each command was sent, and `action` (T, D).

    The ticks are the stamps of the executed commands; at each, an observation is the newest sample not after it, by the
    function that also serves the robot. Commands sent before every stream had its first sample are left out: no policy
    could have given them. Raises DatasetError where a stream is silent for more than `max_age_ns` later on, and
    SpecMismatch where the dataset does not offer what `spec` asks for.
    """
    require_compatible(spec, episode.spec, f"what is asked of {episode.dataset}")
    ticks_ns, _, action = episode.read(ACTION_EXECUTED)
    streams = {name: episode.read(name) for name in spec.observation.names}
    if len(ticks_ns) == 0 or any(len(stamps_ns) == 0 for stamps_ns, _, _ in streams.values()):
        empty = [name for name in (ACTION_EXECUTED, *streams) if episode.length(name) == 0]
        raise DatasetError(f"{episode.dataset}: episode {episode.index} has no samples of {', '.join(empty)}")
    first = np.searchsorted(ticks_ns, max(stamps_ns[0] for stamps_ns, _, _ in streams.values()))
    ticks_ns, action = ticks_ns[first:], action[first:]
    if len(ticks_ns) == 0:
        raise DatasetError(f"{episode.dataset}: episode {episode.index} ended before every observation had a sample")
    aligned = {}
    for name, (stamps_ns, _, data) in streams.items():
        index = newest_not_after(stamps_ns, ticks_ns, max_age_ns)
        _require_fresh(episode, name, index, ticks_ns, max_age_ns)
        aligned[name] = data[index]
    dtype = np.result_type(*(array.dtype for array in spec.action.arrays))
    return {**aligned, ACTION: action.astype(dtype)}


class Windows:
    """All windows of a set of aligned episodes: one for each tick, gathered from arrays that lie end to end in memory.

    The window of tick t holds observations t-obs_steps+1..t and actions t..t+chunk_steps-1 of the same episode; before
    its begin the first observation is repeated, as the observation buffer does on the robot, beyond its end the last
    action. An episode of 4 ticks, obs_steps 2 and chunk_steps 3 give observations [0 0] [0 1] [1 2] [2 3] and actions
    [0 1 2] [1 2 3] [2 3 3] [3 3 3].
    """

    def __init__(self, episodes: Iterable[Mapping[str, NDArray]], obs_steps: int, chunk_steps: int) -> None:
        """Take over episodes from `aligned_episode`; a generator keeps the peak of memory low."""
        for name, value in (("obs_steps", obs_steps), ("chunk_steps", chunk_steps)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, must be at least 1")
        columns: dict[str, list[NDArray]] = {}
        for episode in episodes:
            for name, values in episode.items():
                columns.setdefault(name, []).append(values)
        if not columns:
            raise DatasetError("there are no episodes to make windows of")
        lengths = [len(action) for action in columns[ACTION]]
        self.observation_index, self.action_index = _index_tables(lengths, obs_steps, chunk_steps)
        # One stream at a time leaves the list before its copy is made: the peak is one stream above the total.
        self.arrays = {name: np.concatenate(columns.pop(name)) for name in tuple(columns)}

    def __len__(self) -> int:
        return len(self.action_index)

    def batch(self, indices: NDArray[np.integer]) -> dict[str, NDArray]:
        """Gather windows (B,): observations (B, obs_steps, *shape), `action` (B, chunk_steps, D)."""
        tables = {name: self.observation_index for name in self.arrays} | {ACTION: self.action_index}
        return {name: values[tables[name][indices]] for name, values in self.arrays.items()}


def load_windows(episodes: Iterable[Episode], spec: RobotSpec, obs_steps: int, chunk_steps: int) -> Windows:
    """Read, align and index episodes."""
    return Windows((aligned_episode(episode, spec) for episode in episodes), obs_steps, chunk_steps)


def split_by_episode(n: int, validation_fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split n episodes at random into ascending indices for training and for validation, each episode wholly in one.

    Training always gets one; validation gets one as soon as there are two and the fraction is above 0.
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise ConfigError(f"validation_fraction is {validation_fraction}, must be in [0, 1)")
    wanted = max(round(n * validation_fraction), 1 if validation_fraction > 0 else 0)
    count = min(wanted, max(n - 1, 0))
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


def _index_tables(lengths: list[int], obs_steps: int, chunk_steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    begins = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)  # (N,)
    lasts = np.repeat(np.cumsum(lengths) - 1, lengths)  # (N,)
    ticks = np.arange(sum(lengths))[:, None]  # (N, 1)
    observation = np.maximum(ticks + np.arange(1 - obs_steps, 1), begins[:, None])
    action = np.minimum(ticks + np.arange(chunk_steps), lasts[:, None])
    return observation, action


def _require_fresh(
    episode: Episode, name: str, index: NDArray[np.int64], ticks_ns: NDArray[np.int64], max_age_ns: int
) -> None:
    stale = np.flatnonzero(index < 0)
    if len(stale):
        at_s = (ticks_ns[stale[0]] - ticks_ns[0]) / 1e9
        silence = f"{name} is silent for more than {max_age_ns / 1e9:g} s at {at_s:.2f} s"
        raise DatasetError(f"{episode.dataset}: episode {episode.index}: {silence}")
