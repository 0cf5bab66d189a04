"""The arm that stands in for a driver: what it follows, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from control_lab import SPEC, START, Lab
from diagnostic_msgs.msg import DiagnosticArray
from trajectory_msgs.msg import JointTrajectory

from armature.errors import ConfigError
from armature_ros.conversions import action_to_msg
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.mock_arm_node import MockArmNodeConfig
from armature_ros.qos import reliable_qos

pytestmark = pytest.mark.ros

PERIOD_NS = 10_000_000


@pytest.fixture
def lab(environment: dict[str, str]) -> Iterator[Lab]:
    graph = make_graph("robot", GraphConfig(cameras=False, mock_arm=True))
    lab = Lab([node for node in graph if node.name == "mock_arm_node"])
    yield lab
    lab.close()


@pytest.mark.parametrize("changes", [{"rate_hz": 0.0}, {"command_max_age_s": float("inf")}])
def test_a_rate_or_an_age_that_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(changes))} is .*, must be above 0 and finite"):
        MockArmNodeConfig(start=(0.0,), **changes)


def test_a_command_of_long_ago_is_refused_and_one_of_now_or_without_a_stamp_is_followed(lab: Lab) -> None:
    commands = lab.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", reliable_qos())
    # The lab itself listens as well.
    lab.wait(lambda: commands.get_subscription_count() == 2, "the arm")

    def tell(place: float, stamp_ns: int) -> np.ndarray:
        target = START + np.append(np.full(7, place), 0.0)
        commands.publish(action_to_msg(target, SPEC.labels, stamp_ns, PERIOD_NS))
        return target

    refused: list[str] = []

    def on_diagnostics(message: DiagnosticArray) -> None:
        values = [value for status in message.status for value in status.values]
        refused.extend(value.value for value in values if value.key == "refused")

    lab.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    now_ns = lab.node.get_clock().now().nanoseconds
    then = tell(0.1, now_ns)
    lab.wait(lambda: np.allclose(lab.position, then), "where it was told to be")
    tell(0.2, now_ns - 10_000_000_000)
    lab.wait(lambda: "1" in refused, "a refusal")
    assert np.allclose(lab.position, then)
    then = tell(0.3, 0)
    lab.wait(lambda: np.allclose(lab.position, then), "where it was told to be, without a stamp")
