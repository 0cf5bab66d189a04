"""How much of an episode is really there: what the log promises, read back block by block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from armature.errors import DatasetError
from data_collection.episode import Episode
from data_collection.history import EpisodeRecord


def verified_length(episode: Episode, stream: str) -> int:
    """Return how many leading samples of a stream can be read: their stamps rise and every checksum is right."""
    low, high = 0, episode.length(stream)
    if _reads(episode, stream, high):
        return high
    # Whatever a prefix lacks, a longer one lacks too.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _reads(episode, stream, middle) else (low, middle)
    return low


def _reads(episode: Episode, stream: str, length: int) -> bool:
    extents = {**episode.record.streams, stream: {**episode.record.streams.get(stream, {}), "length": length}}
    record = EpisodeRecord(episode.index, episode.metadata, extents, episode.record.is_ended)
    try:
        stamps_ns, _ = (prefix := replace(episode, record=record)).read_stamps(stream)
        for _ in prefix.blocks(stream):
            pass
    except DatasetError:
        return False
    return bool((np.diff(stamps_ns) > 0).all())
