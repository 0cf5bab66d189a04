"""Keeps the last seconds of states, chunks and commands in memory, and writes them to disk when something is wrong.

The control loop never waits for the disk: a dump takes a copy of three lists, a thread of its own does the rest.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

from armature.control.limits import SafetyLimits
from armature.errors import ConfigError
from armature.filesystem import PARTIAL, Fs, make_parents, sync_tree
from armature.provenance import git_commit, versions
from armature.spec import ActionSpec
from armature.types import ActionChunk, Command, Sample
from armature_ros.flight_dump import PREFIX, Snapshot, dump_folders, pack

T = TypeVar("T")

SECONDS = 5.0
KEPT = 50
ITEMS_MAX = 20_000
"""Of one kind, however fast they come: 5 s at 4 kHz."""
WAITING_MAX = 4
CLOSE_S = 5.0
_LOG = logging.getLogger(__name__)


class FlightRecorder:
    """Records what is handed in, which is kept, not copied. May be used from any thread; nothing is ever raised.

    `folder` belongs to one recorder; it is made when the first dump is written.
    """

    def __init__(
        self,
        folder: Path,
        spec: ActionSpec,
        seconds: float = SECONDS,
        *,
        limits: SafetyLimits | None = None,
        log: Callable[[str], None] = _LOG.warning,
        kept: int = KEPT,
        fs: Fs | None = None,
    ) -> None:
        """Record the last `seconds`; keep the newest `kept` dumps. `limits` are shown with the dumps.

        Raises ConfigError unless both are positive.
        """
        for name, value in (("seconds", seconds), ("kept", kept)):
            if not 0 < value < math.inf:
                raise ConfigError(f"flight recorder: {name} is {value}, must be positive")
        self._spec, self._limits, self._log = spec, limits, log
        self._states: _Window[Sample] = _Window(seconds)
        self._chunks: _Window[tuple[ActionChunk, bool]] = _Window(seconds)
        self._commands: _Window[Command] = _Window(seconds)
        # Asked for now, since it takes a while.
        self._made_by = versions(("numpy",)), git_commit()
        self._lock = threading.Lock()
        self._waiting: Queue[Snapshot] = Queue(WAITING_MAX)
        self._ends = threading.Event()
        self._shelf = _Shelf(folder, kept, Fs() if fs is None else fs)
        self._thread = threading.Thread(target=self._write_until_end, name="flight recorder", daemon=True)
        self._thread.start()

    def on_state(self, sample: Sample) -> None:
        """Record a measured state (D,)."""
        with self._lock:
            self._states.add(sample.received_ns, sample)

    def on_chunk(self, chunk: ActionChunk, received_ns: int, *, was_taken: bool = True) -> None:
        """Record a chunk that came at `received_ns` on the clock of the commands, and whether it is of use."""
        with self._lock:
            self._chunks.add(received_ns, (chunk, was_taken))

    def on_command(self, command: Command, steady_ns: int) -> None:
        """Record a command that was sent at `steady_ns`."""
        with self._lock:
            self._commands.add(steady_ns, command)

    def dump(self, reason: str, counters: Mapping[str, int] | None = None) -> None:
        """Have what is recorded now written to disk; return at once."""
        with self._lock:
            parts = self._states.items(), self._chunks.items(), self._commands.items()
        about = dict(counters or {}), self._spec, self._limits, *self._made_by
        snapshot = Snapshot(reason, datetime.now(UTC), *parts, *about)
        try:
            self._waiting.put_nowait(snapshot)
        except Full:
            self._log(f"flight recorder: {WAITING_MAX} dumps wait for the disk already; '{reason}' is not written")

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits to be written, for at most `timeout_s`, then end."""
        self._ends.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._log(f"flight recorder: the disk has not answered within {timeout_s} s; the last dump may be missing")

    def _write_until_end(self) -> None:
        while not (self._ends.is_set() and self._waiting.empty()):
            with suppress(Empty):
                self._write(self._waiting.get(timeout=0.1))

    def _write(self, snapshot: Snapshot) -> None:
        try:
            path = self._shelf.add(snapshot)
        except Exception as error:
            # A full disk, or a fault of its own: the next dump may be the one that matters.
            self._log(f"flight recorder: '{snapshot.reason}' is not written: {type(error).__name__}: {error}")
        else:
            self._log(f"flight recorder: the last seconds are in {path}")


class _Window(Generic[T]):
    """What was added within the last seconds before the newest, by the times that are given with it."""

    def __init__(self, seconds: float) -> None:
        self._span_ns = round(seconds * 1e9)
        self._items: deque[tuple[int, T]] = deque(maxlen=ITEMS_MAX)

    def add(self, time_ns: int, item: T) -> None:
        items = self._items
        if items and time_ns < items[-1][0]:
            # Another clock, or another episode of a simulated one: what came before is out of reach.
            items.clear()
        items.append((time_ns, item))
        while items[0][0] < time_ns - self._span_ns:
            items.popleft()

    def items(self) -> tuple[tuple[int, T], ...]:
        return tuple(self._items)


class _Shelf:
    """The folder of the dumps: each is there wholly or not at all, none replaces another, old ones make room."""

    def __init__(self, folder: Path, kept: int, fs: Fs) -> None:
        self._folder, self._kept, self._fs = folder, kept, fs
        self._is_swept = False

    def add(self, snapshot: Snapshot) -> Path:
        make_parents(self._fs, self._folder / PREFIX)
        if not self._is_swept:
            self._sweep()
        path = self._free_name(snapshot)
        draft = self._draft(path)
        try:
            self._fs.make_folder(draft)
            for name, content in pack(snapshot).items():
                self._fs.write(draft / name, content)
            sync_tree(self._fs, draft)
            self._fs.rename(draft, path)
        except OSError:
            with suppress(OSError):
                self._fs.remove_tree(draft)
            raise
        self._make_room(path)
        return path

    def _free_name(self, snapshot: Snapshot) -> Path:
        utc = snapshot.utc.strftime("%Y%m%dT%H%M%S.%f")[:-3]
        reason = re.sub("[^a-z0-9]+", "_", snapshot.reason.lower()).strip("_")[:60] or "unnamed"
        name = f"{PREFIX}{utc}Z_{reason}"
        taken = {path.name for path in dump_folders(self._folder)}
        names = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))]
        return self._folder / next(name for name in names if name not in taken)

    def _make_room(self, newest: Path) -> None:
        # A clock that was set back makes the newest look old.
        others = [path for path in dump_folders(self._folder) if path != newest]
        # Out of sight first, and safely so: a crash leaves no half of one.
        drafts = [self._draft(path) for path in others[: max(0, len(others) + 1 - self._kept)]]
        for path, draft in zip(others, drafts, strict=False):
            self._fs.rename(path, draft)
        self._fs.sync(self._folder)
        for draft in drafts:
            self._fs.remove_tree(draft)

    def _draft(self, path: Path) -> Path:
        return path.with_name(f".{path.name}{PARTIAL}")

    def _sweep(self) -> None:
        """Remove what a crash has left half written or half removed."""
        for leftover in self._folder.glob(f".{PREFIX}*{PARTIAL}"):
            self._fs.remove_tree(leftover)
        self._is_swept = True
