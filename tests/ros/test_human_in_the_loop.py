"""A person drives in the middle of a corrected episode and says how it went: what is learned, logged and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from residual_lab import BASE_ID, STATE_ONLY, Watch, nodes_of, view_and_normalizer, write_residual
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool

from armature_ros.control_takeover import takeover_to_msg
from armature_ros.conversions import measured_from_joint_state, ns_from_time
from armature_ros.episodes import EpisodeDriver
from armature_ros.qos import newest_stream_qos, reliable_qos
from armature_ros.residual_node import LOG_NAME
from armature_ros.up import RunningGraph
from data_collection.store import open_dataset
from policies.durable_learner import DurableLearner
from policies.residual_folder import load_residual
from policies.step_log import CUT, ENDED, HELPED, HUMAN, TERMINATED, LogHead, StepLog
from sim.tasks import robot_spec

pytestmark = pytest.mark.ros

NODES = ("sim_node", "policy_node", "control_node", "residual_node", "learner_node", "recorder_node")
OVERRIDES = (
    "control_node.takeover_age_max_s=1.0",  # of simulated time, which runs as fast as it can
    "residual_node.control_every=0",
    "residual_node.reward=label",
    "learner_node.reward=progress",
    "learner_node.flush_period_s=0.2",
)
FROM, UNTIL, LABELLED, HORIZON = 10, 25, 40, 150


class Operator:
    """A scripted person: holds the arm back in some steps of an episode, and says at its end how it went."""

    def __init__(self, driver: EpisodeDriver) -> None:
        self._driver = driver
        self._spec = robot_spec(STATE_ONLY).action
        self.steps = 0
        self.may_drive = True
        self._publisher = driver.node.create_publisher(JointState, "takeover", reliable_qos())
        self._label = driver.node.create_client(SetBool, "residual_node/label")
        driver.node.create_subscription(JointState, "joint_states", self._on_state, newest_stream_qos(lockstep=True))

    def label(self, success: bool) -> SetBool.Response:
        return self._driver._call(self._label, SetBool.Request(data=success))

    def _on_state(self, message: JointState) -> None:
        self.steps += 1
        measured = measured_from_joint_state(message, self._spec)
        engaged = self.may_drive and FROM <= self.steps < UNTIL
        stamp_ns = ns_from_time(message.header.stamp)
        self._publisher.publish(takeover_to_msg(measured, self._spec.labels, stamp_ns, engaged=engaged))


def run(driver: EpisodeDriver, watch: Watch, operator: Operator, *, success: bool, late: bool) -> dict:
    """Run an episode that the operator labels in its middle, or once it is over and recorded as the contrary."""
    operator.steps = 0
    episode = driver.start_episode()
    end = driver._end, SetBool.Request(data=not success)
    if late:
        result = driver._await_result(episode)
        assert driver._call(*end).success
    else:
        watch.wait(lambda: operator.steps > LABELLED, "steps")
    answer = operator.label(success)
    assert (answer.success, json.loads(answer.message)) == (True, {"episode": episode.episode, "success": success})
    if not late:
        result = driver._await_result(episode)
        # Whoever ends the recording may not know of the label.
        assert driver._call(*end).success
    driver._accepted("control_node/disarm")
    return result


@pytest.mark.slow
def test_what_a_person_did_and_said_is_learned_logged_and_recorded(environment: dict[str, str], tmp_path: Path) -> None:
    residual, dataset = write_residual(tmp_path / "residual"), tmp_path / "dataset"
    nodes = nodes_of(residual, *NODES, horizon_steps=HORIZON, dataset=str(dataset), overrides=OVERRIDES)
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=True, check=graph.check) as driver:
        watch, operator = Watch(driver), Operator(driver)
        watch.wait(lambda: watch.status, "residual node")
        assert operator.label(True).message == "no episode is under way, or waits for its label"
        result = run(driver, watch, operator, success=True, late=False)
        assert (result["success"], result["fault"]) == (True, "")
        assert LABELLED <= result["steps"] < HORIZON
        assert watch.control["counts"]["takeover: ticks"] >= UNTIL - FROM
        driven = {stamp for stamp, (_, source) in watch.corrected.items() if source == "human"}
        assert all(np.array_equal(watch.corrected[stamp][0], watch.executed[stamp]) for stamp in driven)
        operator.may_drive = False
        assert run(driver, watch, operator, success=False, late=True)["fault"] == ""
        watch.wait(lambda: 2 * FROM < watch.status["records"] == watch.status["taken"], "acknowledgement")

    records = read_log(residual)
    flags, view = records["flags"], view_and_normalizer()[0]
    human = (flags & HUMAN) > 0
    assert human.sum() >= UNTIL - FROM - 2
    assert set(records["stamp_ns"][human]) <= driven
    assert not human[records["episode"] == 1].any()
    # The person asked for where the arm was: all that is left is what the gate needs to brake.
    alone = records[human][8:12]
    assert np.abs(alone["action"][:, :7]).max() < np.abs(alone["base"][:, :7]).max()
    ends = records[(flags & ENDED) > 0]
    assert [int(f) & (TERMINATED | CUT | ENDED | HELPED) for f in ends["flags"]] == [
        TERMINATED | ENDED | HELPED, CUT | ENDED,
    ]  # fmt: skip
    assert ends["reward"].tolist() == [1.0, 0.0]

    learner = DurableLearner.open(residual, scores_failures=True)
    assert (learner.rows, learner.human_rows) == (len(records), human.sum())
    rows = learner._replay._rows[: learner.rows]
    assert np.array_equal(learner._human._rows[: human.sum()], rows[human])
    # Of the first failure all that is known is that it is none of the successes.
    assert rows[-1, view.observation_dim + 2 * view.action_dim] == pytest.approx(0.3)

    episodes = open_dataset(dataset).episodes
    assert [episode.metadata["outcome"] for episode in episodes] == ["success", "failure"]
    assert [episode.metadata["termination"] for episode in episodes] == ["labelled by the operator", ""]
    stamps, _, engaged = episodes[0].read("control/takeover")
    assert set(stamps[engaged[:, 0] == 1]) >= set(records["stamp_ns"][human])
    assert not episodes[1].read("control/takeover")[2].any()


def read_log(residual: Path) -> np.ndarray:
    view, spec = view_and_normalizer()[0], load_residual(residual).spec
    sizes = view.observation_dim, view.action_dim
    log = StepLog(residual / "log" / LOG_NAME, LogHead("lift", spec.fingerprint, BASE_ID, *sizes, rewards="label"))
    records = log.read(0, len(log)).copy()
    log.close()
    return records
