"""A node makes itself known to another one before it calls its services.

A server drops the answer to a client that it has not discovered yet, and the client waits for ever (rmw_fastrtps
issue 842). What a node announces is taken in order: who was answered through its youngest client is known by the
older ones too.
"""

from __future__ import annotations

import time

from rcl_interfaces.srv import GetParameterTypes
from rclpy.node import Node

AGAIN_S = 1.0


class Introduction:
    """Asks a node for nothing, again and again, until it has answered."""

    is_done = False

    def __init__(self, node: Node, server: str) -> None:
        """Come after all clients of `server`, a node's name, that are to be known."""
        self._client = node.create_client(GetParameterTypes, f"{server}/get_parameter_types")
        self._asked_s = -AGAIN_S

    def ask(self) -> bool:
        """Ask if it is time to; tell whether an answer has come. Callbacks have to run between two calls."""
        now_s = time.monotonic()
        if not self.is_done and now_s >= self._asked_s + AGAIN_S and self._client.service_is_ready():
            self._asked_s = now_s
            self._client.call_async(GetParameterTypes.Request()).add_done_callback(self._on_answer)
        return self.is_done

    def _on_answer(self, _answer: object) -> None:
        self.is_done = True
