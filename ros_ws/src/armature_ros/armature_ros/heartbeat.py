"""Signs of life between our own nodes. A stuck thread keeps a process and its middleware alive, but not these."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy, QoSProfile
from std_msgs.msg import Empty

from armature_ros.qos import reliable_qos

BEAT_S = 0.05
LEASE_S = 0.2


def _qos() -> QoSProfile:
    qos = reliable_qos(1)
    # AUTOMATIC would be renewed by the middleware's own threads, whatever the node does.
    qos.liveliness = LivelinessPolicy.MANUAL_BY_TOPIC
    qos.liveliness_lease_duration = Duration(seconds=LEASE_S)
    return qos


class Heartbeat:
    """Beats on `~/heartbeat` from the node's own executor, as long as `is_well` says so."""

    def __init__(self, node: Node, is_well: Callable[[], bool] = lambda: True) -> None:
        self._is_well = is_well
        self._publisher = node.create_publisher(Empty, "~/heartbeat", _qos(), event_callbacks=PublisherEventCallbacks())
        node.create_timer(BEAT_S, self._beat)

    def _beat(self) -> None:
        if self._is_well():
            self._publisher.publish(Empty())


class Peer:
    """Listens to the heartbeat of another node."""

    def __init__(self, node: Node, name: str, on_lost: Callable[[str], None]) -> None:
        """`on_lost(name)` is called, on the node's executor, when the lease ends."""
        self.name = name
        self.is_alive = False
        self.lost_ns: int | None = None
        """When it was lost last [ns, steady clock]."""
        self._on_lost = on_lost
        events = SubscriptionEventCallbacks(liveliness=self._on_change)
        self._subscription = node.create_subscription(
            Empty, f"{name}/heartbeat", lambda _: None, _qos(), event_callbacks=events
        )

    def _on_change(self, event: Any) -> None:
        was_alive, self.is_alive = self.is_alive, event.alive_count > 0
        if was_alive and not self.is_alive:
            self.lost_ns = time.monotonic_ns()
            self._on_lost(self.name)
