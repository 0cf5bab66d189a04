"""The residual beside the control node: it answers base actions with corrections and logs what comes of them. No torch.

It never blocks the arm: an answer that does not come leaves the base action alone. Episodes begin and end as the
simulator announces them, or by services. The log goes on where a process that was killed has left it; what is left of
the interrupted episode is the base's alone.
"""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.executors import Executor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from armature.control.residual import Correction
from armature.errors import InvalidValue
from armature_ros.announcements import EPISODE_LABEL, Episode, result_from_msg
from armature_ros.control_corrections import HUMAN, LATCHED, BaseAction, base_action_from_msg, correction_to_msg
from armature_ros.conversions import action_from_msg, ns_from_time, positions_from_joint_state
from armature_ros.diagnostics import Diagnostics
from armature_ros.heartbeat import Heartbeat
from armature_ros.parameters import load_config
from armature_ros.qos import latched_qos, reliable_qos
from armature_ros.residual_config import ResidualNodeConfig
from armature_ros.residual_inputs import KEPT, ResidualInputs
from armature_ros.residual_link import ResidualLink
from armature_ros.robot import load_limits, load_robot_spec
from armature_ros.spin import EXIT_FAULT, StopRequest, run
from policies.detour import Detour
from policies.residual_acting import ResidualActing
from policies.residual_folder import load_residual
from policies.step_assembly import Step, StepAssembly
from policies.step_link import StepSender
from policies.step_log import LogHead, StepLog

LOG_NAME, KEPT_NAME = "steps.log", "actor.bin"
LOOK_S = 0.2
TIMED = 1000


class ResidualNode(Node):
    """Everything happens on the executor's thread: an answer takes a fraction of a millisecond."""

    def __init__(self) -> None:
        super().__init__("residual_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, ResidualNodeConfig)
        spec = load_robot_spec(self.config.robot)
        self._residual = load_residual(Path(self.config.residual))
        self._residual.require_no_cameras("residual_node")
        limits = load_limits(self.config.robot, spec.action, self.config.profile)
        self._view = self._residual.view(spec, limits)
        self._log = StepLog(self.config.log_path / LOG_NAME, self._head())
        self._log.begin_syncing()
        self._acting = ResidualActing(
            self._residual,
            self._view,
            self.config.log_path / KEPT_NAME,
            explore=self.config.explore,
            control_every=self.config.control_every,
            seed=self.config.seed,
        )
        last = self._log.last()
        self._interrupted_ns = -1 if last is None else int(last["stamp_ns"])
        self._number = -1 if last is None else int(last["episode"])
        self._episode: Episode | None = None
        self._is_acting = self._waits_for_label = False
        self._asked: tuple[BaseAction, float] | None = None
        self._answered: BaseAction | None = None
        self._detour = Detour(self._view.frame)
        self._times_s: deque[float] = deque(maxlen=TIMED)
        self._unanswered = 0
        self._assembly = self._make_assembly()
        self._make_topics()
        self._warn_of_leftovers()
        self.get_logger().info(f"version {self._acting.version}, {len(self._log)} steps in the log: ready")

    def loop(self, executor: Executor, stop: StopRequest) -> int:
        """Answer until asked to stop; return the exit code: 3 where the disk has refused a step."""
        while not stop.requested:
            executor.spin_once(timeout_sec=0.1)
        return EXIT_FAULT if self._log.has_failed else 0

    def destroy_node(self) -> None:
        """Keep what is known of the episode under way."""
        self._assembly.break_off("the node was stopped")
        self._log.close()
        super().destroy_node()

    def _head(self) -> LogHead:
        residual, view = self._residual, self._view
        sizes = {"observation_dim": view.observation_dim, "action_dim": view.action_dim}
        robot, rewards = view.spec.fingerprint, self.config.reward
        return LogHead(residual.task, robot, residual.base_id, **sizes, rewards=rewards)

    def _make_assembly(self) -> StepAssembly:
        return StepAssembly(
            self._view.frame,
            self._view.spec.action.period_ns,
            lambda fields: self._log.append(**fields),
            is_rewarded=self.config.reward == "topic",
            lockstep=self.config.lockstep,
            patience_s=self.config.patience_s,
        )

    def _make_topics(self) -> None:
        self._inputs = ResidualInputs(self, self._view, self.config, self._answer)
        self._corrections = self.create_publisher(JointTrajectory, "residual/correction", reliable_qos())
        self._status = self.create_publisher(String, "~/status", latched_qos())
        self.create_subscription(JointTrajectory, "control/base_action", self._on_base, latched_qos())
        self.create_subscription(JointTrajectory, "control/corrected", self._on_corrected, latched_qos(KEPT))
        self.create_subscription(String, "episode", self._on_episode, latched_qos())
        self.create_subscription(String, "episode_result", self._on_result, latched_qos(10))
        if self.config.reward == "topic":
            qos = latched_qos(KEPT) if self.config.lockstep else reliable_qos(KEPT)
            self.create_subscription(JointState, "reward", self._on_reward, qos)
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(SetBool, "~/label", self._on_label)
        self._labels = self.create_publisher(String, EPISODE_LABEL, reliable_qos())
        self._link = ResidualLink(self, StepSender(self._log), self._acting, self._inputs.refuse)
        self.create_timer(LOOK_S, self._look)
        Heartbeat(self)
        Diagnostics(self, self._diagnose)

    def _warn_of_leftovers(self) -> None:
        if self._log.torn_bytes:
            what = (
                f"from a damaged record on, kept in {self._log.damaged}," if self._log.damaged else "of a torn record"
            )
            self.get_logger().warning(f"{self._log.path}: {self._log.torn_bytes} bytes {what} were cut off")

    def _on_base(self, message: JointTrajectory) -> None:
        begin_s = time.monotonic()
        try:
            base = base_action_from_msg(message, self._view.spec.action.labels)
            if base.policy_id != self._residual.base_id:
                raise InvalidValue(f"of policy '{base.policy_id}', corrected is '{self._residual.base_id}'")
        except InvalidValue as error:
            self._inputs.refuse("control/base_action", error)
            return
        if self._asked is not None:
            self._unanswered += 1
        self._asked = base, begin_s
        self._answer()
        if not self.config.lockstep and self._asked is not None:
            # Later it would be too late.
            self._asked = None
            self._unanswered += 1

    def _answer(self) -> None:
        """Answer the base action that waits, once everything that belongs to it is here."""
        if self._asked is None or not self._may_act(self._asked[0].stamp_ns):
            return
        base, begin_s = self._asked
        stamp_ns = base.stamp_ns
        seen = self._inputs.at(stamp_ns)
        if seen is None:
            return
        self._asked, self._answered = None, base
        observation = self._view.observe(seen.values, seen.measured, seen.commanded)
        self._detour.follow(base.planned_ns)
        # What the actor, and later the critics, take for the base: the plan's action, as far aside as the arm was led.
        normalised = self._view.frame.encode(base.value + self._detour.distance, seen.measured)
        value = self._detour.lead(stamp_ns, base.value, self._acting.motion(observation, normalised))
        correction = Correction(stamp_ns, value, self._acting.source)
        self._corrections.publish(correction_to_msg(correction, self._view.spec.action))
        self._times_s.append(time.monotonic() - begin_s)
        self._assembly.begin_step(Step(stamp_ns, observation, normalised, seen.measured, time.monotonic()))

    def _may_act(self, stamp_ns: int) -> bool:
        """Tell whether base actions are of an episode that has been corrected from its beginning."""
        if self._is_acting and self._is_joined_late(stamp_ns):
            self._is_acting = False
            self.get_logger().warning("the episode had begun before: it is the base's alone to its end")
        return self._is_acting

    def _is_joined_late(self, stamp_ns: int) -> bool:
        episode = self._episode
        if episode is None or self._assembly.has_begun:
            return False
        return stamp_ns != episode.begin_ns if self.config.lockstep else self._interrupted_ns >= episode.begin_ns

    def _begin(self, begin_ns: int) -> None:
        self._number += 1
        self._inputs.begin(begin_ns)
        self._detour.begin()
        self._acting.begin_episode(self._number)
        marks = {"episode": self._number, "version": self._acting.version, "share": self._acting.share}
        self._assembly.begin(**marks, flags=self._acting.flags)
        if self._log.fault:
            # Not before: what was still held of the last episode does not follow on what the log has of it.
            self._log.retry()
        self._is_acting, self._asked, self._waits_for_label = True, None, False

    def _end(self, end_ns: int | None, *, success: bool) -> None:
        self._is_acting = self._waits_for_label = False
        self._assembly.end(end_ns, time.monotonic(), success=success)

    def _on_episode(self, message: String) -> None:
        try:
            episode = Episode.from_msg(message)
        except InvalidValue as error:
            self._inputs.refuse("episode", error)
            return
        if episode != self._episode:
            self._episode = episode
            self._begin(episode.begin_ns)

    def _on_result(self, message: String) -> None:
        try:
            result = result_from_msg(message)
        except InvalidValue as error:
            self._inputs.refuse("episode_result", error)
            return
        if self._episode is not None and result["episode"] == self._episode.episode and self._is_acting:
            if self.config.reward == "label":
                # Until the next one begins; without a label nobody knows how this one ended.
                self._is_acting, self._waits_for_label = False, True
                return
            self._end(result["end_ns"], success=result["success"] and not result["fault"])

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._episode is not None:
            response.message = "episodes are announced on `episode`"
            return response
        self._begin(self.get_clock().now().nanoseconds)
        response.success, response.message = True, json.dumps({"episode": self._number})
        return response

    def _on_label(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.config.reward == "topic" and self._episode is not None:
            response.message = "the simulator tells how its episodes go, unless the parameter reward is 'label'"
        elif not (self._is_acting or self._waits_for_label):
            response.message = "no episode is under way, or waits for its label"
        else:
            self._end(None, success=request.data)
            number = self._number if self._episode is None else self._episode.episode
            response.success, response.message = True, json.dumps({"episode": number, "success": request.data})
            self._labels.publish(String(data=response.message))
        return response

    def _on_corrected(self, message: JointTrajectory) -> None:
        try:
            action = action_from_msg(message, self._view.spec.action.labels)
        except InvalidValue as error:
            self._inputs.refuse("control/corrected", error)
            return
        source, stamp_ns = message.header.frame_id, ns_from_time(message.header.stamp)
        is_human, is_latched = source == HUMAN, source == LATCHED
        if is_human and self._answered is not None and self._answered.stamp_ns == stamp_ns:
            self._detour.went(stamp_ns, action - self._answered.value)
        whose = {"is_corrected": bool(source) and not (is_human or is_latched), "is_human": is_human}
        self._assembly.executed(stamp_ns, action, time.monotonic(), **whose, is_latched=is_latched)

    def _on_reward(self, message: JointState) -> None:
        try:
            value = float(positions_from_joint_state(message, ("reward",))[0])
            self._assembly.reward(ns_from_time(message.header.stamp), value, time.monotonic())
        except InvalidValue as error:
            self._inputs.refuse("reward", error)

    def _look(self) -> None:
        self._assembly.look(time.monotonic())
        self._status.publish(String(data=json.dumps(self.figures())))

    def figures(self) -> dict[str, Any]:
        """Return what `~/status` says."""
        acting, sender = self._acting, self._link.sender
        return {
            "log_id": self._log.head.log_id,
            "records": len(self._log),
            "taken": sender.taken,
            "resent": sender.resent,
            "episode": self._number,
            "is_acting": self._is_acting,
            "version": acting.version,
            "waiting_version": acting.waiting_version,
            "share": acting.share,
            "unanswered": self._unanswered,
            "dropped": dict(self._assembly.dropped),
            "refused": {**self._inputs.refused, **{f"weights {why}": n for why, n in acting.refused.items()}},
            "fault": self._fault,
        }

    @property
    def _fault(self) -> str:
        full = f"steps are not logged: {self._log.fault}" if self._log.fault else ""
        return "; ".join(filter(None, (full, self._acting.fault)))

    def _diagnose(self) -> dict[str, dict[str, str]]:
        figures = self.figures()
        times_ms = np.array(self._times_s) * 1e3
        quantiles = {f"answer_ms_p{q}": f"{np.percentile(times_ms, q):.3f}" for q in (50, 99) if len(times_ms)}
        plain = {name: str(value) for name, value in figures.items() if name != "fault"}
        return {**self._inputs.diagnose(), "residual": {**plain, **quantiles, "error": figures["fault"]}}


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(ResidualNode, ResidualNode.loop, args, shares_memory=False)


if __name__ == "__main__":
    raise SystemExit(main())
