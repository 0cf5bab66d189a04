"""policy_node is told what the arm executes meanwhile, and its chunks go on from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory

from armature.errors import ConfigError
from armature.normalizer import FieldStats, Normalizer
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.types import CommittedActions
from armature_ros.committed_topics import CommittedTopics
from armature_ros.conversions import committed_to_msg, joint_state_to_msg
from armature_ros.graph_config import EXPERT
from armature_ros.policy_loading import PolicyNodeConfig, load_warm_policy
from armature_ros.policy_node import PolicyNode
from armature_ros.qos import reliable_qos
from policies.bc import BcConfig
from policies.checkpoint import save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.diffusion import UnetConfig
from policies.policy_config import PolicyConfig
from sim.tasks import SimConfig, robot_spec

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
PANDA = ROOT / "ros_ws/src/armature_bringup/config/robots/panda.yaml"
SPEC = robot_spec(SimConfig(cameras=False))
SEEN = (JOINT_POSITION, GRIPPER_OPENING)
MIDDLE = (SPEC.action.low + SPEC.action.high) / 2
PERIOD_NS = 50_000_000


class Peer:
    """The other side: speaks as control_node and the arm do, and keeps the chunks."""

    def __init__(self) -> None:
        self.node = Node("peer")
        self.chunks: list[JointTrajectory] = []
        self.committed = self.node.create_publisher(JointTrajectory, "control/committed", reliable_qos())
        self.delay = self.node.create_publisher(Float64, "control/delay", reliable_qos())
        self.state = self.node.create_publisher(JointState, "joint_states", reliable_qos())
        self.node.create_subscription(JointTrajectory, "chunk", self.chunks.append, reliable_qos())
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def spin_until(self, condition: Callable[[], Any], what: str) -> None:
        deadline_s = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < deadline_s, f"waited in vain for {what}"
            self.executor.spin_once(timeout_sec=0.05)


@contextmanager
def running(*parameters: str) -> Iterator[Peer]:
    rclpy.init(args=["--ros-args", "--params-file", str(PANDA), *(x for p in parameters for x in ("-p", p))])
    peer = Peer()
    try:
        yield peer
    finally:
        peer.executor.shutdown()
        peer.node.destroy_node()
        rclpy.shutdown()


@pytest.fixture
def topics(environment: dict[str, str]) -> Iterator[tuple[Peer, CommittedTopics]]:
    with running() as peer:
        made = CommittedTopics(peer.node, SPEC.action)
        publishers = (peer.committed, peer.delay)
        peer.spin_until(lambda: all(p.get_subscription_count() for p in publishers), "the subscriptions")
        yield peer, made


def committed(start_ns: int = 7_000_000_000, value: float = 0.1) -> CommittedActions:
    actions = np.tile(np.full(8, value), (5, 1)) + np.arange(5)[:, None]
    return CommittedActions(start_ns, PERIOD_NS, actions, 120_000_000)


def tell(peer: Peer, told: CommittedActions) -> None:
    peer.committed.publish(committed_to_msg(told, SPEC.action.labels))
    peer.delay.publish(Float64(data=told.delay_ns / 1e9))


def test_what_is_told_is_known_once_actions_and_delay_have_come(topics: tuple[Peer, CommittedTopics]) -> None:
    peer, made = topics
    assert made.newest is None
    peer.committed.publish(committed_to_msg(committed(), SPEC.action.labels))
    peer.spin_until(lambda: made._rest is not None, "the actions")
    assert made.newest is None
    peer.delay.publish(Float64(data=0.12))
    peer.spin_until(lambda: made.newest is not None, "the delay")
    found = made.newest
    assert found is not None
    assert (found.start_ns, found.period_ns, found.delay_ns) == (7_000_000_000, 50_000_000, 120_000_000)
    np.testing.assert_array_equal(found.actions, committed().actions)


def test_a_reset_forgets_the_actions_and_keeps_the_delay(topics: tuple[Peer, CommittedTopics]) -> None:
    peer, made = topics
    tell(peer, committed())
    peer.spin_until(lambda: made.newest is not None, "what is told")
    made.reset()
    assert made.newest is None
    peer.committed.publish(committed_to_msg(committed(8_000_000_000), SPEC.action.labels))
    peer.spin_until(lambda: made.newest is not None, "the next actions")
    assert made.newest is not None
    assert (made.newest.start_ns, made.newest.delay_ns) == (8_000_000_000, 120_000_000)


def test_messages_that_make_no_sense_are_refused(topics: tuple[Peer, CommittedTopics]) -> None:
    peer, made = topics
    tell(peer, committed())
    peer.spin_until(lambda: made.newest is not None, "what is told")
    peer.committed.publish(committed_to_msg(committed(value=float("nan")), SPEC.action.labels))
    peer.committed.publish(committed_to_msg(committed(), [f"other_{label}" for label in SPEC.action.labels]))
    peer.committed.publish(JointTrajectory(joint_names=list(SPEC.action.labels)))
    for delay_s in (float("nan"), float("inf"), -0.001):
        peer.delay.publish(Float64(data=delay_s))
    # What comes after them is taken, and they have changed nothing.
    peer.committed.publish(committed_to_msg(committed(9_000_000_000), SPEC.action.labels))
    peer.spin_until(lambda: made.newest is not None and made.newest.start_ns == 9_000_000_000, "the last actions")
    assert made.newest is not None
    assert made.newest.delay_ns == 120_000_000
    peer.delay.publish(Float64(data=0.0))
    peer.spin_until(lambda: made.newest is not None and made.newest.delay_ns == 0, "the last delay")


def test_chunks_go_on_from_what_control_node_tells(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "policy", SPEC, SEEN)
    parameters = ("guidance:=true", "robot.cameras:=false", "execute_steps:=1", "max_age_s:=60.0")
    with running(f"policy:={checkpoint}", *parameters) as peer:
        node = PolicyNode()
        peer.executor.add_node(node)
        try:
            first_ns = peer.now_ns()
            free = answer(peer, first_ns)
            assert np.abs(free[:3] - MIDDLE).max() > 0.1
            peer.spin_until(lambda: peer.now_ns() >= first_ns + PERIOD_NS, "the next chunk to be due")
            second_ns = peer.now_ns()
            tell(peer, CommittedActions(second_ns, PERIOD_NS, np.tile(MIDDLE, (6, 1)), 130_000_000))
            peer.spin_until(lambda: node._committed is not None and node._committed.newest, "what is told")
            held = answer(peer, second_ns)
            np.testing.assert_allclose(held[:3], np.tile(MIDDLE, (3, 1)), atol=1e-4)
            assert np.abs(held[6:] - MIDDLE).max() > 0.1
        finally:
            peer.executor.remove_node(node)
            node.destroy_node()


def answer(peer: Peer, stamp_ns: int) -> np.ndarray:
    """Show the arm in the middle of its range and return the actions of the chunk that comes."""
    before = len(peer.chunks)
    ready = (peer.state.get_subscription_count, lambda: peer.node.count_publishers("chunk"))
    peer.spin_until(lambda: all(each() for each in ready), "policy_node")
    peer.state.publish(joint_state_to_msg(SPEC.action.labels, MIDDLE, stamp_ns))
    peer.spin_until(lambda: len(peer.chunks) > before, "a chunk")
    return np.array([point.positions for point in peer.chunks[-1].points])


def test_the_guided_path_is_warmed_up_too(
    tmp_path: Path, write_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(tmp_path / "policy", SPEC, SEEN)
    told: list[CommittedActions | None] = []
    infer = ChunkPolicy.infer

    def spied(policy: ChunkPolicy, observation: Any, committed: CommittedActions | None = None) -> Any:
        told.append(committed)
        return infer(policy, observation, committed)

    monkeypatch.setattr(ChunkPolicy, "infer", spied)
    load_warm_policy(PolicyNodeConfig({}, str(checkpoint)), SPEC)
    assert told == [None]
    load_warm_policy(PolicyNodeConfig({}, str(checkpoint), guidance=True), SPEC)
    assert [each is None for each in told] == [True, True, False]


def test_a_policy_that_cannot_be_guided_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="guidance: the scripted expert cannot be guided"):
        load_warm_policy(PolicyNodeConfig({}, EXPERT, guidance=True), SPEC)
    config = PolicyConfig(SEEN, 1, chunk_steps=8)
    bounds = {array.name: np.stack([array.low, array.high]) for array in SPEC.observation.select(SEEN).vectors}
    fields = {name: FieldStats.of(value) for name, value in bounds.items()}
    fields["action"] = FieldStats.of(np.stack([SPEC.action.low, SPEC.action.high]))
    method = BcConfig(UnetConfig(dims=(16, 32), kernel=3, groups=4, step_dim=16))
    policy = ChunkPolicy("bc", config, method, SPEC, Normalizer(fields, dict.fromkeys(fields, "limits")))
    checkpoint = save_checkpoint(tmp_path / "bc", policy, {"dataset_fingerprint": "none", "command": "test"})
    with pytest.raises(ConfigError, match=r"family bc cannot go on .*Valid: diffusion, score, mode, hrdt"):
        load_warm_policy(PolicyNodeConfig({}, str(checkpoint), guidance=True), SPEC)
