"""What the control node says of itself: state and faults ten times a second, all its figures once a second.

It also looks after what no message tells: a second writer to the arm, and peers that went silent.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from std_msgs.msg import String

from armature.types import Reason
from armature_ros import last_resort
from armature_ros.diagnostics import Diagnostics
from armature_ros.heartbeat import Peer
from armature_ros.qos import find_mismatch, reliable_qos

if TYPE_CHECKING:
    from armature_ros.control_node import ControlNode

PERIOD_S = 0.1
POLICY = "policy_node"


class ControlStatus:
    """Publishes `~/status` (JSON) and /diagnostics."""

    def __init__(self, node: ControlNode) -> None:
        self._node = node
        self._publisher = node.create_publisher(String, "~/status", reliable_qos())
        self._policy = Peer(node, POLICY, self._on_lost)
        self._writers = 1
        node.create_timer(PERIOD_S, self._look_around)
        Diagnostics(node, self._diagnose)

    def publish(self) -> None:
        """Publish the present state."""
        path, measured = self._node.path, self._node.path.measured
        age_s = None if measured is None else (time.monotonic_ns() - measured.received_ns) / 1e9
        status = {
            "state": path.state.value,
            "fault": path.fault.name.lower() if path.fault else "",
            "faults": self._faults(),
            "state_age_s": None if self._node.config.lockstep else age_s,
            "human": path.human,
            "overruns": self._overruns(),
            "counts": self._node.counts(),
        }
        self._publisher.publish(String(data=json.dumps(status)))

    def _look_around(self) -> None:
        if self._node.loop is not None and self._node.is_well():
            last_resort.postpone()
        self._writers = self._node.outputs.count_writers()
        if self._writers > 1:
            self._node.path.latch(Reason.SECOND_WRITER)
        self.publish()

    def _faults(self) -> list[str]:
        found = [self._node.path.fault.value] if self._node.path.fault else []
        if self._policy.lost_ns is not None and not self._policy.is_alive:
            found.append(f"{POLICY} is silent")
        if self._writers > 1:
            found.append(f"{self._writers} nodes publish {self._node.config.command_topic}")
        return found

    def _on_lost(self, name: str) -> None:
        self._node.get_logger().error(f"{name} is silent: no heartbeat")
        self.publish()

    def _overruns(self) -> int:
        return 0 if self._node.loop is None else self._node.loop.overruns

    def _diagnose(self) -> dict[str, dict[str, str]]:
        node = self._node
        subscriptions = {"joint_states": node.joint_state_subscription, "chunk": node.chunk_subscription}
        subscriptions |= {name: side.subscription for name, side in node.sides.items()}
        streams = {
            name: {**monitor.report(), "error": find_mismatch(node, subscriptions[name])}
            for name, monitor in node.monitors.items()
        }
        gate = {
            "state": node.path.state.value,
            "error": "; ".join(self._faults()),
            "overruns": str(self._overruns()),
            **{name: str(count) for name, count in node.counts().items()},
        }
        return {**streams, "gate": gate}
