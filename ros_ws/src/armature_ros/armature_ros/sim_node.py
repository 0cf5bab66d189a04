"""A simulated robot that speaks what a real one speaks, in lockstep with its commands or in real time.

In lockstep tick k's observations are published, stamped with simulated time, and the world moves when the command of
that stamp has come. In real time it moves every period by the newest command, as hardware does.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import Executor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature.errors import ArmatureError, InvalidValue
from armature.spec import TCP_DELTA
from armature_ros.announcements import EPISODE_LABEL, Episode, label_from_msg
from armature_ros.camera_infos import CameraInfos
from armature_ros.conversions import action_from_msg, ns_from_time, time_from_ns
from armature_ros.diagnostics import Diagnostics
from armature_ros.parameters import load_config
from armature_ros.qos import latched_qos, published_stream_qos, reliable_qos
from armature_ros.recorded_topics import OPTIONAL_TOPICS
from armature_ros.robot import RobotConfig
from armature_ros.spin import StopRequest, run
from armature_ros.streams import StreamConfig, StreamPublishers, TopicArrays, topics_of
from data_collection.streams import REWARD, stream_specs
from sim.environment import make_env
from sim.tasks import SimConfig

COMMAND_TOPIC = "arm_controller/joint_trajectory"
REPORT_S = 2.0
EPISODE_GAP_NS = 1_000_000_000
"""Simulated time between two episodes, so that no stamp of one can be taken for the other's."""


@dataclass(frozen=True)
class SimNodeConfig:
    """Parameters of `sim_node`."""

    streams: dict[str, StreamConfig]
    robot: RobotConfig = field(default_factory=RobotConfig)
    lockstep: bool = True
    seed: int = 0
    """Seed of the first episode; each reset takes the next."""
    command_timeout_s: float = 30.0
    """Lockstep: an episode without a command for so long is ended as a failure."""
    command_max_age_s: float = 0.2
    """Real time: without a command for so long the arm stops by itself."""
    render_profile: Literal["auto", "fast", "full"] = "auto"


@dataclass
class _Running:
    """One episode in progress."""

    episode: Episode
    observation: dict[str, NDArray[Any]]
    step: int = 0
    stamp_ns: int = 0
    command: NDArray[np.float64] | None = None
    commanded_ns: int = 0
    """When the newest command came [ns, steady clock]."""
    success: bool = False
    label: bool | None = None
    """What a person said of it, which counts instead."""
    is_started: bool = False
    is_over: bool = False
    fault: str = ""
    latencies_s: list[float] = field(default_factory=list[float])


class SimNode(Node):
    """Owns the world; the executor's thread is also the one that simulates and renders."""

    def __init__(self) -> None:
        super().__init__("sim_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, SimNodeConfig)
        self._env = make_env(_sim_config(self.config))
        spec = self._env.get_wrapper_attr("robot_spec")
        self._action_spec = spec.action
        self._running: _Running | None = None
        self._resets = self._silences = 0
        self._end_ns = 0
        topics = topics_of(spec.observation.arrays, self.config.streams)
        qos = published_stream_qos(lockstep=self.config.lockstep)
        self._streams = StreamPublishers(self, topics, qos)
        reward = TopicArrays(OPTIONAL_TOPICS[REWARD], JointState, (stream_specs(spec)[REWARD],))
        self._rewards = StreamPublishers(self, (reward,), qos)
        self._camera_infos = CameraInfos(self, topics)
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", 10)
        self._episode_publisher = self.create_publisher(String, "episode", latched_qos())
        self._result_publisher = self.create_publisher(String, "episode_result", latched_qos(10))
        self._command_subscription = self.create_subscription(
            JointTrajectory, COMMAND_TOPIC, self._on_command, reliable_qos()
        )
        self.create_subscription(String, EPISODE_LABEL, self._on_label, reliable_qos())
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/start", self._on_start)
        Diagnostics(self, self._diagnose)
        pace = "lockstep" if self.config.lockstep else "real time"
        self.get_logger().info(f"{self.config.robot.task}: ready, {pace}")

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Run episodes as the services ask for them."""
        while not stop.requested:
            running = self._running
            if running is None or not running.is_started:
                executor.spin_once(timeout_sec=0.1)
            elif self.config.lockstep:
                self._run_lockstep(running, executor, stop)
            else:
                self._run_real_time(running, executor, stop)

    def destroy_node(self) -> None:
        """Close the world."""
        self._env.close()
        super().destroy_node()

    def _run_lockstep(self, running: _Running, executor: Executor, stop: StopRequest) -> None:
        period_ns = self._action_spec.period_ns
        while not running.is_over and not stop.requested:
            running.command = None
            begin_s = time.monotonic()
            self._publish(running, running.episode.begin_ns + running.step * period_ns)
            is_commanded = self._await_command(running, executor, stop)
            running.latencies_s.append(time.monotonic() - begin_s)
            if is_commanded and self._running is running:
                self._advance(running)
        self._finish(running)

    def _await_command(self, running: _Running, executor: Executor, stop: StopRequest) -> bool:
        """Spin until the command of this tick is there; report while it is not, and give up after the time-out."""
        begin_s = time.monotonic()
        report_s = begin_s + REPORT_S
        while running.command is None and not running.is_over and not stop.requested:
            executor.spin_once(timeout_sec=0.1)
            now_s = time.monotonic()
            if running.command is None and now_s > report_s:
                self.get_logger().warning(f"tick {running.step}: waiting for {COMMAND_TOPIC}, the arm holds")
                report_s = now_s + REPORT_S
            if running.command is None and now_s > begin_s + self.config.command_timeout_s:
                running.fault = f"no command on {COMMAND_TOPIC} for {self.config.command_timeout_s} s"
                running.is_over = True
        return running.command is not None

    def _run_real_time(self, running: _Running, executor: Executor, stop: StopRequest) -> None:
        period_ns = self._action_spec.period_ns
        deadline_ns = time.monotonic_ns()
        while not running.is_over and not stop.requested:
            self._publish(running, self.get_clock().now().nanoseconds)
            deadline_ns = max(deadline_ns + period_ns, time.monotonic_ns())
            while not running.is_over and (left_ns := deadline_ns - time.monotonic_ns()) > 0:
                executor.spin_once(timeout_sec=left_ns / 1e9)
            if self._running is not running:
                # A reset has ended it: the world is that of the next one.
                return
            if running.command is None:
                running.command = self._env.get_wrapper_attr("measured_action")()
            elif time.monotonic_ns() - running.commanded_ns > self.config.command_max_age_s * 1e9:
                running.command = self._held(running.command)
            self._advance(running)
        self._finish(running)

    def _held(self, command: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the command of an arm that hears nothing: stay at the last target, and make no further motions."""
        self._silences += 1
        held = command.copy()
        if self._action_spec.kind == "tcp_delta":
            held[self._action_spec.slice_of(TCP_DELTA)] = 0.0
        return held

    def _publish(self, running: _Running, stamp_ns: int) -> None:
        running.stamp_ns = stamp_ns
        # Joint states travel in float64: the control path sees what a rollout without ROS sees, to the last bit.
        measured = self._action_spec.split(self._env.get_wrapper_attr("measured_action")())
        self._streams.publish({**running.observation, **measured}, stamp_ns)
        self._camera_infos.publish(stamp_ns)
        self._clock_publisher.publish(ClockMessage(clock=time_from_ns(stamp_ns)))

    def _advance(self, running: _Running) -> None:
        running.observation, reward, terminated, truncated, info = self._env.step(running.command)
        # It rewards the command of this tick, so it has that stamp.
        self._rewards.publish({REWARD: np.array([reward])}, running.stamp_ns)
        running.step += 1
        running.success = bool(info["success"])
        running.is_over = running.is_over or terminated or truncated

    def _finish(self, running: _Running) -> None:
        """End an episode, unless a reset has, and tell how it went."""
        if self._running is not running:
            return
        self._end_ns = running.stamp_ns
        self._running, running.is_over = None, True
        if running.label is not None:
            running.success = running.label
        result = {
            "episode": running.episode.episode,
            "seed": running.episode.seed,
            "success": running.success,
            "steps": running.step,
            "end_ns": running.stamp_ns,
            "published": self._published(running),
            "command_latency_s": running.latencies_s,
            "fault": running.fault,
        }
        self._result_publisher.publish(String(data=json.dumps(result)))
        if running.fault:
            self.get_logger().error(f"episode {running.episode.episode} ended: {running.fault}")

    def _published(self, running: _Running) -> dict[str, int]:
        commands = {"action/executed": running.step, "action/requested": running.step} if self.config.lockstep else {}
        return {**self._streams.counts, **self._rewards.counts, **commands}

    def _on_command(self, message: JointTrajectory) -> None:
        running = self._running
        if running is None or not running.is_started:
            return
        if self.config.lockstep and ns_from_time(message.header.stamp) != running.stamp_ns:
            return
        try:
            action = action_from_msg(message, self._action_spec.labels)
        except InvalidValue as error:
            self.get_logger().error(f"{COMMAND_TOPIC}: {error}; refused")
            return
        if np.isfinite(action).all():
            running.command, running.commanded_ns = action, time.monotonic_ns()

    def _on_label(self, message: String) -> None:
        """End the episode under way as a person has labelled it."""
        running = self._running
        try:
            label = label_from_msg(message)
        except InvalidValue as error:
            self.get_logger().error(f"{EPISODE_LABEL}: {error}; refused", throttle_duration_sec=REPORT_S)
            return
        if running is not None and running.is_started and label["episode"] == running.episode.episode:
            running.label, running.is_over = label["success"], True

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._running is not None and self._running.is_started:
            # Told before the counts of what it published are those of the next one.
            self._finish(self._running)
        seed = self.config.seed + self._resets
        observation, _ = self._env.reset(seed=seed)
        episode = Episode(self._resets, seed, self._next_begin_ns())
        self._resets += 1
        self._streams.reset_counts()
        self._rewards.reset_counts()
        self._running = _Running(episode, observation)
        message = episode.to_msg()
        self._episode_publisher.publish(message)
        response.success, response.message = True, message.data
        return response

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._obstacle()
        response.success = not response.message
        if self._running is not None and response.success:
            self._running.is_started = True
        return response

    def _obstacle(self) -> str:
        """Say what keeps the episode from starting: the first tick must reach everyone who has subscribed."""
        if self._running is None:
            return "no episode is prepared: call ~/reset first"
        unmatched = self._streams.unmatched(self) + self._rewards.unmatched(self)
        if unmatched:
            return f"subscribers not met yet: {', '.join(unmatched)}"
        if self.config.lockstep and not self._command_subscription.get_publisher_count():
            return f"nobody publishes {COMMAND_TOPIC}"
        return ""

    def _next_begin_ns(self) -> int:
        if not self.config.lockstep:
            return self.get_clock().now().nanoseconds
        period_ns = self._action_spec.period_ns
        return -(-(self._end_ns + EPISODE_GAP_NS) // period_ns) * period_ns

    def _diagnose(self) -> dict[str, dict[str, str]]:
        counts = {
            name: {"published": str(count)} for name, count in {**self._streams.counts, **self._rewards.counts}.items()
        }
        step = "-" if self._running is None else str(self._running.step)
        episode = {"resets": str(self._resets), "step": step, "steps without a command": str(self._silences)}
        return {**counts, "episode": episode}


def _sim_config(config: SimNodeConfig) -> SimConfig:
    profile = None if config.render_profile == "auto" else config.render_profile
    if config.robot.spec_file:
        raise ArmatureError("sim_node: robot.spec_file is for real robots; the simulator knows its own")
    return replace(config.robot.sim, render_profile=profile)


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(SimNode, SimNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
