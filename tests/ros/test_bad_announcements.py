"""Texts about episodes that are none: refused by name, every node goes on as it was, and the arm is left at rest."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from residual_lab import nodes_of, write_residual
from std_msgs.msg import String

from armature.errors import InvalidValue
from armature_ros.announcements import Episode, label_from_msg, result_from_msg
from armature_ros.control_node import ControlNode
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import latched_qos, reliable_qos
from armature_ros.residual_link import TAKEN, ResidualLink
from armature_ros.up import EpisodeFailed, RunningGraph

PATIENCE_S = 60.0
LISTENERS = {
    "episode": ("control_node", "policy_node", "recorder_node", "residual_node"),
    "episode_result": ("recorder_node", "residual_node"),
    "episode_label": ("recorder_node", "sim_node"),
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"text '' is no JSON, expected JSON with episode \(int\), seed \(int\), begin_ns \(int\)"),
        ("x" * 61, rf"text '{'x' * 60}\.\.\.' is no JSON"),
        ("[" * 100_000, r"text '\[{60}\.\.\.' is no JSON"),
        ("7", r"text '7' lacks episode, seed, begin_ns, expected JSON with"),
        ('{"episode": 1, "begin_ns": 2}', r"lacks seed, expected"),
        ('{"episode": 1, "seed": true, "begin_ns": 2}', r"seed of text '.*' is bool, expected int"),
        ('{"episode": 1, "seed": 1, "begin_ns": 2.0}', r"begin_ns of text '.*' is float, expected int"),
        ('{"episode": 1, "seed": -1, "begin_ns": 2}', r"seed of text '.*' is out of range. Valid: 0 to 2\*\*63 - 1"),
        (f'{{"episode": 1, "seed": 1, "begin_ns": {2**63}}}', r"begin_ns of text .* is out of range"),
    ],
)
def test_an_announcement_that_is_none_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        Episode.from_msg(String(data=text))


def test_what_an_announcement_says_besides_does_not_matter() -> None:
    text = '{"episode": 1, "seed": 2, "begin_ns": 3, "by": "someone"}'
    assert Episode.from_msg(String(data=text)) == Episode(1, 2, 3)


def test_a_result_counts_what_was_published_in_integers() -> None:
    start = '{"episode": 1, "seed": 5, "end_ns": 2, "success": true, "fault": "", "steps": 3, "by": 6, "published": '
    result = {"episode": 1, "seed": 5, "end_ns": 2, "success": True, "fault": "", "steps": 3, "by": 6}
    result["published"] = {"a": 4}
    assert result_from_msg(String(data=start + '{"a": 4}}')) == result
    with pytest.raises(InvalidValue, match=r"published\.a of text '.*' is str, expected int"):
        result_from_msg(String(data=start + '{"a": "4"}}'))
    with pytest.raises(InvalidValue, match=r"published of text '.*' is list, expected dict"):
        result_from_msg(String(data=start + "[]}"))


def test_a_label_is_true_or_false() -> None:
    assert label_from_msg(String(data='{"episode": 1, "success": false}')) == {"episode": 1, "success": False}
    with pytest.raises(InvalidValue, match=r"success of text '.*' is str, expected bool"):
        label_from_msg(String(data='{"episode": 1, "success": "no"}'))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"log_id": "x", "count": 1e999, "asks": true}', "count of text '.*' is float, expected int"),
        ("[" * 100_000, "is no JSON"),
        ('{"log_id": "x", "asks": true}', "lacks count"),
    ],
)
def test_what_the_learner_has_taken_is_read_strictly(text: str, words: str) -> None:
    hears: dict[str, Callable[[String], None]] = {}
    acknowledged: list[tuple[object, ...]] = []
    refused: list[tuple[str, Exception]] = []
    node = SimpleNamespace(
        create_publisher=lambda *_: None,
        create_timer=lambda *_: None,
        create_subscription=lambda _kind, topic, hear, _qos: hears.update({topic: hear}),
    )
    sender = SimpleNamespace(acknowledge=lambda log_id, count, _now_s, asks: acknowledged.append((log_id, count, asks)))
    ResidualLink(node, sender, SimpleNamespace(), lambda *said: refused.append(said))
    hears[TAKEN](String(data=text))
    hears[TAKEN](String(data='{"log_id": "x", "count": 3, "asks": true}'))
    assert acknowledged == [("x", 3, True)]
    ((topic, error),) = refused
    assert topic == TAKEN
    assert re.search(words, str(error))


@contextmanager
def stranger() -> Iterator[Node]:
    """A node that is gone afterwards, with all that it has latched."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("stranger", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def wait(is_done: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_done():
        assert time.monotonic() < deadline_s, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.ros
def test_every_node_refuses_them_and_the_next_episode_is_driven_and_recorded(
    environment: dict[str, str], tmp_path: Path
) -> None:
    dataset = str(tmp_path / "dataset")
    nodes = nodes_of(write_residual(tmp_path / "residual"), horizon_steps=5, dataset=dataset)
    said: list[tuple[str, str]] = []

    def is_refused(topic: str, publisher: Publisher) -> bool:
        # Again and again: a node does not say of everything that it refuses, not to fill the log.
        publisher.publish(String(data="success!"))
        refusing = {name for name, line in said if f"{topic}: text 'success!' is no JSON" in line}
        return refusing == set(LISTENERS[topic])

    with RunningGraph(nodes, environment, log=lambda *line: said.append(line)) as graph:
        with stranger() as node:
            for topic in LISTENERS:
                qos = reliable_qos() if topic == "episode_label" else latched_qos()
                wait(partial(is_refused, topic, node.create_publisher(String, topic, qos)), f"refusals of {topic}")
        graph.check()
        with EpisodeDriver(records=True, check=graph.check) as driver:
            outcome = driver.run_episode()
    assert (outcome.result["steps"], outcome.recorded["counts"]["action/executed"]["received"]) == (5, 5)


@pytest.mark.ros
def test_who_drives_episodes_refuses_them_too_and_waits_for_a_result_for_as_long_as_it_takes(
    environment: dict[str, str],
) -> None:
    whole = {"seed": 5, "steps": 3, "end_ns": 2, "success": True, "fault": "", "published": {}, "by": "someone"}
    texts = ["success!", json.dumps({"episode": 1}), json.dumps(whole), json.dumps({"episode": 1, **whole})]
    timeout_s = 0.2
    with stranger() as node:
        results = node.create_publisher(String, "episode_result", latched_qos(10))
        begin_s = time.monotonic()

        def check() -> None:
            if texts and results.get_subscription_count() and time.monotonic() > begin_s + 3 * timeout_s:
                results.publish(String(data=texts.pop(0)))

        with EpisodeDriver(records=False, check=check, timeout_s=timeout_s) as driver:
            assert driver._await_result(Episode(1, 5, 0)) == {"episode": 1, **whole}
            with pytest.raises(EpisodeFailed, match=r"an answer of every node: nothing for 0\.2 s"):
                driver.start_episode()


class Failing:
    """An executor, one of whose callbacks fails."""

    def spin_once(self, timeout_sec: float) -> None:
        raise RuntimeError("a callback failed")


@pytest.mark.ros
def test_whatever_ends_the_control_node_it_brings_the_arm_to_rest(environment: dict[str, str]) -> None:
    (control,) = (node for node in make_graph("robot", GraphConfig(cameras=False)) if node.name == "control_node")
    rclpy.init(args=["--ros-args", *control.ros_arguments()])
    node = ControlNode()
    try:
        assert node.loop is not None
        with pytest.raises(RuntimeError, match="a callback failed"):
            node.spin(Failing(), SimpleNamespace(requested=False))
        assert (node.loop, node.path.is_at_rest) == (None, True)
    finally:
        node.destroy_node()
        rclpy.shutdown()
