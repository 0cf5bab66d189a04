"""The graph `residual` with a node to be hit: what a signal does to it, seen from outside, and how it is mended."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
from corrected import START, CorrectionWatch
from fault_lab import COMMAND_TOPIC, Commands, violations
from graph_probe import GraphProbe
from trajectory_msgs.msg import JointTrajectory

from armature_ros.conversions import ns_from_time
from armature_ros.graph import NodeSpec
from armature_ros.qos import reliable_qos

CHUNK_S = 0.8
# After a signal nothing that is measured takes longer.
WATCHED_S = 0.4
# A chunk is replaced after half of its length: at a moment drawn from so long, each part of that is as likely.
DRAWN_S = (0.1, 0.5)
# How long the arm may take to move again, and how much longer where that needs another node to be started anew.
PATIENCE_S, GIVE_UP_S = 30.0, 120.0
LOG_SHOWN = 6000
# What nodes import only when they need it.
PRELOADED = ("policies.checkpoint", "sim.backend", "rosidl_generator_py", "type_description_interfaces.srv")


@dataclass(frozen=True)
class Stop:
    """What one signal did, in milliseconds since it was sent; NaN where that says nothing of the node that was hit."""

    held_ms: float = float("nan")
    """Until HOLD or LATCHED; of the policy, since its chunk had ended; infinite where neither came."""
    still_ms: float = float("nan")
    """Until the last change of a command, or of the arm where the control node was hit."""
    corrected_ms: float = float("nan")
    """Until the last command that the gate was asked for with a correction."""
    pause_ms: float = float("nan")
    """The longest time without another command."""


class StopLab:
    """The running nodes, each of which can be hit and put back.

    They are forked from a process that has imported what they need, which is most of the time that a node takes to
    start, and there are hundreds of starts.
    """

    def __init__(self, nodes: Sequence[NodeSpec], log: Path) -> None:
        self.died: list[str] = []
        """Nodes that were found dead though nobody had hit them."""
        self.held_before = 0
        """How often the arm held when it was to be hit; it was driven again first."""
        self.violations: list[str] = []
        """Commands that no arm should be sent, from before a signal until nothing more is measured."""
        self.judged = 0
        """Commands that were looked at."""
        self._nodes = {node.name: node for node in nodes}
        self._log = log
        self._processes: dict[str, ForkServerProcess] = {}
        self._prepared = multiprocessing.get_context("forkserver")
        self._prepared.set_forkserver_preload([*(f"armature_ros.{each.executable}" for each in nodes), *PRELOADED])
        self._commands: Commands = []

    def __enter__(self) -> StopLab:
        for name in self._nodes:
            self._start(name)
        self._probe = GraphProbe(START)
        self._corrections = CorrectionWatch(self._probe)
        self._probe.listen(JointTrajectory, COMMAND_TOPIC, reliable_qos(1000), self._on_command)
        return self

    def __exit__(self, *_: object) -> None:
        self._probe.close()
        for process in self._processes.values():
            process.kill()
            process.join()

    def stop(self, target: str, number: int, rng: random.Random) -> Stop:
        """Hit a node at a random moment in motion, see what happens, and put it back."""
        self._drive()
        self._commands.clear()
        time.sleep(rng.uniform(*DRAWN_S))
        if not self._probe.is_driven():
            self.held_before += 1
            return self.stop(target, number, rng)
        chunk_ends_s = self._probe.chunk_ends_s
        hit_s = time.monotonic()
        self._signal(target, number)
        time.sleep(WATCHED_S if target != "policy_node" else CHUNK_S + WATCHED_S)
        self._judge(target)
        since_s = max(hit_s, chunk_ends_s()) if target == "policy_node" else hit_s
        seen = self._seen(target, hit_s, since_s)
        self._put_back(target, number)
        return seen

    def _drive(self) -> None:
        """Return when the arm moves, with corrections."""
        try:
            self._probe.drive(PATIENCE_S)
            self._corrections.begin(PATIENCE_S)
        except TimeoutError:
            self._revive()
            self._probe.drive(GIVE_UP_S)
            self._corrections.begin(GIVE_UP_S)

    def _seen(self, target: str, hit_s: float, since_s: float) -> Stop:
        commands, held_s = self._probe.commands, self._probe.held_since_s(hit_s)
        if target == "control_node":
            return Stop(still_ms=1e3 * (self._probe.states.last_change_s(hit_s) - hit_s))
        if target != "residual_node":
            return Stop(held_ms=1e3 * (held_s - since_s), still_ms=1e3 * (commands.last_change_s(hit_s) - hit_s))
        corrected_s = self._corrections.last_corrected_s(hit_s)
        pause_s = commands.longest_pause_s(hit_s, time.monotonic())
        return Stop(1e3 * (held_s - hit_s), corrected_ms=1e3 * (corrected_s - hit_s), pause_ms=1e3 * pause_s)

    def _judge(self, target: str) -> None:
        commands = list(self._commands)
        self.judged += len(commands)
        self.violations += [f"{target} hit: {each}" for each in violations(commands)]

    def _put_back(self, target: str, number: int) -> None:
        if number == signal.SIGSTOP:
            self._signal(target, signal.SIGCONT)
            return
        self._processes[target].join()
        self._start(target)

    def _revive(self) -> None:
        """Start what has died of something else than a signal, and show what the nodes have said."""
        dead = [name for name, process in self._processes.items() if not process.is_alive()]
        shown = self._log.read_bytes()[-LOG_SHOWN:].decode(errors="replace")
        print(f"dead: {dead or 'no node'}; the nodes' last words:\n{shown}", file=sys.stderr)
        for name in dead:
            self.died.append(name)
            self._start(name)

    def _signal(self, target: str, number: int) -> None:
        pid = self._processes[target].pid
        if pid is None:
            raise RuntimeError(f"{target} was never started")
        os.kill(pid, number)

    def _start(self, name: str) -> None:
        node = self._nodes[name]
        arguments = ["--ros-args", "-r", f"__node:={name}", *node.ros_arguments()]
        process = self._prepared.Process(
            target=_run_node, args=(node.executable, arguments, str(self._log)), daemon=True
        )
        process.start()
        self._processes[name] = process

    def _on_command(self, message: JointTrajectory) -> None:
        positions = np.array(message.points[0].positions)
        self._commands.append((time.monotonic(), ns_from_time(message.header.stamp), positions))


def _run_node(executable: str, arguments: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    sys.exit(importlib.import_module(f"armature_ros.{executable}").main(["node", *arguments]))
