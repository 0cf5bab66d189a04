"""A queue between two threads that is bounded in bytes and whose producer never waits."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteQueue(Generic[T]):
    """First in, first out; full means refused."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._items: deque[tuple[T, int]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    @property
    def is_done(self) -> bool:
        """Tell whether it is closed and empty."""
        return self._is_closed and not self._items

    def put(self, item: T, size_bytes: int) -> bool:
        """Take the item, or return False at once when it does not fit."""
        with self._changed:
            if self._is_closed or self._held_bytes + size_bytes > self._limit_bytes:
                return False
            self._items.append((item, size_bytes))
            self._held_bytes += size_bytes
            self._changed.notify()
            return True

    def get(self, timeout_s: float | None = None) -> T | None:
        """Wait for the next item; None when none came in time, or when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._is_closed, timeout_s)
            if not self._items:
                return None
            item, size_bytes = self._items.popleft()
            self._held_bytes -= size_bytes
            return item

    def close(self) -> None:
        """Refuse further items; what is inside can still be taken out."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
