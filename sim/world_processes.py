"""Worlds in processes of their own, so that they step side by side while the caller computes."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.limits import SafetyLimits
from armature.errors import ArmatureError
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

    def ask(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> None:
        """Begin calls, each the number of a world, a method of CorrectedWorld and its arguments."""
        for world, method, arguments in calls:
            self._link(world).send((world, method, arguments))

    def answers(self, worlds: Sequence[int]) -> list[Any]:
        """Wait for what the worlds, in the order in which they were asked, answer.

        Raises ArmatureError where a world failed, with its report, or its process has ended.
        """
        return [self._answer(world) for world in worlds]

    def call(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        """Return what the calls return, in their order."""
        self.ask(calls)
        return self.answers([world for world, *_ in calls])

    def _answer(self, world: int) -> Any:
        try:
            answer = self._link(world).recv()
        except (EOFError, ConnectionResetError) as error:
            raise ArmatureError(f"the process of world {world} has ended") from error
        if isinstance(answer, _Failed):
            raise ArmatureError(f"world {world}: {answer.report}")
        return answer

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
    worlds: dict[int, CorrectedWorld] = {}
    while True:
        try:
            world, method, arguments = link.recv()
        except (EOFError, KeyboardInterrupt):
            break
        try:
            if world not in worlds:
                worlds[world] = CorrectedWorld(sim, needs, scheduler, limits, cameras)
            answer = getattr(worlds[world], method)(*arguments)
        except Exception:
            answer = _Failed(traceback.format_exc())
        link.send(answer)
    for each in worlds.values():
        each.close()
