"""What the entries of the commit log add up to: which episodes there are, and how much of each counts.

begin    an episode was opened, with its metadata
rows     from now on so many samples of these streams count
end      the episode is closed; says again all that counts, and stands for itself
discard  the episode never was
relabel  new metadata for a closed episode
drop     a closed episode was taken out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BEGIN, ROWS, END, DISCARD, RELABEL, DROP = "begin", "rows", "end", "discard", "relabel", "drop"

Extent = dict[str, Any]
"""{"length": samples, "first_ns": stamp, "last_ns": stamp} of a stream."""

INCOMPLETE = "incomplete"


def empty_extent() -> Extent:
    """Return the extent of a stream without samples."""
    return {"length": 0, "first_ns": None, "last_ns": None}


@dataclass
class EpisodeRecord:
    """One episode as the log tells it."""

    index: int
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    streams: dict[str, Extent] = field(default_factory=dict[str, Extent])
    is_ended: bool = False

    @property
    def has_rows(self) -> bool:
        """Tell whether any sample counts."""
        return any(extent["length"] for extent in self.streams.values())


def replay(entries: Iterable[Mapping[str, Any]]) -> dict[int, EpisodeRecord]:
    """Return the episodes that exist, by index, in the order in which they were begun."""
    records: dict[int, EpisodeRecord] = {}
    for entry in entries:
        index = int(entry["episode"])
        if entry["kind"] in (DISCARD, DROP):
            records.pop(index, None)
            continue
        record = records.setdefault(index, EpisodeRecord(index))
        record.metadata |= entry.get("metadata", {})
        record.streams |= entry.get("streams", {})
        record.is_ended = record.is_ended or entry["kind"] == END
    return records


def next_index(entries: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of the next episode: no number is used twice, whatever became of its episode."""
    return max((int(entry["episode"]) for entry in entries), default=-1) + 1
