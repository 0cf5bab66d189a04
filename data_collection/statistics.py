"""Statistics of recorded streams for the normaliser, one episode in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from armature.errors import ConfigError, DatasetError
from armature.normalizer import FieldStats
from data_collection.store import Dataset, Episode
from data_collection.streams import ACTION_EXECUTED, stream_specs
from data_collection.windows import ACTION


def field_stats(episodes: Dataset | Iterable[Episode], names: Sequence[str]) -> dict[str, FieldStats]:
    """Return the statistics of every named observation, and of the executed commands under the name `action`.

    Raises DatasetError on an unknown name, ConfigError on an image, DatasetError when nothing was recorded.
    """
    found: dict[str, FieldStats] = {}
    for episode in episodes.episodes if isinstance(episodes, Dataset) else episodes:
        for name in names:
            _, _, values = episode.read(_stream(episode, name))
            if len(values):
                stats = FieldStats.of(values.reshape(len(values), -1))
                found[name] = merge_stats(found[name], stats) if name in found else stats
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(f"no episode has samples of {', '.join(missing)}")
    return found


def merge_stats(a: FieldStats, b: FieldStats) -> FieldStats:
    """Return the statistics of both samples together (Chan, Golub, LeVeque 1979, eq. 2.1)."""
    count = a.count + b.count
    weight = b.count / count
    mean = tuple(x + (y - x) * weight for x, y in zip(a.mean, b.mean, strict=True))
    variance = (
        (1 - weight) * s * s + weight * t * t + weight * (1 - weight) * (y - x) ** 2
        for s, t, x, y in zip(a.std, b.std, a.mean, b.mean, strict=True)
    )
    return FieldStats(
        minimum=tuple(map(min, a.minimum, b.minimum)),
        maximum=tuple(map(max, a.maximum, b.maximum)),
        mean=mean,
        std=tuple(map(math.sqrt, variance)),
        count=count,
    )


def _stream(episode: Episode, name: str) -> str:
    if name == ACTION:
        return ACTION_EXECUTED
    streams = stream_specs(episode.spec)
    if name in streams and streams[name].is_image:
        raise ConfigError(f"{name} is a camera image; statistics are for vectors")
    return name
