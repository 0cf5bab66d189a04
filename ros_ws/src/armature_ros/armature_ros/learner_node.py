"""Learns a residual in a process of its own: steps come in, versioned weights go out. Its death harms nobody.

Steps are acknowledged once they are on disk; weights are given out after the state that they come from is.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from rclpy.executors import Executor
from rclpy.node import Node
from std_msgs.msg import String, UInt8MultiArray

from armature.errors import ArmatureError, ConfigError, InvalidValue
from armature_ros.diagnostics import Diagnostics
from armature_ros.parameters import load_config
from armature_ros.qos import latched_qos, reliable_qos
from armature_ros.residual_config import LearnerNodeConfig
from armature_ros.residual_link import BLOCKS_AT_ONCE, TAKEN, TRANSITIONS, WEIGHTS, bytes_to_msg
from armature_ros.spin import EXIT_FAULT, StopRequest, run
from policies.actor_weights import ActorWeights
from policies.durable_learner import DurableLearner
from policies.step_link import Block, StepReceiver
from policies.step_log import TOLD_BY_LABEL, TOLD_BY_TOPIC

REPORT_S = 2.0
TOLD_BY = {"simulator": TOLD_BY_TOPIC, "operator": TOLD_BY_LABEL}
SLICE_S = 0.05
"""For so long it learns before it looks at what has come."""


class LearnerNode(Node):
    """Learns between messages, on the executor's thread."""

    def __init__(self) -> None:
        super().__init__("learner_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, LearnerNodeConfig)
        torch.set_num_threads(1)
        scores_failures = self.config.reward == "progress"
        folder = Path(self.config.residual)
        self._learner = DurableLearner.open(
            folder, self.config.seed, scores_failures=scores_failures, device=self.config.device
        )
        self._receivers: dict[str, StepReceiver] = {}
        self._refused: Counter[str] = Counter()
        self._figures: dict[str, float] = {}
        self._given = -1
        self._flush_s = self._give_s = time.monotonic()
        self._told: dict[str, int] = {}
        self._taken = self.create_publisher(String, TAKEN, latched_qos(10))
        self._weights = self.create_publisher(UInt8MultiArray, WEIGHTS, latched_qos())
        self.create_subscription(UInt8MultiArray, TRANSITIONS, self._on_block, reliable_qos(BLOCKS_AT_ONCE))
        Diagnostics(self, self._diagnose)
        self._give_weights()
        updates = self._learner.learner.updates
        self.get_logger().info(f"{self._learner.rows} transitions, {updates} updates: ready")

    def loop(self, executor: Executor, stop: StopRequest) -> int:
        """Learn until asked to stop; return the exit code: 3 where what was learned, or what came, is no number."""
        while not stop.requested:
            try:
                # What comes is learned from as it is.
                executor.spin_once(timeout_sec=0.0 if self._learner.is_due else 0.1)
                self._learn()
                self._keep()
            except InvalidValue as error:
                self.get_logger().error(f"{error}; the weights given out before stay in force")
                return EXIT_FAULT
        self._learner.save()
        return 0

    def _learn(self) -> None:
        end_s = time.monotonic() + SLICE_S
        while self._learner.is_due and time.monotonic() < end_s:
            self._figures |= self._learner.update()

    def _keep(self) -> None:
        """Make safe and acknowledge what came, and give out new weights, each in its time."""
        now_s = time.monotonic()
        if now_s - self._flush_s > self.config.flush_period_s:
            self._flush_s = now_s
            self._acknowledge()
        if now_s - self._give_s > self.config.weights_period_s:
            self._give_s = now_s
            self._give_weights()

    def _acknowledge(self) -> None:
        taken = {log_id: self._learner.taken(log_id) for log_id in self._receivers}
        if taken == self._told:
            return
        self._learner.flush()
        for log_id, count in taken.items():
            if self._told.get(log_id) != count:
                self._tell_taken(log_id, asks=False)
        self._told = taken

    def _tell_taken(self, log_id: str, *, asks: bool) -> None:
        told = {"log_id": log_id, "count": self._learner.taken(log_id), "asks": asks}
        self._taken.publish(String(data=json.dumps(told)))

    def _give_weights(self) -> None:
        weights = self._learner.weights()
        if weights.version == self._given:
            return
        # What is not finite is refused here, not on the robot alone.
        content = weights.to_bytes()
        try:
            ActorWeights.from_bytes(content)
        except ArmatureError as error:
            raise InvalidValue(f"{error}: the residual has diverged") from error
        self._learner.save()
        self._weights.publish(bytes_to_msg(content))
        self._given = weights.version

    def _on_block(self, message: UInt8MultiArray) -> None:
        try:
            block = Block.from_bytes(bytes(message.data))
        except InvalidValue as error:
            self._refuse("damaged", error)
            return
        log_id = block.head.log_id
        receiver = self._receivers.get(log_id)
        if receiver is None:
            # Progress goes with either: what counts as success is in the steps.
            rewards = TOLD_BY.get(self.config.reward, block.head.rewards)
            receiver = StepReceiver(replace(self._learner.head, rewards=rewards), self._learner.taken(log_id))
        try:
            records = receiver.take(block)
        except ConfigError as error:
            self._refuse("of something else", error)
            return
        except InvalidValue as error:
            # Its sender knows of what an earlier process took: it is asked to begin anew.
            self._refuse("not in order", error)
            self._tell_taken(log_id, asks=True)
            return
        self._receivers[log_id] = receiver
        self._learner.take(log_id, records)

    def _refuse(self, why: str, error: ArmatureError) -> None:
        self._refused[why] += 1
        self.get_logger().error(f"{TRANSITIONS}: {error}; refused", throttle_duration_sec=REPORT_S)

    def _diagnose(self) -> dict[str, dict[str, str]]:
        learner = self._learner.learner
        figures = {name: f"{value:.6g}" for name, value in self._figures.items()}
        refused = {f"refused: {why}": str(count) for why, count in self._refused.items()}
        rows = {"transitions": str(self._learner.rows), "of a person": str(self._learner.human_rows)}
        counts = {**rows, "updates": str(learner.updates)}
        return {"learner": {**counts, "share": f"{learner.share:.3f}", "given": str(self._given), **figures, **refused}}


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(LearnerNode, LearnerNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
