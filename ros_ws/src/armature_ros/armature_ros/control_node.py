"""The only writer to the arm: chunk scheduler, residual, safety gate, command. No torch.

In real time it ticks on absolute deadlines of the steady clock. In lockstep every joint state is a tick: it is answered
at once, or, when a new chunk is due, when the chunk for that very stamp has come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from rclpy.executors import Executor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature.clock import SteadyClock
from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig, SchedulerMode
from armature.control.control_step import control_step
from armature.control.residual import NoResidual
from armature.control.safety_gate import SafetyGate, SafetyLimits
from armature.errors import InvalidValue
from armature.types import Command, Sample
from armature_ros.conversions import (
    Episode,
    action_to_msg,
    chunk_from_msg,
    measured_from_joint_state,
    ns_from_time,
)
from armature_ros.diagnostics import Diagnostics, StreamMonitor
from armature_ros.parameters import load_config
from armature_ros.qos import latched_qos, newest_stream_qos, reliable_qos
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.spin import StopRequest, run
from armature_ros.streams import StreamConfig

RECORDED_DEPTH = 100


@dataclass(frozen=True)
class ControlNodeConfig:
    """Parameters of `control_node`. Limits have no defaults: they belong to the robot's file."""

    limits: SafetyLimits
    streams: dict[str, StreamConfig]
    robot: RobotConfig = field(default_factory=RobotConfig)
    lockstep: bool = False
    mode: SchedulerMode = "receding_horizon"
    execute_steps: int = 8
    ensemble_decay: float = 0.01
    joint_state_topic: str = "joint_states"
    command_topic: str = "arm_controller/joint_trajectory"
    chunk_timeout_s: float = 10.0
    """Lockstep: how long a tick waits for its chunk before the arm holds."""

    @property
    def scheduler(self) -> SchedulerConfig:
        """Return the chunk scheduler's configuration."""
        return SchedulerConfig(self.mode, self.execute_steps, self.ensemble_decay)


class ControlNode(Node):
    """Turns chunks and joint states into commands; one thread does everything."""

    def __init__(self) -> None:
        super().__init__("control_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, ControlNodeConfig)
        self._spec = load_robot_spec(self.config.robot).action
        self._steady = SteadyClock()
        self._scheduler = ChunkScheduler(self.config.scheduler)
        self._gate = SafetyGate(self._spec, self.config.limits)
        self._residual = NoResidual()
        self._episode: Episode | None = None
        self._begin_ns = 0
        self._measured: Sample | None = None
        self._arms_at_next_state = False
        self._waiting_ns: int | None = None
        self._waits_until_ns = 0
        self._policy_is_silent = False
        self._last_tick_ns: int | None = None
        self._overruns = 0
        self._refused: Counter[str] = Counter()
        self._monitors = {"joint_states": StreamMonitor(), "chunk": StreamMonitor()}
        self._make_topics()
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/arm", self._on_arm)
        self.create_service(Trigger, "~/disarm", self._on_disarm)
        Diagnostics(self, self._diagnose)
        pace = "lockstep" if self.config.lockstep else f"{self._spec.rate_hz} Hz"
        self.get_logger().info(f"ready, {pace}, not armed")

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Tick until asked to stop."""
        if self.config.lockstep:
            self._loop_lockstep(executor, stop)
        else:
            self._loop_real_time(executor, stop)

    def _loop_lockstep(self, executor: Executor, stop: StopRequest) -> None:
        while not stop.requested:
            executor.spin_once(timeout_sec=0.1)
            if self._waiting_ns is not None and self._steady.now_ns() > self._waits_until_ns:
                self._policy_is_silent = True
                self.get_logger().warning(f"no chunk for {self.config.chunk_timeout_s} s: the arm holds")
                self._tick(self._waiting_ns)

    def _loop_real_time(self, executor: Executor, stop: StopRequest) -> None:
        deadline_ns = self._steady.now_ns()
        while not stop.requested:
            left_ns = deadline_ns - self._steady.now_ns()
            if left_ns > 0:
                executor.spin_once(timeout_sec=left_ns / 1e9)
                continue
            if -left_ns > self._spec.period_ns:
                # Ticks that were missed are not made up for: two at once would be one large motion.
                missed = -left_ns // self._spec.period_ns
                self._overruns += missed
                deadline_ns += missed * self._spec.period_ns
            deadline_ns += self._spec.period_ns
            self._tick(self.get_clock().now().nanoseconds)

    def _tick(self, now_ns: int) -> None:
        """Send the command of one tick; send nothing while the state of the arm was never known."""
        self._waiting_ns = None
        measured = self._fresh_state()
        if self._arms_at_next_state and measured is not None:
            self._gate.arm(now_ns, measured.value)
            self._arms_at_next_state = False
        try:
            command = control_step(now_ns, measured, self._scheduler, self._residual, self._gate)
        except InvalidValue:
            self._refused["tick without a known state"] += 1
            return
        self._send(command)

    def _send(self, command: Command) -> None:
        labels, period_ns = self._spec.labels, self._spec.period_ns
        message = action_to_msg(command.action, labels, command.stamp_ns, period_ns)
        self._command_publisher.publish(message)
        self._executed_publisher.publish(message)
        asked = np.full(self._spec.dim, np.nan) if command.requested is None else command.requested
        self._requested_publisher.publish(action_to_msg(asked, labels, command.stamp_ns, period_ns))
        now_ns = self._steady.now_ns()
        if self._last_tick_ns is not None:
            self._period_publisher.publish(Float64(data=(now_ns - self._last_tick_ns) / 1e9))
        self._last_tick_ns = now_ns

    def _fresh_state(self) -> Sample | None:
        """Return the newest state, or None when the arm went silent by the steady clock; lockstep has no hurry."""
        if self._measured is None or self.config.lockstep:
            return self._measured
        age_s = (self._steady.now_ns() - self._measured.received_ns) / 1e9
        return self._measured if age_s <= self.config.limits.max_state_age_s else None

    def _on_joint_state(self, message: JointState) -> None:
        received_ns, stamp_ns = self._steady.now_ns(), ns_from_time(message.header.stamp)
        self._monitors["joint_states"].on_sample(stamp_ns, received_ns)
        if stamp_ns < self._begin_ns or (self._measured is not None and stamp_ns <= self._measured.stamp_ns):
            return
        try:
            self._measured = Sample(stamp_ns, received_ns, measured_from_joint_state(message, self._spec))
        except InvalidValue as error:
            self._refuse(self.config.joint_state_topic, error)
            return
        if self.config.lockstep:
            self._begin_tick(stamp_ns)

    def _begin_tick(self, stamp_ns: int) -> None:
        is_driving = self._gate.is_armed or self._arms_at_next_state
        if is_driving and not self._policy_is_silent and self._scheduler.needs_chunk(stamp_ns):
            self._waiting_ns = stamp_ns
            self._waits_until_ns = self._steady.now_ns() + round(self.config.chunk_timeout_s * 1e9)
        else:
            self._tick(stamp_ns)

    def _on_chunk(self, message: JointTrajectory) -> None:
        self._monitors["chunk"].on_sample(ns_from_time(message.header.stamp), self._steady.now_ns())
        try:
            chunk = chunk_from_msg(message, self._spec)
        except InvalidValue as error:
            self._refuse("chunk", error)
            return
        if self._scheduler.push(chunk):
            self._policy_is_silent = False
        if self._waiting_ns is not None and not self._scheduler.needs_chunk(self._waiting_ns):
            self._tick(self._waiting_ns)

    def _refuse(self, topic: str, error: InvalidValue) -> None:
        self._refused[topic] += 1
        self.get_logger().error(f"{topic}: {error}; refused", throttle_duration_sec=2.0)

    def _on_episode(self, message: String) -> None:
        self._episode = Episode.from_msg(message)

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.config.lockstep and self._episode is None:
            response.success, response.message = False, "no episode was announced on `episode`"
            return response
        self._begin_ns = self.get_clock().now().nanoseconds if self._episode is None else self._episode.begin_ns
        self._gate = SafetyGate(self._spec, self.config.limits)
        self._scheduler.reset(self._begin_ns)
        self._arms_at_next_state = self._policy_is_silent = False
        self._measured = self._waiting_ns = self._last_tick_ns = None
        response.success, response.message = True, str(self._begin_ns)
        return response

    def _on_arm(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        topic = self.config.joint_state_topic
        if not self._joint_state_subscription.get_publisher_count():
            response.success, response.message = False, f"nobody publishes {topic}"
        elif not self._command_publisher.get_subscription_count():
            response.success, response.message = False, f"nobody listens to {self.config.command_topic}"
        else:
            self._arms_at_next_state = True
            response.success, response.message = True, f"armed from the next message on {topic}"
        return response

    def _on_disarm(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._gate.disarm()
        self._arms_at_next_state = False
        response.success, response.message = True, "the arm holds"
        return response

    def _make_topics(self) -> None:
        config = self.config
        # Latched, so that a recorder that is matched after the first ticks misses none.
        recorded = latched_qos(RECORDED_DEPTH)
        self._command_publisher = self.create_publisher(JointTrajectory, config.command_topic, reliable_qos())
        self._executed_publisher = self.create_publisher(JointTrajectory, "control/executed", recorded)
        self._requested_publisher = self.create_publisher(JointTrajectory, "control/requested", recorded)
        self._period_publisher = self.create_publisher(Float64, "~/period", reliable_qos(1000))
        self._chunk_subscription = self.create_subscription(JointTrajectory, "chunk", self._on_chunk, reliable_qos())
        self._joint_state_subscription = self.create_subscription(
            JointState, config.joint_state_topic, self._on_joint_state, newest_stream_qos(lockstep=config.lockstep)
        )
        self.create_subscription(String, "episode", self._on_episode, latched_qos())

    def _diagnose(self) -> dict[str, dict[str, str]]:
        reasons = {reason.name.lower(): str(count) for reason, count in self._gate.counts.items()}
        dropped = {f"chunks {reason}": str(count) for reason, count in self._scheduler.dropped.items()}
        refused = {f"refused {topic}": str(count) for topic, count in self._refused.items()}
        gate = {"armed": str(self._gate.is_armed), "overruns": str(self._overruns), **reasons, **dropped, **refused}
        return {**{name: monitor.report() for name, monitor in self._monitors.items()}, "gate": gate}


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(ControlNode, ControlNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
