"""`armature up <graph>`: starts the nodes of a graph, watches them, and ends them all together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import IO, Annotated, Literal

import tyro

from armature.errors import ArmatureError, ConfigError
from armature.interrupts import ignored
from armature_ros.graph import NodeSpec, graph_environment, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.shared_memory import remove_leftovers
from armature_ros.spin import EXIT_BAD_INPUT, EXIT_FAULT, PARENT_VARIABLE

# The recorder commits what came within 3 s, on a host that is not busy.
STOP_TIMEOUT_S = 8.0
EXIT_NODE_DIED = 1
# The terminal's own signals reach the nodes that stay in its process group before they are asked to end.
_ORDERLY = (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
POLL_S = 0.05
LOOK_S = 2.0
"""How long nodes of the same names are looked for before a graph is started; a running one is found within 0.8 s."""


class NodeDied(ArmatureError):
    """A node of a running graph has ended by itself."""

    def __init__(self, name: str, returncode: int) -> None:
        how = f"ended with exit code {returncode}"
        if returncode < 0:
            how = f"was killed by {signal.Signals(-returncode).name}"
        super().__init__(f"node {name} {how}")
        self.name = name
        self.returncode = returncode


class EpisodeFailed(ArmatureError):
    """A node of a running graph refuses what an episode needs, or does not answer."""


class RunningGraph:
    """The processes of a graph. Use it in a `with` block, from the main thread: leaving it leaves no process behind.

    The kernel kills a node when the thread that started it dies, so that even SIGKILL to this process ends the graph.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        environment: Mapping[str, str],
        log: Callable[[str, str], None] | None = None,
    ) -> None:
        """Start every node with `environment` on top of the present one; `log(node, line)` gets what they print."""
        self._log = log or print_log
        remove_leftovers()
        self._environment = {**os.environ, **environment, PARENT_VARIABLE: str(os.getpid())}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        # Of those without which the graph goes on.
        self._dispensable = {node.name: node for node in nodes if node.restarts is not None}
        self._restarts = {node.name: node.restarts or 0 for node in self._dispensable.values()}
        self._given_up: set[str] = set()
        try:
            for node in nodes:
                self._start(node)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> RunningGraph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pids(self) -> dict[str, int]:
        """Return the process id of every node."""
        return {name: process.pid for name, process in self._processes.items()}

    def check(self) -> None:
        """Raise NodeDied naming the first node that has ended, unless it may be started again or be done without."""
        for name, process in list(self._processes.items()):
            returncode = process.poll()
            if returncode is None or name in self._given_up:
                continue
            # Bad input is bad the next time, too.
            if name not in self._dispensable or returncode == EXIT_BAD_INPUT:
                raise NodeDied(name, returncode)
            self._replace(name, NodeDied(name, returncode))

    def _replace(self, name: str, died: NodeDied) -> None:
        """Start a node again, or go on without it."""
        if self._restarts[name] == 0 or died.returncode == EXIT_FAULT:
            self._given_up.add(name)
            self._say(name, f"{died}; the graph goes on without it")
            return
        self._restarts[name] -= 1
        self._say(name, f"{died}; it is started again, {self._restarts[name]} more times at most")
        self._start(self._dispensable[name])

    def faulty(self) -> list[str]:
        """Name the nodes that tell of a fault at their end, or did not end in order when asked; not the given up."""
        codes = {name: process.poll() for name, process in self._processes.items()}
        disorderly = {name for name, code in codes.items() if code not in (None, *_ORDERLY)} - self._given_up
        return [name for name, code in codes.items() if code == EXIT_FAULT or name in disorderly]

    def stop(self) -> None:
        """End all nodes: ask first, kill after a time-out; return when all are gone."""
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        # With this process what has not ended yet would be killed, unnamed.
        with ignored(signal.SIGINT, signal.SIGTERM):
            for process in self._processes.values():
                _signal(process, signal.SIGTERM)
            for name, process in self._processes.items():
                self._end(name, process, deadline_s)
        for reader in self._readers:
            reader.join(timeout=0.5)

    def _end(self, name: str, process: subprocess.Popen[str], deadline_s: float) -> None:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
            self._say(name, f"{name}: did not end within {STOP_TIMEOUT_S:g} s, killed")

    def _start(self, node: NodeSpec) -> None:
        process = subprocess.Popen(
            node.command(),
            env={**self._environment, **node.environment},
            stdin=None if node.needs_terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C in the terminal goes to this process alone, which then ends the nodes in order.
            process_group=None if node.needs_terminal else 0,
        )
        self._processes[node.name] = process
        reader = threading.Thread(target=self._read, args=(node.name, process.stdout), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, name: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._say(name, line.rstrip("\n"))

    def _say(self, name: str, line: str) -> None:
        # Where it cannot be written, to a terminal that is gone say, the nodes have to be read and ended all the same.
        with suppress(OSError):
            self._log(name, line)


def print_log(name: str, line: str) -> None:
    """Print one line of a node behind its name."""
    print(f"[{name}] {line}", flush=True)


def interrupt_on_hangup() -> None:
    """Have a terminal that is closed look like Ctrl-C; what is printed to it from then on goes nowhere.

    Under nohup, which has the signal ignored, nothing changes.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def on_hangup(_number: int, _frame: FrameType | None) -> None:
        # Kernel and shell both send one: the second must not interrupt the end that the first has begun.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in terminals:
            os.dup2(nowhere, descriptor)
        raise KeyboardInterrupt

    signal.signal(signal.SIGHUP, on_hangup)


def _signal(process: subprocess.Popen[str], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


@dataclass(frozen=True)
class UpConfig:
    """Start a graph of ROS 2 nodes and keep it running until Ctrl-C."""

    graph: Annotated[Literal["sim", "collect", "robot", "residual"], tyro.conf.Positional]
    config: Annotated[GraphConfig, tyro.conf.arg(name="")] = field(default_factory=GraphConfig)
    domain_id: int | None = None
    """ROS_DOMAIN_ID of the graph; unset: the environment's."""
    episodes: int = 0
    """Run so many episodes of a simulated robot and end; 0: wait for services to be called."""


def main(argv: list[str]) -> int:
    """Run `armature up`; return the exit code.

    0: asked to stop; 1: a node died, or did not do what an episode needs; 2: an option, or what a node was given, is
    refused; 3: a node ended with a fault, or had to be killed.
    """
    config = tyro.cli(UpConfig, args=argv, prog="armature up")
    # Ctrl-C, SIGTERM and a closed terminal look the same from here on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupt_on_hangup()
    if config.episodes < 0:
        raise ConfigError(f"--episodes is {config.episodes}, must be 0 or more")
    environment = graph_environment(config.domain_id)
    code, graph = 0, None
    nodes = make_graph(config.graph, config.config)
    if config.episodes:
        _require_driven(config, nodes)
    try:
        require_free(nodes, environment)
        with RunningGraph(nodes, environment) as graph:
            code = _watch(graph, config)
    except NodeDied as died:
        print(f"armature up: {died}; the graph was stopped", file=sys.stderr)
        # It has said what it refuses.
        return EXIT_BAD_INPUT if died.returncode == EXIT_BAD_INPUT else EXIT_NODE_DIED
    except EpisodeFailed as failed:
        print(f"armature up: {failed}; the graph was stopped", file=sys.stderr)
        code = EXIT_NODE_DIED
    except KeyboardInterrupt:
        pass
    faulty = [] if graph is None else graph.faulty()
    if faulty:
        why = "had a fault, of the disk or of what it learned, or did not end in order"
        print(f"armature up: {', '.join(faulty)} {why}", file=sys.stderr)
    return code or (EXIT_FAULT if faulty else 0)


def _require_driven(config: UpConfig, nodes: Sequence[NodeSpec]) -> None:
    """Raise ConfigError where the graph lacks a node by which episodes are run."""
    if missing := [name for name in ("sim_node", "policy_node") if name not in {node.name for node in nodes}]:
        lacks = " and no ".join(missing)
        raise ConfigError(f"--episodes {config.episodes}: graph '{config.graph}' has no {lacks} as it is set; "
                          "valid with a simulated robot that a policy drives")  # fmt: skip


def require_free(nodes: Sequence[NodeSpec], environment: Mapping[str, str]) -> None:
    """Raise ConfigError where a node of the graph runs in its domain already: two of a name would both be heard."""
    from armature_ros.doctor_graph import running_nodes

    os.environ.update(environment)
    running = running_nodes(LOOK_S)
    if twice := [node.name for node in nodes if f"/{node.name}" in running]:
        raise ConfigError(f"{', '.join(twice)} runs already in domain {os.environ.get('ROS_DOMAIN_ID') or 0}: "
                          "end that graph first, or take another domain (--domain-id, ROS_DOMAIN_ID)")  # fmt: skip


def _watch(graph: RunningGraph, config: UpConfig) -> int:
    try:
        if config.episodes:
            from armature_ros.episodes import run_episodes

            return run_episodes(config.episodes, records=bool(config.config.dataset), check=graph.check)
        while True:
            graph.check()
            time.sleep(POLL_S)
    except NodeDied as died:
        # The others take a while to end.
        print(f"armature up: {died}; stopping the graph", file=sys.stderr, flush=True)
        raise
