"""Drives a simulated robot's graph through episodes by its services; `armature up --episodes` and the demo use it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import rclpy
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from armature.errors import InvalidValue
from armature_ros.announcements import Episode, result_from_msg
from armature_ros.introduction import Introduction
from armature_ros.qos import latched_qos
from armature_ros.up import EpisodeFailed

RETRY_S = 0.05


@dataclass(frozen=True)
class EpisodeOutcome:
    """One finished episode: sim_node's `episode_result`, and what the recorder committed (None without a recorder)."""

    result: dict[str, Any]
    recorded: dict[str, Any] | None


class EpisodeDriver:
    """Runs episodes: reset sim, policy and control to the same seed and stamp, record, arm, start, wait, commit.

    Use it in a `with` block. `check` is called again and again while waiting; what it raises ends the wait
    (RunningGraph.check, to notice a dead node). The environment must hold `graph_environment()` before it is made.
    """

    def __init__(self, *, records: bool, check: Callable[[], None], timeout_s: float = 120.0) -> None:
        self._check = check
        self._records = records
        self._timeout_s = timeout_s
        self._results: dict[int, dict[str, Any]] = {}
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("episode_driver", context=self._context)
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.node.create_subscription(String, "episode_result", self._on_result, latched_qos(10))
        self._triggers = {
            name: self.node.create_client(Trigger, name)
            for name in (
                "sim_node/reset",
                "sim_node/start",
                "policy_node/reset",
                "control_node/reset",
                "control_node/arm",
                "control_node/disarm",
                "recorder_node/start",
                "recorder_node/discard",
            )
        }
        self._end = self.node.create_client(SetBool, "recorder_node/end")
        called = ("sim_node", "policy_node", "control_node", *(("recorder_node",) if records else ()))
        self._introductions = [Introduction(self.node, name) for name in called]

    def __enter__(self) -> EpisodeDriver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def run_episode(self, keeps: Callable[[dict[str, Any]], bool] = lambda result: True) -> EpisodeOutcome:
        """Run the next episode and commit it if it `keeps(result)`; raise EpisodeFailed where a node does not help."""
        episode = self.start_episode()
        result = self._await_result(episode)
        # Between episodes the simulated arm is silent, which would be a fault of one that is driven.
        self._accepted("control_node/disarm")
        if not self._records:
            return EpisodeOutcome(result, None)
        if not keeps(result):
            self._accepted("recorder_node/discard")
            return EpisodeOutcome(result, None)
        answer = self._call(self._end, SetBool.Request(data=bool(result["success"])))
        if not answer.success:
            raise EpisodeFailed(f"recorder_node/end: {answer.message}")
        return EpisodeOutcome(result, json.loads(answer.message))

    def start_episode(self) -> Episode:
        """Set the next episode going and return it."""
        self.spin_until(self._is_known, "an answer of every node")
        episode = Episode(**json.loads(self._accepted("sim_node/reset")))
        begin = str(episode.begin_ns)
        for name in ("policy_node/reset", "control_node/reset"):
            self._accepted(name, lambda message: message == begin)
        if self._records:
            self._accepted("recorder_node/start", lambda message: json.loads(message)["begin_ns"] == episode.begin_ns)
        for name in ("control_node/arm", "sim_node/start"):
            self._accepted(name)
        return episode

    def spin_until(self, is_done: Callable[[], bool], what: str) -> None:
        """Run callbacks until `is_done()`; raise EpisodeFailed naming `what` after the time-out."""
        deadline_s = time.monotonic() + self._timeout_s
        while not is_done():
            self._check()
            if time.monotonic() > deadline_s:
                raise EpisodeFailed(f"{what}: nothing for {self._timeout_s} s")
            self._executor.spin_once(timeout_sec=0.1)

    def _is_known(self) -> bool:
        return all([each.ask() for each in self._introductions])

    def _await_result(self, episode: Episode) -> dict[str, Any]:
        # However long it takes: sim_node itself ends an episode that is silent, and `check` tells of a node that died.
        while episode.episode not in self._results:
            self._check()
            self._executor.spin_once(timeout_sec=0.1)
        return self._results.pop(episode.episode)

    def _accepted(self, name: str, is_right: Callable[[str], bool] = lambda message: True) -> str:
        """Call a service until it succeeds with the right message, and return that."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            answer = self._call(self._triggers[name], Trigger.Request())
            if answer.success and is_right(answer.message):
                return answer.message
            if time.monotonic() > deadline_s:
                raise EpisodeFailed(f"{name}: still refused after {self._timeout_s} s: {answer.message}")
            self._check()
            self._executor.spin_once(timeout_sec=RETRY_S)

    def _call(self, client: Any, request: Any) -> Any:
        self.spin_until(client.service_is_ready, f"service {client.srv_name}")
        future = client.call_async(request)
        self.spin_until(future.done, f"answer of {client.srv_name}")
        return future.result()

    def _on_result(self, message: String) -> None:
        try:
            result = result_from_msg(message)
        except InvalidValue as error:
            self.node.get_logger().error(f"episode_result: {error}; refused", throttle_duration_sec=2.0)
            return
        self._results[result["episode"]] = result


def run_episodes(count: int, *, records: bool, check: Callable[[], None]) -> int:
    """Run `count` episodes, print one line for each, and return 0."""
    with EpisodeDriver(records=records, check=check) as driver:
        for _ in range(count):
            result = driver.run_episode().result
            outcome = "success" if result["success"] else "failure"
            name = f"episode {result['episode']}, seed {result['seed']}"
            print(f"{name}: {outcome} after {result['steps']} steps", flush=True)
    return 0
