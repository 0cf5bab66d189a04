"""From committed episodes to training windows: align once, then gather by integer arithmetic.

Random reads through zarr-python reach a thousand windows a second, gathers in memory millions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.alignment import Alignment, AlignmentConfig, StreamPolicy, align
from armature.errors import ConfigError, DatasetError, InvalidValue
from armature.spec import RobotSpec, require_compatible
from data_collection.store import Episode
from data_collection.streams import ACTION_EXECUTED

ACTION = "action"
MAX_AGE_NS = StreamPolicy().max_age_ns
_FUTURE_MARK = 0x60A1
"""Keeps these draws apart from others of the same seed and step."""


def align_episode(episode: Episode, spec: RobotSpec, config: AlignmentConfig | None = None) -> Alignment:
    """Align the observations of `spec` at the stamps of the executed commands; reads stamps only.

    Commands sent before every stream had its first sample are left out: no policy could have given them. Raises
    DatasetError where a stream has no samples or is silent for longer than its policy allows, or where no command is
    left, and SpecMismatch where the dataset does not offer what `spec` asks for.
    """
    require_compatible(spec, episode.spec, f"what is asked of {episode.dataset}")
    names = spec.observation.names
    policies = (config or AlignmentConfig()).policies(names)
    empty = [name for name in (ACTION_EXECUTED, *names) if episode.length(name) == 0]
    if empty:
        raise DatasetError(f"{episode.dataset}: episode {episode.index} has no samples of {', '.join(empty)}")
    stamps_ns = {name: episode.read_stamps(name)[0] for name in names}
    try:
        found = align(stamps_ns, episode.read_stamps(ACTION_EXECUTED)[0], policies)
    except InvalidValue as error:
        raise DatasetError(f"{episode.dataset}: episode {episode.index}: {error}") from error
    if len(found.ticks) == 0:
        dropped = "has no tick at which every stream is young enough"
        why = dropped if found.report.dropped else "ended before every observation had a sample"
        raise DatasetError(f"{episode.dataset}: episode {episode.index} {why}")
    return found


def aligned_episode(episode: Episode, spec: RobotSpec, config: AlignmentConfig | None = None) -> dict[str, NDArray]:
    """Return the observations of `spec` as the robot saw them when each command was sent, and `action` (T, D).

    The ticks are those of `align_episode`; at each, an observation is the newest sample not after it, by the function
    that also serves the robot.
    """
    found = align_episode(episode, spec, config)
    aligned = {name: episode.read(name)[2][index] for name, index in found.index.items()}
    return {**aligned, ACTION: episode.read(ACTION_EXECUTED)[2][found.ticks].astype(action_dtype(spec))}


def action_dtype(spec: RobotSpec) -> np.dtype:
    """Return the dtype of actions in windows; commands are recorded as float64."""
    return np.result_type(*(array.dtype for array in spec.action.arrays))


@dataclass(frozen=True)
class AlignedEpisodes:
    """Aligned episodes end to end: arrays (sum of `lengths`, *shape) by name, in memory or mapped from a file."""

    arrays: dict[str, NDArray]
    lengths: tuple[int, ...]
    is_mapped: bool = False


class Windows:
    """All windows of a set of aligned episodes: one for each tick.

    The window of tick t holds observations t-obs_steps+1..t and actions t..t+chunk_steps-1 of the same episode; before
    its begin the first observation is repeated, as the observation buffer does on the robot, beyond its end the last
    action. An episode of 4 ticks, obs_steps 2 and chunk_steps 3 give observations [0 0] [0 1] [1 2] [2 3] and actions
    [0 1 2] [1 2 3] [2 3 3] [3 3 3].
    """

    def __init__(
        self,
        episodes: Iterable[Mapping[str, NDArray]] | AlignedEpisodes,
        obs_steps: int,
        chunk_steps: int,
        chosen: Sequence[int] | None = None,
    ) -> None:
        """Take over episodes from `aligned_episode`, a generator keeps the peak of memory low, or already end to end.

        `chosen` takes only the episodes at these positions.
        """
        for name, value in (("obs_steps", obs_steps), ("chunk_steps", chunk_steps)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, must be at least 1")
        aligned = episodes if isinstance(episodes, AlignedEpisodes) else _joined(episodes)
        self.arrays, self.is_mapped = aligned.arrays, aligned.is_mapped
        ends = np.cumsum(aligned.lengths)
        of_all = range(len(ends)) if chosen is None else chosen
        spans = [(int(ends[i]) - aligned.lengths[i], int(ends[i])) for i in of_all]
        self.lengths = np.array([end - begin for begin, end in spans], np.int64)
        if self.lengths.sum() == 0:
            raise DatasetError("there are no episodes to make windows of")
        self.rows = np.concatenate([np.arange(begin, end) for begin, end in spans])
        self._first = np.repeat([begin for begin, _ in spans], self.lengths)
        self._last = np.repeat([end - 1 for _, end in spans], self.lengths)
        self._history, self._future = np.arange(1 - obs_steps, 1), np.arange(chunk_steps)

    def __len__(self) -> int:
        return len(self.rows)

    def observation_rows(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return where in `arrays` the observations of windows (B,) lie: (B, obs_steps)."""
        rows = np.add.outer(self.rows.take(indices), self._history)
        return np.maximum(rows, self._first.take(indices)[:, None], out=rows)

    def action_rows(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return where in `arrays` the actions of windows (B,) lie: (B, chunk_steps)."""
        rows = np.add.outer(self.rows.take(indices), self._future)
        return np.minimum(rows, self._last.take(indices)[:, None], out=rows)

    def last_rows(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return where in `arrays` the episodes of windows (B,) end: (B,), the last row itself."""
        return self._last.take(indices)

    def batch(self, indices: NDArray[np.integer]) -> dict[str, NDArray]:
        """Gather windows (B,): observations (B, obs_steps, *shape), `action` (B, chunk_steps, D)."""
        observed, acted = self.observation_rows(indices), self.action_rows(indices)
        # The rows are right by construction: "clip" spares `take` its check of each.
        return {n: a.take(acted if n == ACTION else observed, axis=0, mode="clip") for n, a in self.arrays.items()}


def load_windows(
    episodes: Iterable[Episode],
    spec: RobotSpec,
    obs_steps: int,
    chunk_steps: int,
    config: AlignmentConfig | None = None,
) -> Windows:
    """Read, align and index episodes."""
    return Windows((aligned_episode(episode, spec, config) for episode in episodes), obs_steps, chunk_steps)


def future_rows(
    rows: NDArray[np.int64], last: NDArray[np.int64], ahead: int, length: int, seed: int, step: int
) -> NDArray[np.int64]:
    """Draw for each of `rows` (B,) a stretch of what follows, up to `last` (B,): (B, length).

    It begins uniformly among the rows at least `ahead` further, or at the last where there are none, which also fills
    what would lie beyond. The draws of training step `step` are a function of the arguments alone.
    """
    first = np.minimum(rows + ahead, last)
    share = np.random.default_rng((seed, step, _FUTURE_MARK)).random(len(rows))
    begin = first + (share * (last - first + 1)).astype(np.int64)
    return np.minimum(np.add.outer(begin, np.arange(length)), last[:, None])


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


def _joined(episodes: Iterable[Mapping[str, NDArray]]) -> AlignedEpisodes:
    columns: dict[str, list[NDArray]] = {}
    for episode in episodes:
        for name, values in episode.items():
            columns.setdefault(name, []).append(values)
    lengths = tuple(len(action) for action in columns.get(ACTION, []))
    # One stream at a time leaves the list before its copy is made: the peak is one stream above the total.
    return AlignedEpisodes({name: np.concatenate(columns.pop(name)) for name in tuple(columns)}, lengths)
