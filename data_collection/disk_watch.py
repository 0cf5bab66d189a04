"""Watches the free space of a disk, so that an episode ends before the disk is full."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from armature.filesystem import Fs


@dataclass
class DiskWatch:
    """Asks for room for `min_s` of the data that is being recorded, and for `min_bytes` at least."""

    fs: Fs
    path: Path
    min_bytes: int
    min_s: float
    _begun_s: float = field(default_factory=time.monotonic)

    def shortage(self, written_bytes: int = 0) -> str:
        """Return "" while there is room, else what is missing; `written_bytes` were written since the beginning."""
        elapsed_s = max(1.0, time.monotonic() - self._begun_s)
        needed = max(self.min_bytes, round(self.min_s * written_bytes / elapsed_s))
        free = self.fs.free_bytes(self.path)
        if free >= needed:
            return ""
        return f"disk low: {free / 1e6:.0f} MB are free on {self.path}, at least {needed / 1e6:.0f} MB are needed"
