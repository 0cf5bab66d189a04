"""Worlds in processes of their own, so that they step side by side while the caller computes."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.limits import SafetyLimits
from armature.errors import ArmatureError
from armature.interrupts import ignored
from sim.corrected_world import CorrectedWorld, PolicyNeeds
from sim.tasks import SimConfig

STOP_S = 5.0


@dataclass(frozen=True)
class _Failed:
    """What a world answers when it cannot."""

    report: str


class WorldProcesses:
    """Some worlds of one kind, each called by its number. Use it in a `with` block: leaving it ends the processes."""

    def __init__(
        self,
        count: int,
        processes: int,
        sim: SimConfig,
        needs: PolicyNeeds,
        scheduler: SchedulerConfig,
        limits: SafetyLimits | None = None,
        cameras: tuple[str, ...] = (),
    ) -> None:
        """Start the processes, with the worlds spread evenly over them; images of `cameras` come with every moment."""
        # Forking would copy the caller's threads' locks; a fresh process has none.
        context = multiprocessing.get_context("spawn")
        self.count = count
        self._links: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(min(processes, count)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, sim, needs, scheduler, limits, cameras), daemon=True)
            # A terminal sends Ctrl-C to the worlds too: they ignore it from their first moment.
            with ignored(signal.SIGINT):
                process.start()
            # With their end closed here, reading ours ends when the process does.
            theirs.close()
            self._links.append(ours)
            self._processes.append(process)

    def __enter__(self) -> WorldProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for link in self._links:
            link.close()
        for process in self._processes:
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
                process.join()

    def ask(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> None:
        """Begin calls, each the number of a world, a method of CorrectedWorld and its arguments.

        Raises ArmatureError where a world's process has ended.
        """
        for world, method, arguments in calls:
            try:
                self._link(world).send((world, method, arguments))
            except (BrokenPipeError, ConnectionResetError) as error:
                raise ArmatureError(self._end_of(world)) from error

    def answers(self, worlds: Sequence[int]) -> list[Any]:
        """Wait for what the worlds, in the order in which they were asked, answer.

        Raises ArmatureError where a world failed, with its report, or its process has ended.
        """
        # All are received before any is judged: one left behind would be taken for the answer to the next call.
        answers = [self._answer(world) for world in worlds]
        for answer in answers:
            if isinstance(answer, _Failed):
                raise ArmatureError(answer.report)
        return answers

    def call(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        """Return what the calls return, in their order."""
        self.ask(calls)
        return self.answers([world for world, *_ in calls])

    def _answer(self, world: int) -> Any:
        try:
            return self._link(world).recv()
        except (EOFError, ConnectionResetError):
            return _Failed(self._end_of(world))

    def _end_of(self, world: int) -> str:
        process = self._processes[world % len(self._links)]
        # Its end of the link closes a moment before it has ended.
        process.join(STOP_S)
        code = "" if process.exitcode is None else f", exit code {process.exitcode}"
        return f"the process of world {world} has ended{code}"

    def _link(self, world: int) -> Connection:
        return self._links[world % len(self._links)]


def _serve(
    link: Connection,
    sim: SimConfig,
    needs: PolicyNeeds,
    scheduler: SchedulerConfig,
    limits: SafetyLimits | None,
    cameras: tuple[str, ...],
) -> None:
    # The caller decides when this ends: by closing its end of the link.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worlds: dict[int, CorrectedWorld] = {}
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            world, method, arguments = link.recv()
            try:
                if world not in worlds:
                    worlds[world] = CorrectedWorld(sim, needs, scheduler, limits, cameras)
                answer = getattr(worlds[world], method)(*arguments)
            except Exception as error:
                answer = _Failed(f"world {world}: {_told(error)}")
            link.send(answer)
    for each in worlds.values():
        each.close()


def _told(error: Exception) -> str:
    """Word an error in one line; where it is no mistake of the user, its traceback goes to stderr."""
    if isinstance(error, ArmatureError):
        return str(error)
    traceback.print_exception(error)
    return traceback.format_exception_only(error)[-1].strip()
