"""Serves a policy: newest observation in, chunk of actions out. One inference thread, never a queue."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from typing import Any

from rclpy.executors import Executor
from rclpy.node import Node
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature.control.observation_buffer import ObservationBuffer
from armature.errors import InvalidValue
from armature.types import ActionChunk, Observation
from armature_ros.announcements import Episode
from armature_ros.committed_topics import CommittedTopics
from armature_ros.conversions import chunk_to_msg, ns_from_time
from armature_ros.diagnostics import Diagnostics, StreamMonitor, buffer_figures
from armature_ros.heartbeat import Heartbeat
from armature_ros.parameters import load_config
from armature_ros.policy_loading import PolicyNodeConfig, load_warm_policy
from armature_ros.qos import find_mismatch, latched_qos, newest_stream_qos, reliable_qos
from armature_ros.robot import load_robot_spec
from armature_ros.spin import StopRequest, run
from armature_ros.streams import TopicArrays, live_checks, subscribe, topics_of

WAIT_REPORT_S = 2.0
STUCK_S = 0.5


class PolicyNode(Node):
    """The executor's thread collects observations; the inference thread answers the newest one."""

    def __init__(self) -> None:
        super().__init__("policy_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, PolicyNodeConfig)
        offered = load_robot_spec(self.config.robot)
        self._policy = load_warm_policy(self.config, offered)
        self._spec = self._policy.spec
        self._buffer = self._make_buffer()
        self._refused: Counter[str] = Counter()
        self._committed = CommittedTopics(self, self._spec.action) if self.config.guidance else None
        self._episode: Episode | None = None
        self._due_ns = 0
        # `_changed` guards everything below it; `_in_policy` is held while the policy computes or is reset.
        self._changed = threading.Condition()
        self._in_policy = threading.Lock()
        self._newest: Observation | None = None
        self._frame_ns: int | None = None
        self._generation = 0
        self._fault: BaseException | None = None
        self._ends = False
        self._busy_since_s: float | None = None
        self._make_topics()
        Heartbeat(self, self._is_well)
        self._thread = threading.Thread(target=self._infer_until_end, name="inference", daemon=True)
        self._thread.start()
        self.get_logger().info(f"{self._policy.policy_id}: ready")

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Collect observations until asked to stop; raise what the inference thread raised."""
        while not stop.requested:
            executor.spin_once(timeout_sec=0.1)
            if self._fault is not None:
                raise self._fault

    def destroy_node(self) -> None:
        """End the inference thread."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join(timeout=1.0)
        super().destroy_node()

    def _on_message(self, topic: TopicArrays, message: Any) -> None:
        received_ns, stamp_ns = time.monotonic_ns(), ns_from_time(message.header.stamp)
        self._monitors[topic.topic].on_sample(stamp_ns, received_ns)
        try:
            values = topic.read(message)
        except InvalidValue as error:
            self._refuse(topic.topic, error)
            return
        clock_resets = self._buffer.clock_resets
        taken = [self._buffer.push(name, stamp_ns, received_ns, value) for name, value in values.items()]
        if self._buffer.clock_resets > clock_resets:
            self._begin_at(stamp_ns)
        if any(taken):
            self._newest_stamp_ns = max(self._newest_stamp_ns, stamp_ns)
            if topic.topic in self._pacing:
                self._offer()

    def _begin_at(self, stamp_ns: int) -> None:
        """Forget what was planned on a clock that has been set back since."""
        self.get_logger().error("the clock was set back: all observations are dropped")
        with self._in_policy:
            with self._changed:
                self._generation += 1
                self._newest = None
            self._due_ns = stamp_ns
        self._newest_stamp_ns = stamp_ns

    def _offer(self) -> None:
        """Hand the newest observation to the inference thread, if it is complete and due."""
        if self._newest_stamp_ns < self._due_ns:
            return
        observation = self._buffer.latest(self._newest_stamp_ns)
        if observation is None:
            return
        frames = [self._buffer.newest(array.name) for array in self._spec.observation.images]
        frame_ns = max((frame.stamp_ns for frame in frames if frame is not None), default=None)
        with self._changed:
            self._newest, self._frame_ns = observation, frame_ns
            self._changed.notify()

    def _infer_until_end(self) -> None:
        while (task := self._take()) is not None:
            try:
                self._answer(*task)
            except Exception as error:
                self._fault = error
                return

    def _take(self) -> tuple[Observation, int | None, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ends)
            observation, self._newest = self._newest, None
            return None if self._ends or observation is None else (observation, self._frame_ns, self._generation)

    def _answer(self, observation: Observation, frame_ns: int | None, generation: int) -> None:
        with self._in_policy:
            if generation != self._generation or observation.stamp_ns < self._due_ns:
                return
            self._busy_since_s = begin_s = time.monotonic()
            seen_ns = self.get_clock().now().nanoseconds
            chunk = self._policy.infer(observation, None if self._committed is None else self._committed.newest)
            self._busy_since_s = None
            self._due_ns = observation.stamp_ns + self._replan_ns(chunk)
            self._chunk_publisher.publish(chunk_to_msg(chunk, self._spec.action.labels))
        self._latency_publisher.publish(Float64(data=time.monotonic() - begin_s))
        # When the newest camera frame was taken, when the network began with it, and when its answer went out.
        timing = {"stamp_ns": observation.stamp_ns, "camera_ns": frame_ns, "seen_ns": seen_ns}
        answered_ns = self.get_clock().now().nanoseconds
        self._timing_publisher.publish(String(data=json.dumps({**timing, "answered_ns": answered_ns})))

    def _is_well(self) -> bool:
        """Tell whether answers can still be expected: a network that is stuck must not look alive."""
        busy_since_s = self._busy_since_s
        return busy_since_s is None or time.monotonic() - busy_since_s < self.config.inference_timeout_s

    def _replan_ns(self, chunk: ActionChunk) -> int:
        return min(self.config.execute_steps, len(chunk.actions)) * chunk.period_ns

    def _on_episode(self, message: String) -> None:
        try:
            self._episode = Episode.from_msg(message)
        except InvalidValue as error:
            self._refuse("episode", error)

    def _refuse(self, topic: str, error: InvalidValue) -> None:
        self._refused[topic] += 1
        self.get_logger().error(f"{topic}: {error}; refused", throttle_duration_sec=WAIT_REPORT_S)

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._obstacle()
        if response.message:
            response.success = False
            return response
        begin_ns = self.get_clock().now().nanoseconds if self._episode is None else self._episode.begin_ns
        with self._in_policy:
            with self._changed:
                self._generation += 1
                self._newest = None
            self._policy.reset(None if self._episode is None else self._episode.seed)
            if self._committed is not None:
                self._committed.reset()
            self._due_ns = begin_ns
        self._buffer.reset(begin_ns)
        self._newest_stamp_ns = begin_ns - 1
        response.success, response.message = True, str(begin_ns)
        return response

    def _obstacle(self) -> str:
        if self.config.lockstep and self._episode is None:
            return "no episode was announced on `episode`"
        if self.config.lockstep and not self._chunk_publisher.get_subscription_count():
            return "nobody listens to chunk"
        return ""

    def _report_waiting(self) -> None:
        """Say which topics keep the policy from answering."""
        waiting = [f"{topic} (nobody publishes it)" for topic in self._unpublished()] or self._silent()
        if waiting:
            self.get_logger().warning(f"waiting for {', '.join(waiting)}")

    def _unpublished(self) -> list[str]:
        return [topic for topic, found in self._stream_subscriptions.items() if not found.get_publisher_count()]

    def _silent(self) -> list[str]:
        ages_s = {topic: monitor.age_s() for topic, monitor in self._monitors.items()}
        if self.config.lockstep:
            # Between episodes every topic is silent, as it should be; within one, a tick that is stuck lacks something.
            is_stuck = self._newest_stamp_ns >= self._due_ns and min(ages_s.values()) > STUCK_S
            return self._buffer.missing(self._newest_stamp_ns) if is_stuck else []
        return [f"{topic} ({_silence(age_s)})" for topic, age_s in ages_s.items() if age_s > WAIT_REPORT_S]

    def _make_buffer(self) -> ObservationBuffer:
        config, spec, obs_steps = self.config, self._spec.observation, self._policy.obs_steps
        if config.lockstep:
            return ObservationBuffer(spec, obs_steps, max_age_ns=0)
        times = {"future_max_s": config.future_max_s, "skew_max_s": config.skew_max_s}
        live = live_checks(spec, config.streams, lambda: self.get_clock().now().nanoseconds, **times)
        return ObservationBuffer(spec, obs_steps, round(config.max_age_s * 1e9), live=live)

    def _make_topics(self) -> None:
        topics = topics_of(self._spec.observation.arrays, self.config.streams)
        # In lockstep the rate is that of the simulation.
        self._monitors = {t.topic: StreamMonitor(0.0 if self.config.lockstep else t.rate_hz) for t in topics}
        # What a policy sees is as new as its frames: it answers a frame when that comes, not when a joint state does.
        is_paced_by_frames = bool(self._spec.observation.images) and not self.config.lockstep
        self._pacing = {t.topic for t in topics if not is_paced_by_frames or t.arrays[0].is_image}
        self._newest_stamp_ns = -1
        self._chunk_publisher = self.create_publisher(JointTrajectory, "chunk", reliable_qos())
        self._latency_publisher = self.create_publisher(Float64, "~/latency", reliable_qos(1000))
        self._timing_publisher = self.create_publisher(String, "~/timing", reliable_qos(1000))
        qos = newest_stream_qos(lockstep=self.config.lockstep)
        self._stream_subscriptions = subscribe(self, topics, qos, self._on_message)
        self.create_subscription(String, "episode", self._on_episode, latched_qos())
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_timer(WAIT_REPORT_S, self._report_waiting)
        Diagnostics(self, self._diagnose)

    def _diagnose(self) -> dict[str, dict[str, str]]:
        missing = [] if self.config.lockstep else self._buffer.missing(self._newest_stamp_ns)
        return {
            **{topic: self._figures_of(topic, monitor) for topic, monitor in self._monitors.items()},
            "observation": {**buffer_figures(self._buffer), "fault": "; ".join(missing)},
        }

    def _figures_of(self, topic: str, monitor: StreamMonitor) -> dict[str, str]:
        mismatch = find_mismatch(self, self._stream_subscriptions[topic])
        return {**monitor.report(), "malformed": str(self._refused[topic]), "error": mismatch}


def _silence(age_s: float) -> str:
    return "no message yet" if math.isinf(age_s) else f"silent for {age_s:.1f} s"


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(PolicyNode, PolicyNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
