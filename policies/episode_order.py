"""Tells how episodes that run side by side ended in the order in which they began."""

from __future__ import annotations

from typing import Any


class EpisodeOrder:
    """Holds back how an episode ended until all that began before it have.

    A success ends an attempt, a failure takes all of its time: of robots that begin together those that succeed are
    heard of first, and whoever judges ten episodes as they end finds them better than they are.
    """

    def __init__(self) -> None:
        self._under_way: dict[int, Any] = {}

    def begin(self, seed: int) -> None:
        """Wait for an episode."""
        self._under_way[seed] = None

    def end(self, seed: int, ending: Any) -> list[Any]:
        """Take how it ended; return the endings, oldest episode first, that nothing older is waited for any more."""
        self._under_way[seed] = ending
        told: list[Any] = []
        for first, found in list(self._under_way.items()):
            if found is None:
                break
            told.append(found)
            del self._under_way[first]
        return told
