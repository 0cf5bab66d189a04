"""A person takes the arm over in the middle, through the same gate, and gives it back: in real time, on a stand-in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from control_lab import PATIENCE_S, SPEC, START, Lab, judge
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from armature_ros.control_takeover import takeover_from_msg, takeover_to_msg
from armature_ros.conversions import ns_from_time
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import latched_qos, reliable_qos

pytestmark = pytest.mark.ros

THERE = START + np.append(np.full(7, 0.1), 0.0)
HANDOVER_TICKS = 30


class Operator:
    """A person's device, scripted, beside a policy that wants the arm at the start."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.flags: dict[int, float] = {}
        self.requested: list[np.ndarray] = []
        self._publisher = lab.node.create_publisher(JointState, "takeover", reliable_qos())
        lab.node.create_subscription(JointState, "control/takeover", self._on_flag, latched_qos(1000))
        lab.node.create_subscription(JointTrajectory, "control/requested", self._on_requested, latched_qos(1000))

    def message(self, engaged: bool, age_s: float = 0.0) -> JointState:
        stamp_ns = self.lab.node.get_clock().now().nanoseconds - round(age_s * 1e9)
        return takeover_to_msg(THERE, SPEC.labels, stamp_ns, engaged=engaged)

    def send(self, message: JointState) -> None:
        self._publisher.publish(message)

    def play(self, engaged: bool | None, until: Callable[[], bool]) -> None:
        """Say so 50 times a second, None: say nothing, while the policy goes on with its chunks."""
        deadline_s, turn = time.monotonic() + PATIENCE_S, 0
        while not until():
            assert time.monotonic() < deadline_s, self.lab.status
            if turn % 10 == 0:
                self.lab.plan()
            if engaged is not None:
                self.send(self.message(engaged))
            turn += 1
            time.sleep(0.02)

    @property
    def human(self) -> float:
        return self.lab.status.get("human", -1.0)

    def is_at(self, place: np.ndarray) -> bool:
        return np.abs(self.lab.commands[-1][1] - place)[:7].max() < 1e-3

    def _on_flag(self, message: JointState) -> None:
        self.flags[ns_from_time(message.header.stamp)] = message.position[0]

    def _on_requested(self, message: JointTrajectory) -> None:
        self.requested.append(np.array(message.points[0].positions))


@pytest.fixture(scope="module")
def operator(module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    flights = tmp_path_factory.mktemp("flights")
    overrides = ("control_node.takeover=true", f"control_node.flight_folder={flights}")
    graph = make_graph("robot", GraphConfig(cameras=False, mock_arm=True, overrides=overrides))
    lab = Lab(tuple(node for node in graph if node.name in ("control_node", "mock_arm_node")))
    yield Operator(lab)
    lab.close()


@pytest.fixture
def driven(operator: Operator) -> Operator:
    """The arm where the policy wants it, and armed."""
    operator.lab.arm()
    operator.lab.commands.clear()
    operator.play(None, lambda: operator.lab.status["state"] == "armed" and operator.is_at(START))
    operator.lab.commands.clear()
    operator.requested.clear()
    operator.flags.clear()
    operator.play(None, lambda: len(operator.flags) > 5)
    return operator


@pytest.mark.alone
def test_a_person_takes_over_through_the_gate_is_flagged_and_gives_back_without_a_jump(driven: Operator) -> None:
    driven.play(True, lambda: driven.human == 1.0 and driven.is_at(THERE))
    driven.play(False, lambda: driven.human == 0.0 and driven.is_at(START))
    judge(driven.lab.commands)
    assert driven.lab.status["state"] == "armed"
    assert driven.lab.count("takeover: ticks") >= 2 * HANDOVER_TICKS
    # The request fades over the handover: what the two differ by, divided by its ticks, is the most that it moves.
    moved = np.abs(np.diff(np.stack(driven.requested), axis=0))[:, :7]
    assert moved.max() == pytest.approx(0.1 / HANDOVER_TICKS, rel=1e-6)
    flags = [driven.flags[stamp] for stamp in sorted(driven.flags)]
    changes = [now for before, now in pairwise(flags) if now != before]
    assert changes == [1.0, 0.0]


def test_a_device_that_dies_gives_the_arm_back(driven: Operator) -> None:
    driven.play(True, lambda: driven.human == 1.0)
    driven.play(None, lambda: driven.human == 0.0 and driven.is_at(START))
    judge(driven.lab.commands)
    assert driven.lab.status["state"] == "armed"


def test_to_let_go_takes_no_action_and_the_order_of_names_does_not_matter() -> None:
    assert not takeover_from_msg(JointState(name=["engaged"], position=[0.0]), SPEC.labels)[0]
    message = takeover_to_msg(THERE, SPEC.labels, 0, engaged=True)
    message.name, message.position = list(message.name)[::-1], list(message.position)[::-1]
    engaged, action = takeover_from_msg(message, SPEC.labels)
    assert engaged
    assert np.array_equal(action, THERE)


def test_what_a_device_must_not_say_is_refused_and_counted(driven: Operator) -> None:
    spoilt = driven.message(True)
    spoilt.position[2] = np.nan
    stranger = driven.message(True)
    stranger.name[3] = "elbow"
    half = driven.message(True)
    half.position[-1] = 0.5
    short = driven.message(True)
    short.position.pop()
    ages = (lambda: driven.message(True, age_s=0.5)), (lambda: driven.message(True, age_s=-0.5))
    for make in (lambda: spoilt, lambda: stranger, lambda: half, lambda: short, *ages):
        before = driven.lab.count("refused: takeover")
        driven.send(make())
        driven.lab.wait(lambda known=before: driven.lab.count("refused: takeover") == known + 1, "refusal")
        assert driven.human == 0.0
    told = driven.message(False)
    driven.send(told)
    driven.send(told)
    driven.lab.wait(lambda: driven.lab.count("refused: takeover not newer") == 1, "refusal")
