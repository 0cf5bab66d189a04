"""Runs episodes on a graph of its own: start the nodes, wait for them, drive, measure, with a progress bar."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rclpy.node import Node, NodeNameNonExistentError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from armature.errors import ArmatureError
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import graph_environment, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.measurements import Measurements, Stopwatch
from armature_ros.up import RunningGraph
from sim.tasks import SimConfig, robot_spec

LAST_SERVICE = {"sim_node": "start", "policy_node": "reset", "control_node": "arm", "recorder_node": "end"}
"""Of each node, a service that it offers only once it has loaded what it needs."""
SHOWN_SEVERITIES = ("ERROR", "FATAL")
ATTEMPTS_PER_DEMONSTRATION = 2
SAME_PICTURES = ("sim_node.render_profile=fast",)
"""A policy shall see in its demo what it saw in its demonstrations, on machines with and without a GPU."""


@dataclass(frozen=True)
class GraphRun:
    """One graph to start: its configuration, the file that its nodes' output goes to, and where progress is shown."""

    config: GraphConfig
    log_path: Path
    console: Console
    watch: Stopwatch


class NodeLog:
    """Keeps what the nodes print in a file; errors are shown at once."""

    def __init__(self, path: Path, console: Console) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._console = console
        self._lock = threading.Lock()

    def __enter__(self) -> NodeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._file.close()

    def __call__(self, node: str, line: str) -> None:
        """Take one line of a node; called by several threads."""
        with self._lock:
            if self._file.closed:
                return
            self._file.write(f"[{node}] {line}\n")
            self._file.flush()
        if line.startswith((*SHOWN_SEVERITIES, node)):
            self._console.print(f"[red]{node}[/] {escape(line)}", soft_wrap=True)


def run_episodes(run: GraphRun, count: int, measurements: Measurements) -> None:
    """Run and record `count` episodes, counting successes."""
    period_s = _period_s(run.config)
    with _Session(run, measurements) as session, run.watch.phase("episodes"), _progress(run.console) as progress:
        bar = progress.add_task("episodes", total=count, note="")
        for _ in range(count):
            begin_s = time.monotonic()
            outcome = session.driver.run_episode()
            measurements.add_episode(outcome, time.monotonic() - begin_s, period_s)
            done = len(measurements.episodes)
            progress.update(bar, advance=1, note=f"{measurements.successes} of {done} succeeded")


def record_demonstrations(run: GraphRun, count: int, measurements: Measurements) -> None:
    """Record `count` successful episodes; failed attempts are discarded. Raise ArmatureError when too many fail."""
    with _Session(run, measurements) as session, run.watch.phase("demonstrations"), _progress(run.console) as progress:
        bar = progress.add_task("demonstrations", total=count, note="")
        for attempt in range(1, ATTEMPTS_PER_DEMONSTRATION * count + 1):
            outcome = session.driver.run_episode(keeps=lambda result: bool(result["success"]))
            kept = outcome.recorded is not None
            progress.update(bar, advance=int(kept), note=f"{attempt} attempts")
            if progress.tasks[0].finished:
                return
    raise ArmatureError(f"{run.config.task}: fewer than {count} of {attempt} attempts of the expert succeeded")


class _Session:
    """A started graph and its driver; leaving it ends all processes."""

    def __init__(self, run: GraphRun, measurements: Measurements) -> None:
        self._run = run
        self._measurements = measurements
        self._log = NodeLog(run.log_path, run.console)

    def __enter__(self) -> _Session:
        # A domain of its own unless one is given: another graph on this host must not take part.
        environment = graph_environment(None if os.environ.get("ROS_DOMAIN_ID") else 1 + os.getpid() % 100)
        os.environ.update(environment)
        with self._run.watch.phase("start of the nodes"), self._run.console.status("starting the nodes"):
            self._graph = RunningGraph(make_graph("sim", self._run.config), environment, self._log)
            try:
                self.driver = EpisodeDriver(records=True, check=self._graph.check)
                self._measurements.listen(self.driver.node)
                self.driver.spin_until(self._are_ready, "services of the nodes")
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._run.watch.phase("end of the nodes"):
            if hasattr(self, "driver"):
                self.driver.__exit__(kind, error, trace)
            self._graph.stop()
            self._log.__exit__(kind, error, trace)

    def _are_ready(self) -> bool:
        return all(_offers(self.driver.node, node, service) for node, service in LAST_SERVICE.items())


def _offers(observer: Node, node: str, service: str) -> bool:
    try:
        found = observer.get_service_names_and_types_by_node(node, "/")
    except NodeNameNonExistentError:
        return False
    return f"/{node}/{service}" in (name for name, _ in found)


def _period_s(config: GraphConfig) -> float:
    return 1 / robot_spec(SimConfig(task=config.task, action=config.action)).action.rate_hz


def _progress(console: Console) -> Progress:
    columns: tuple[Any, ...] = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, *times, console=console)
