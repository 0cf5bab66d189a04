"""A node is asked until it has answered: also one that comes late, and one whose first answer got lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from armature_ros.introduction import Introduction

pytestmark = pytest.mark.ros


class Pair:
    """A node that asks, and what answers, each with a middleware of its own."""

    def __init__(self) -> None:
        self.contexts = [rclpy.Context(), rclpy.Context()]
        self.executors: list[SingleThreadedExecutor] = []
        for context in self.contexts:
            rclpy.init(context=context)
            self.executors.append(SingleThreadedExecutor(context=context))
        self.client = self.node(0, "client")

    def node(self, side: int, name: str) -> Node:
        made = Node(name, context=self.contexts[side])
        self.executors[side].add_node(made)
        return made

    def ask_for(self, introduction: Introduction, duration_s: float) -> bool:
        until_s = time.monotonic() + duration_s
        while not introduction.ask() and time.monotonic() < until_s:
            for executor in self.executors:
                executor.spin_once(timeout_sec=0.01)
        return introduction.is_done

    def close(self) -> None:
        for executor, context in zip(self.executors, self.contexts, strict=True):
            executor.shutdown()
            rclpy.shutdown(context=context)


@pytest.fixture
def pair(environment: dict[str, str]) -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_nobody_is_known_until_it_has_answered(pair: Pair) -> None:
    introduction = Introduction(pair.client, "server")
    assert not pair.ask_for(introduction, 0.5)
    pair.node(1, "server")
    assert pair.ask_for(introduction, 20.0)


def test_a_lost_answer_is_asked_for_again(pair: Pair) -> None:
    # It is asked, but its executor never runs, and what it was asked is gone with it.
    first = Node("server", context=pair.contexts[1])
    introduction = Introduction(pair.client, "server")
    assert not pair.ask_for(introduction, 3.0)
    first.destroy_node()
    pair.node(1, "server")
    assert pair.ask_for(introduction, 20.0)
