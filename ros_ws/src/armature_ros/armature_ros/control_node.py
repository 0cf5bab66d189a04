"""The only writer to the arm: chunk scheduler, residual, safety gate, command. No torch.

In real time a thread of its own ticks on absolute deadlines of the steady clock; the executor's thread only hands over
what comes in. In lockstep every joint state is a tick: it is answered at once, or, when a new chunk is due, when the
chunk for that very stamp has come; with a residual, when its correction of that very stamp is there as well.
"""

from __future__ import annotations

import time
from pathlib import Path

from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from armature.control.control_path import ControlPath
from armature.control.limits import SafetyLimits
from armature.control.residual import NoResidual
from armature.control.stream_watch import LiveChecks
from armature.errors import InvalidValue
from armature.types import ActionChunk, GateState, Reason, Sample, Tick
from armature_ros import last_resort
from armature_ros.announcements import Episode
from armature_ros.control_config import ControlNodeConfig
from armature_ros.control_corrections import TOPIC as CORRECTION_TOPIC
from armature_ros.control_corrections import ControlCorrections
from armature_ros.control_outputs import ControlOutputs
from armature_ros.control_services import ControlServices
from armature_ros.control_status import ControlStatus
from armature_ros.control_takeover import TOPIC as TAKEOVER_TOPIC
from armature_ros.control_takeover import ControlTakeover
from armature_ros.conversions import chunk_from_msg, measured_from_joint_state, ns_from_time
from armature_ros.diagnostics import StreamMonitor
from armature_ros.flight_recorder import FlightRecorder
from armature_ros.heartbeat import Heartbeat
from armature_ros.lockstep_ticks import CHUNK, CORRECTION, LockstepTicks
from armature_ros.parameters import load_config
from armature_ros.qos import latched_qos, newest_stream_qos, reliable_qos
from armature_ros.robot import load_limits, load_robot_spec
from armature_ros.spin import StopRequest, run
from armature_ros.steady_loop import SteadyLoop, stamp_of
from armature_ros.tcp_actions import OutOfReach
from armature_ros.tcp_config import make_guard, make_tcp_actions

FUTURE_MAX_NS = 20_000_000
"""How far the stamp of a joint state may be ahead of the clock."""
STUCK_TICKS = 10
REST_S = 1.0
"""The longest that a stop may take before the node is deactivated all the same."""


class ControlNode(LifecycleNode):
    """Turns chunks and joint states into commands. Active, it ticks; inactive, the arm gets nothing from it."""

    def __init__(self) -> None:
        super().__init__("control_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, ControlNodeConfig)
        self.spec = load_robot_spec(self.config.robot).action
        limits = load_limits(self.config.robot, self.spec, self.config.profile)
        self.period_ns = self.spec.period_ns if self.config.lockstep else round(1e9 / self.config.rate_hz)
        guard = make_guard(self.config.tcp, self.config.robot, self.spec, self.config.profile)
        displaces = self.config.chunk_action == "tcp_delta"
        self._tcp_actions = make_tcp_actions(self.config.tcp, self.spec, limits, self.period_ns) if displaces else None
        pace = {"tick_ns": self.period_ns, "lockstep": self.config.lockstep}
        self.corrections = ControlCorrections(self, self.spec, **pace) if self.config.residual else None
        residual = NoResidual() if self.corrections is None else self.corrections.residual
        takeover = self.config.make_takeover(self.period_ns)
        self.path = ControlPath(self.spec, limits, self.config.scheduler, residual, self.period_ns, guard, takeover)
        self.loop: SteadyLoop | None = None
        self.episode: Episode | None = None
        self._live = LiveChecks(lambda: self.get_clock().now().nanoseconds, FUTURE_MAX_NS, 0, {})
        rate_hz = 0.0 if self.config.lockstep else self._rate_of_states()
        self.monitors = {"joint_states": StreamMonitor(rate_hz), "chunk": StreamMonitor()}
        self._flight = self._make_flight_recorder(limits)
        self._ticks = self._make_ticks() if self.config.lockstep else None
        self._last_state = GateState.DISARMED
        self._is_active = False
        self._make_topics()
        self.status = ControlStatus(self)
        ControlServices(self)
        Heartbeat(self, self.is_well)
        if self.config.autostart:
            self.trigger_configure()
            self.trigger_activate()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to tick, disarmed: what was asked while it did not is asked no more."""
        self.path.disarm()
        if not self.config.lockstep:
            self.loop = SteadyLoop(self.period_ns, self._tick_in_real_time)
            self.loop.start()
        self._is_active = True
        pace = "lockstep" if self.config.lockstep else f"{self.config.rate_hz:g} Hz"
        self.get_logger().info(f"ready, {pace}, profile {self.config.profile}, not armed")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Bring the arm to rest first, then stop ticking."""
        self.path.disarm()
        if self.loop is not None:
            deadline_s = time.monotonic() + REST_S
            while not self.path.is_at_rest and time.monotonic() < deadline_s:
                time.sleep(self.period_ns / 1e9)
            self.loop.stop()
            self.loop = None
            last_resort.cancel()
        self._is_active = False
        return super().on_deactivate(state)

    @property
    def is_active(self) -> bool:
        """Tell whether it ticks."""
        return self._is_active

    def spin(self, executor: Executor, stop: StopRequest) -> None:
        """Hand over what comes in until asked to stop, or something fails; then let the arm come to rest."""
        try:
            while not stop.requested:
                executor.spin_once(timeout_sec=0.1)
                if self.loop is not None and self.loop.failure is not None:
                    raise self.loop.failure
                if self._ticks is not None:
                    self._ticks.give_up_late()
        finally:
            if self._is_active:
                self.trigger_deactivate()

    def destroy_node(self) -> None:
        """End the loop and write what is left to write."""
        last_resort.cancel()
        if self.loop is not None:
            self.loop.stop()
        if self._flight is not None:
            self._flight.close()
        super().destroy_node()

    def counts(self) -> dict[str, int]:
        """Return how often what happened in the path and, where there is one, with its residual."""
        # The loop's thread counts on: a copy is taken at once.
        corrected = {} if self.corrections is None else dict(self.corrections.residual.counts)
        return {**self.path.counts(), **{f"residual: {what}": count for what, count in corrected.items()}}

    def reset(self) -> int:
        """Forget chunks, states and faults, disarmed; return the stamp before which nothing is taken any more."""
        begin_ns = self.get_clock().now().nanoseconds if self.episode is None else self.episode.begin_ns
        self.path.reset(begin_ns)
        if self.corrections is not None:
            self.corrections.reset()
        if self._ticks is not None:
            self._ticks.reset()
        self._last_state = GateState.DISARMED
        self.outputs.begin()
        return begin_ns

    def _tick_in_real_time(self, deadline_ns: int) -> None:
        # Stamped with its deadline: however late a tick is, commands are of moments that lie a period apart.
        self._send(Tick(stamp_of(deadline_ns, lambda: self.get_clock().now().nanoseconds), deadline_ns))

    def _tick_in_lockstep(self, stamp_ns: int) -> None:
        # Simulated time is the only one that counts: however long a chunk takes, no period has passed.
        self._send(Tick(stamp_ns, stamp_ns))

    def _send(self, tick: Tick) -> None:
        """Send the command of one tick; send nothing while the state of the arm was never known."""
        command = self.path.tick(tick)
        if command is None:
            return
        self.outputs.send(command)
        if not self.config.lockstep and not self.path.human:
            self.outputs.tell_latency(command)
        if self.takeover is not None:
            self.takeover.tell(command.stamp_ns)
        if self.corrections is not None:
            self.corrections.after(command, is_driving=self.path.is_driving, human=self.path.human)
        if self._flight is not None:
            self._flight.on_command(command, tick.steady_ns)
        if command.state is not self._last_state:
            self._last_state = command.state
            self.status.publish()
            if command.state is GateState.LATCHED:
                self._on_latched()

    def _on_latched(self) -> None:
        fault = self.path.fault or Reason.LATCHED
        self.get_logger().error(f"LATCHED: {fault.value}; arm anew when that is mended")
        if self._flight is not None:
            self._flight.dump(fault.name.lower(), self.path.counts())

    def _on_joint_state(self, message: JointState) -> None:
        received_ns, stamp_ns = time.monotonic_ns(), ns_from_time(message.header.stamp)
        self.monitors["joint_states"].on_sample(stamp_ns, received_ns)
        try:
            self._require_time(stamp_ns)
            value = measured_from_joint_state(message, self.spec)
        except InvalidValue as error:
            self._refuse(self.config.joint_state_topic, error)
            return
        sample = Sample(stamp_ns, stamp_ns if self.config.lockstep else received_ns, value)
        if not self.path.take_state(sample):
            return
        if self._flight is not None:
            self._flight.on_state(sample)
        if self._ticks is not None and self._is_active:
            self._ticks.begin(stamp_ns)

    def _require_time(self, stamp_ns: int) -> None:
        """Raise InvalidValue on a stamp that no clock has shown yet; in lockstep the stamps are the clock."""
        refusal = None if self.config.lockstep else self._live.stamp_refusal(stamp_ns)
        if refusal is not None:
            raise InvalidValue(f"stamp {stamp_ns} ns: {refusal.value}")

    def _on_correction(self) -> None:
        if self._ticks is not None:
            self._ticks.on_correction()

    def _on_chunk(self, message: JointTrajectory) -> None:
        received_ns = time.monotonic_ns()
        self.monitors["chunk"].on_sample(ns_from_time(message.header.stamp), received_ns)
        try:
            chunk = self._read_chunk(message)
        except InvalidValue as error:
            self._refuse("chunk out of reach" if isinstance(error, OutOfReach) else "chunk", error)
            return
        # In lockstep a chunk arrives at the tick that waits for it.
        now_ns = chunk.stamp_ns if self.config.lockstep else self.get_clock().now().nanoseconds
        was_taken = self.path.take_chunk(chunk, now_ns)
        if self._flight is not None:
            self._flight.on_chunk(chunk, self._tick_ns(chunk, received_ns), was_taken=was_taken)
        if was_taken:
            if self.corrections is not None:
                self.corrections.policy_id = chunk.policy_id
            if (committed := self.path.committed(now_ns)) is not None:
                self.outputs.tell_committed(committed)
            if self._ticks is not None:
                self._ticks.on_chunk()

    def _read_chunk(self, message: JointTrajectory) -> ActionChunk:
        displaced = self._tcp_actions
        if displaced is None:
            return chunk_from_msg(message, self.spec)
        chunk = chunk_from_msg(message, displaced.asked)
        return displaced.convert(chunk, self.path.commanded(displaced.begin_ns(chunk)))

    def _tick_ns(self, chunk: ActionChunk, received_ns: int) -> int:
        """Return when a chunk came on the clock of the ticks: in lockstep it is that of the newest state."""
        if not self.config.lockstep:
            return received_ns
        measured = self.path.measured
        return chunk.stamp_ns if measured is None else measured.stamp_ns

    def _refuse(self, topic: str, error: InvalidValue) -> None:
        self.path.refuse(topic)
        self.get_logger().error(f"{topic}: {error}; refused", throttle_duration_sec=2.0)

    def _on_episode(self, message: String) -> None:
        try:
            self.episode = Episode.from_msg(message)
        except InvalidValue as error:
            self._refuse("episode", error)

    def _rate_of_states(self) -> float:
        """Return the rate [Hz] at which joint states should come; 0 where nobody says."""
        streams = self.config.streams.values()
        return max((each.rate_hz for each in streams if each.topic == self.config.joint_state_topic), default=0.0)

    def is_well(self) -> bool:
        """Tell whether commands still go out: a loop that is stuck must not look alive."""
        return self.loop is None or time.monotonic_ns() - self.loop.last_ns < STUCK_TICKS * self.period_ns

    def _make_ticks(self) -> LockstepTicks:
        timeouts_s = {CHUNK: self.config.chunk_timeout_s, CORRECTION: self.config.residual_timeout_s}
        return LockstepTicks(self.path, self.corrections, timeouts_s, self._tick_in_lockstep, self.get_logger().warning)

    def _make_takeover(self) -> ControlTakeover:
        clock = None if self.config.lockstep else lambda: self.get_clock().now().nanoseconds
        # In lockstep what answers a joint state may come before it.
        ahead_ns = self.spec.period_ns if self.config.lockstep else FUTURE_MAX_NS
        ages_ns = round(self.config.takeover_age_max_s * 1e9), ahead_ns
        return ControlTakeover(self, self.spec, self.path, clock, ages_ns, self._refuse)

    def _make_flight_recorder(self, limits: SafetyLimits) -> FlightRecorder | None:
        if not self.config.flight_folder:
            return None
        log = self.get_logger().warning
        return FlightRecorder(Path(self.config.flight_folder), self.spec, limits=limits, log=log)

    def _make_topics(self) -> None:
        config = self.config
        self.outputs = ControlOutputs(self, self.spec, config.command_topic, self.period_ns)
        self.chunk_subscription = self.create_subscription(JointTrajectory, "chunk", self._on_chunk, reliable_qos())
        self.joint_state_subscription = self.create_subscription(
            JointState, config.joint_state_topic, self._on_joint_state, newest_stream_qos(lockstep=config.lockstep)
        )
        self.create_subscription(String, "episode", self._on_episode, latched_qos())
        self.takeover = self._make_takeover() if config.takeover else None
        if self.corrections is not None:
            self.corrections.listen(self._refuse, self._on_correction)
        # Who else has a say in what is asked of the gate.
        sides = {CORRECTION_TOPIC: self.corrections, TAKEOVER_TOPIC: self.takeover}
        self.sides = {topic: side for topic, side in sides.items() if side is not None}
        self.monitors |= {topic: side.monitor for topic, side in self.sides.items()}


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(ControlNode, ControlNode.spin, args, shares_memory=False)


if __name__ == "__main__":
    raise SystemExit(main())
