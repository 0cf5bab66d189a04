"""Records every stream of the robot and what was sent to it, episode by episode, into a dataset.

Whatever fails here, the graph goes on: a full queue drops and counts, a full disk ends the episode, and the exit code
tells at the end.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import Executor
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from armature.errors import ArmatureError, ConfigError, InvalidValue
from armature_ros.announcements import EPISODE_LABEL, Episode, label_from_msg
from armature_ros.conversions import NS_PER_S
from armature_ros.diagnostics import Diagnostics
from armature_ros.parameters import load_config
from armature_ros.qos import reliable_qos
from armature_ros.recorded_topics import recorded_topics
from armature_ros.recorder_config import RecorderNodeConfig, open_for_recording
from armature_ros.recorder_counts import plain_counts, stream_report
from armature_ros.robot import load_robot_spec
from armature_ros.spin import EXIT_FAULT, StopRequest, run
from armature_ros.stream_reader import ALL_TIME_NS, StreamReader, Window
from data_collection.recorder import Recorder

QUIET_S = 0.3
TRIM_PERIOD_S = 60.0
# So far ahead an episode begins that no sample of it can come before the reader waits for it.
START_MARGIN_NS = 50_000_000
# A simulator in lockstep counts from zero: its stamps are years away from the clock.
_SIMULATED_AGE_NS = 86_400 * NS_PER_S


class RecorderNode(Node):
    """Begins, ends and discards episodes; the streams are read by a StreamReader."""

    def __init__(self) -> None:
        super().__init__("recorder_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, RecorderNodeConfig)
        spec = load_robot_spec(self.config.robot)
        topics = recorded_topics(spec, self.config.streams)
        dataset = open_for_recording(self.config, spec, self.get_logger().warning)
        self._recorder = Recorder(dataset, self.config.recorder)
        self._reader = StreamReader(self, topics, self.config.reliability, self._recorder)
        self._episode: Episode | None = None
        self._number: int | None = None
        self._label: bool | None = None
        """How a person said that the episode went; it counts more than what `~/end` says."""
        self._fault = ""
        self._is_faulty = False
        self._is_closed = False
        self._stop_request: StopRequest | None = None
        for name, act in (("start", self._start), ("stop", self._stop), ("discard", self._discard)):
            self.create_service(Trigger, f"~/{name}", self._answering(act))
        self.create_service(SetBool, "~/end", self._answering(self._end))
        self.create_service(SetBool, "~/relabel", self._answering(self._relabel))
        self.create_subscription(String, EPISODE_LABEL, self._on_label, reliable_qos())
        Diagnostics(self, self._diagnose)
        self.create_timer(TRIM_PERIOD_S, _give_memory_back)
        self.get_logger().info(f"{self.config.dataset}: ready")

    def loop(self, executor: Executor, stop: StopRequest) -> int:
        """Serve until asked to stop; return the exit code: 3 after any fault of the disk."""
        self._stop_request = stop
        while not stop.requested and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
            self._watch()
        self._close()
        return EXIT_FAULT if self._is_faulty else 0

    def destroy_node(self) -> None:
        """Close what is open as incomplete and give the dataset back."""
        self._close()
        super().destroy_node()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        was_recording = self._recorder.is_recording
        self._reader.close()
        try:
            self._recorder.close()
        except ArmatureError as error:
            self._is_faulty = True
            self.get_logger().error(str(error))
            return
        if was_recording:
            self.get_logger().warning(f"episode {self._number} is kept as incomplete: the recorder was stopped")

    def _answering(self, act: Callable[[Any], str]) -> Callable[[Any, Any], Any]:
        """Wrap an action as a service: its text is the message, an error of the user's is a refusal."""

        def on_request(request: Any, response: Any) -> Any:
            try:
                response.success, response.message = True, act(request)
            except ArmatureError as error:
                response.success, response.message = False, str(error)
            self._watch()
            return response

        return on_request

    def _start(self, _request: Trigger.Request) -> str:
        """Begin an episode; the answer says from which stamp on, so that the caller can compare."""
        announced = self._announced()
        self._require_streams(is_flowing=announced is None)
        self._number = self._recorder.start(self._metadata(announced))
        self._label = None
        now_ns = self.get_clock().now().nanoseconds
        begin_ns = now_ns + START_MARGIN_NS if announced is None else announced.begin_ns
        self._episode = announced
        is_simulated = abs(begin_ns - now_ns) > _SIMULATED_AGE_NS
        late_after_ns = ALL_TIME_NS if is_simulated else round(self.config.late_after_s * 1e9)
        self._reader.window = Window(begin_ns, late_after_ns=late_after_ns)
        return json.dumps({"episode": self._number, "begin_ns": begin_ns})

    def _metadata(self, announced: Episode | None) -> dict[str, Any]:
        seed = {} if announced is None else {"seed": announced.seed}
        return {"operator": self.config.operator, "prompt": self.config.prompt, **seed}

    def _require_streams(self, *, is_flowing: bool) -> None:
        """Raise ConfigError naming every topic that cannot be recorded; before a simulated episode nothing flows."""
        obstacles = self._reader.obstacles()
        if is_flowing:
            obstacles = self._reader.stale(self.config.stale_after_s) | obstacles
        if obstacles:
            raise ConfigError("; ".join(f"{topic}: {obstacle}" for topic, obstacle in obstacles.items()))

    def _announced(self) -> Episode | None:
        """Return the episode that a simulator has announced; None on a robot that announces none."""
        announced = self._reader.episode
        if announced is None and self._reader.count_announcers():
            raise ConfigError("an episode is announced on `episode`, but has not arrived yet")
        if announced is not None and announced == self._episode:
            raise ConfigError(f"episode {announced.episode} was recorded already, and no new one is announced")
        return announced

    def _stop(self, _request: Trigger.Request) -> str:
        self._close_window()
        return "no further samples are taken; ~/end or ~/discard the episode"

    def _discard(self, _request: Trigger.Request) -> str:
        self._reader.window.close()
        self._recorder.discard()
        self._episode = self._number = None
        return "discarded"

    def _end(self, request: SetBool.Request) -> str:
        published = self._drain() if self._recorder.is_recording else {}
        self._reader.window.close()
        termination = str((self._result() or {}).get("fault", ""))
        if self._label is not None:
            termination = termination or "labelled by the operator"
        summary = self._recorder.end(request.data if self._label is None else self._label, termination)
        return json.dumps(
            {
                "episode": summary.episode,
                "success": summary.success,
                "steps": summary.steps,
                "duration_s": summary.duration_s,
                "counts": plain_counts(summary.counts),
                "published": published,
            }
        )

    def _on_label(self, message: String) -> None:
        """Keep what a person says of the episode that is recorded, or was last."""
        try:
            label = label_from_msg(message)
        except InvalidValue as error:
            self.get_logger().error(f"{EPISODE_LABEL}: {error}; refused", throttle_duration_sec=2.0)
            return
        if self._number is None or (self._episode is not None and label["episode"] != self._episode.episode):
            return
        self._label = label["success"]
        if not self._recorder.is_recording:
            try:
                self._recorder.relabel_last(self._label)
            except ArmatureError as error:
                self.get_logger().error(f"{EPISODE_LABEL}: {error}")

    def _relabel(self, request: SetBool.Request) -> str:
        number = self._recorder.relabel_last(request.data)
        return json.dumps({"episode": number, "success": request.data})

    def _close_window(self) -> None:
        """Take no samples of later than now, or in simulated time than what has come."""
        window = self._reader.window
        now_ns = self.get_clock().now().nanoseconds if self._episode is None else window.newest_ns
        window.end_ns = min(window.end_ns, now_ns)

    def _drain(self) -> dict[str, int]:
        """Wait for samples in flight; return how many were published by stream, where the robot says so."""
        window, begin_s = self._reader.window, time.monotonic()
        while time.monotonic() < begin_s + self.config.drain_timeout_s and not self._is_stopping():
            is_quiet = time.monotonic() - max(window.last_accepted_s, begin_s) > QUIET_S
            published = self._settled(is_quiet=is_quiet)
            if published is not None:
                return published
            time.sleep(0.005)
        published = (self._result() or {}).get("published", {})
        lost = ", ".join(f"{count} of {name}" for name, count in self._lost(published).items())
        self.get_logger().error(f"~/end: published but not received: {lost or 'nothing'}")
        return published

    def _settled(self, *, is_quiet: bool) -> dict[str, int] | None:
        """Return what was published once nothing more is to come, {} where nobody says it; None before."""
        window, result = self._reader.window, self._result()
        if result is not None and window.end_ns >= result["end_ns"]:
            window.end_ns = result["end_ns"]
            published = result["published"]
            is_over = not self._lost(published) if self._knows_all(published) else is_quiet
            return published if is_over else None
        if self._episode is None or is_quiet:
            # Nobody says when it ended, or ~/stop did: it ends with what is here.
            self._close_window()
        return {} if is_quiet else None

    def _knows_all(self, published: dict[str, int]) -> bool:
        """Tell whether the robot says of every stream that anyone publishes how much there is."""
        expected = {s for c in self._reader.channels if c.publishers for s in c.topic.streams}
        return expected <= set(published)

    def _lost(self, published: dict[str, int]) -> dict[str, int]:
        settled = self._reader.window.settled
        return {name: count - settled[name] for name, count in published.items() if settled[name] < count}

    def _is_stopping(self) -> bool:
        return self._stop_request is not None and self._stop_request.requested

    def _result(self) -> dict[str, Any] | None:
        """Return the result of the episode that is recorded, once it is there."""
        result = self._reader.result
        is_ours = result is not None and self._episode is not None and result["episode"] == self._episode.episode
        return result if is_ours else None

    def _watch(self) -> None:
        """End the process with what has failed in the reader; take note of what the recorder has ended itself."""
        if self._reader.failure is not None:
            raise self._reader.failure
        fault = self._recorder.fault
        if fault and fault != self._fault:
            self._reader.window.close()
            self._is_faulty = True
            self.get_logger().error(f"episode {self._number} was ended: {fault}")
        self._fault = fault

    def _diagnose(self) -> dict[str, dict[str, str]]:
        counts = self._recorder.counts()
        number = "" if self._number is None else str(self._number)
        episode = {"episode": number, "recording": str(self._recorder.is_recording), "error": self._fault}
        return {"episode": episode, **stream_report(self._reader.channels, counts)}


def _give_memory_back() -> None:
    """Have glibc give back the memory of freed frames, which it keeps: a pause of the disk would leave it for ever."""
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(RecorderNode, RecorderNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
