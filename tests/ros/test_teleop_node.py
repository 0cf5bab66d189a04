"""Keys to motion by literal numbers; teleop_node as a process of its own behind a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature.spec import ActionSpec
from armature_ros.config_files import config_folder
from armature_ros.conversions import action_from_msg, joint_state_to_msg
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.jog import Jog, JogConfig
from armature_ros.keyboard import decode_keys
from armature_ros.qos import published_stream_qos, reliable_qos
from armature_ros.teleop_episode import BEGIN
from sim.tasks import SimConfig, robot_spec

HOME = np.array([0.0, 0.2, 0.0, -2.0, 0.0, 2.0, 0.8, 0.04])


def action_spec(**config: str) -> ActionSpec:
    return robot_spec(SimConfig(**config)).action


def test_key_moves_the_chosen_joint_until_it_is_let_go() -> None:
    jog = Jog(action_spec(), JogConfig(joint_speed_rad_s=0.4, release_s=0.12, lead_max_rad=0.15))
    assert jog.press("2", 0.0)
    assert jog.press("up", 0.0)
    moved = [jog.action(now_s, 0.05, HOME)[1] for now_s in (0.0, 0.05, 0.10, 0.15, 0.20)]
    assert np.allclose(moved, [0.22, 0.24, 0.26, 0.26, 0.26])
    others = np.delete(jog.action(0.25, 0.05, HOME), 1)
    assert np.array_equal(others, np.delete(HOME, 1))


def test_target_stays_within_bounds_and_close_to_a_blocked_arm() -> None:
    jog = Jog(action_spec(), JogConfig(joint_speed_rad_s=100.0, lead_max_rad=0.15))
    jog.press("s", 0.0)
    assert jog.action(0.0, 0.05, HOME)[0] == pytest.approx(-0.15)
    near_limit = HOME.copy()
    near_limit[0] = -2.89
    jog.reset()
    jog.press("s", 0.0)
    assert jog.action(0.01, 0.05, near_limit)[0] == pytest.approx(-2.8973)


def test_let_go_the_arm_stops_where_it_is_told_to_be_and_the_gripper_holds_on() -> None:
    jog = Jog(action_spec(), JogConfig(joint_speed_rad_s=100.0, release_s=0.1, lead_max_rad=0.05))
    jog.begin(HOME)
    jog.press("g", 0.0)
    jog.press("w", 0.0)
    # Held back, the target runs no further ahead.
    for now_s in (0.0, 0.05):
        assert jog.action(now_s, 0.05, HOME, HOME)[0] == 0.05
    # It brakes over 0.02 rad, with the fingers around something; then something pushes the arm.
    braked, further = HOME.copy(), HOME.copy()
    braked[0], further[0] = 0.02, 0.5
    asked = [jog.action(0.2 + i / 40, 0.025, HOME, told) for i, told in enumerate((HOME, braked, braked, further))]
    assert [each[0] for each in asked] == [0.0, 0.02, 0.02, 0.02]
    assert {each[7] for each in asked} == {0.08}


def test_a_key_that_is_let_go_while_the_arm_takes_no_requests_is_not_made_up_for() -> None:
    jog = Jog(action_spec(), JogConfig())
    jog.begin(HOME)
    jog.press("w", 0.0)
    jog.release()
    assert not jog.is_moving(0.0)
    assert np.array_equal(jog.action(0.0, 0.05, HOME, HOME + 0.001)[:7], HOME[:7] + 0.001)


def test_gripper_toggles_between_open_and_closed() -> None:
    jog = Jog(action_spec(), JogConfig())
    jog.action(0.0, 0.05, HOME)
    seen = []
    for _ in range(3):
        assert jog.press("g", 0.0)
        seen.append(float(jog.action(0.0, 0.05, HOME)[7]))
    assert seen == [0.08, 0.0, 0.08]


def test_tcp_displacement_is_zero_without_a_key() -> None:
    jog = Jog(action_spec(action="tcp_delta"), JogConfig(linear_speed_m_s=0.08, release_s=0.1))
    measured = np.array([0, 0, 0, 0, 0, 0, 0.04])
    jog.press("r", 0.0)
    assert np.allclose(jog.action(0.0, 0.025, measured), [0, 0, 0.004, 0, 0, 0, 0.04])
    assert np.allclose(jog.action(0.2, 0.025, measured), measured)


def test_unknown_key_changes_nothing() -> None:
    jog = Jog(action_spec(task="pusht"), JogConfig())
    assert not jog.press("g", 0.0)
    assert not jog.press("1", 0.0)
    # Of a character that some keyboards have; a digit to Python, yet no number.
    assert not Jog(action_spec(), JogConfig()).press("²", 0.0)
    assert np.array_equal(jog.action(0.0, 0.05, np.array([200.0, 300.0])), [200.0, 300.0])


def test_keys_are_told_apart() -> None:
    assert decode_keys("a\x1b[A\x1bOB3\x7f") == ["a", "up", "down", "3", "\x7f"]
    assert decode_keys("\x1b[1;5C\x1b[3~G") == ["g"]
    assert decode_keys("\x1b") == ["\x1b"]


class Arm:
    """Publishes joint states like an arm and keeps the chunks that it hears."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("arm", context=self._context)
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._labels = action_spec().labels
        self._publisher = self.node.create_publisher(JointState, "joint_states", published_stream_qos(lockstep=False))
        self.chunks: list[np.ndarray] = []
        self.node.create_subscription(
            JointTrajectory, "chunk", lambda m: self.chunks.append(action_from_msg(m, self._labels)), reliable_qos()
        )
        self.engaged: list[float] = []
        self.node.create_subscription(
            JointState, "control/takeover", lambda m: self.engaged.append(m.position[m.name.index("engaged")]), 10
        )
        self.node.create_timer(0.02, self._publish)
        self.is_silent, self.state = False, HOME

    def _publish(self) -> None:
        if not self.is_silent:
            stamp_ns = self.node.get_clock().now().nanoseconds
            self._publisher.publish(joint_state_to_msg(self._labels, self.state, stamp_ns))

    def spin_until(self, is_done: Callable[[], bool], limit_s: float = 20.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while not is_done():
            assert time.monotonic() < deadline_s, "it took too long"
            self._executor.spin_once(timeout_sec=0.05)

    def spin_for(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        self.spin_until(lambda: time.monotonic() >= end_s)

    def close(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def arm(environment: dict[str, str]) -> Iterator[Arm]:
    made = Arm()
    yield made
    made.close()


def teleop_command() -> list[str]:
    nodes = make_graph("collect", GraphConfig(operator="keyboard", dataset="unused"))
    return next(node for node in nodes if node.name == "teleop_node").command()


@pytest.fixture
def terminal(arm: Arm, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start teleop_node with a pseudo-terminal as its keyboard; yield the end to type on."""
    ours, theirs = pty.openpty()
    with (tmp_path / "teleop.log").open("wb") as log:
        process = subprocess.Popen(teleop_command(), stdin=theirs, stdout=log, stderr=log)
    os.close(theirs)
    yield ours, process
    process.terminate()
    assert process.wait(10) == 0
    os.close(ours)


@pytest.mark.ros
def test_node_publishes_while_it_knows_the_arm_and_moves_by_keys(
    arm: Arm, terminal: tuple[int, subprocess.Popen[bytes]]
) -> None:
    keys, _ = terminal
    arm.spin_until(lambda: len(arm.chunks) > 5)
    assert np.allclose(arm.chunks[-1], HOME)
    arm.spin_until(lambda: arm.engaged[-1:] == [1.0])
    for _ in range(5):
        os.write(keys, b"4\x1b[A")
        arm.spin_for(0.05)
    arm.spin_for(0.4)
    moved = arm.chunks[-1] - HOME
    assert 0.01 < moved[3] <= 0.15 + 1e-9
    assert np.allclose(np.delete(moved, 3), 0)
    arm.spin_for(0.2)
    assert np.array_equal(arm.chunks[-1] - HOME, moved)
    os.write(keys, b"g")
    arm.spin_until(lambda: arm.chunks[-1][7] == 0.08)

    arm.is_silent = True
    arm.spin_for(0.8)
    heard = len(arm.chunks)
    arm.spin_for(0.3)
    assert len(arm.chunks) == heard
    assert arm.engaged[-1] == 0.0


class Services:
    """Offers services that begin an episode, and notes which were called."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.called: list[str] = []
        self.refusal = ""
        """Why they refuse; empty: they do not."""

    def offer(self, *names: str) -> None:
        for name in names:
            self._node.create_service(Trigger, name, partial(self._on_call, name))

    def _on_call(self, name: str, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.called.append(name)
        response.success, response.message = not self.refusal, self.refusal
        return response


@pytest.mark.ros
def test_an_episode_begins_once_everyone_is_there_who_belongs_to_it_and_not_without(
    arm: Arm, terminal: tuple[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    keys, _ = terminal
    services, log = Services(arm.node), tmp_path / "teleop.log"
    services.offer("sim_node/reset", "control_node/reset", "control_node/arm", "sim_node/start")
    arm.spin_until(lambda: len(arm.chunks) > 5)
    os.write(keys, b"n")
    arm.spin_until(lambda: "no episode is begun" in log.read_text())
    assert "recorder_node/start: nobody has offered it for 10 s; no episode is begun" in log.read_text()
    assert services.called == ["sim_node/reset", "control_node/reset"]
    services.called.clear()
    os.write(keys, b"n")
    arm.spin_until(lambda: len(services.called) == 2)
    services.offer("recorder_node/start")
    arm.spin_until(lambda: len(services.called) == 5)
    assert services.called == [*BEGIN]


@pytest.mark.ros
def test_why_an_episode_does_not_begin_is_said_while_it_is_tried_again(
    arm: Arm, terminal: tuple[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    keys, _ = terminal
    services, recorder, log = Services(arm.node), Services(arm.node), tmp_path / "teleop.log"
    services.offer(*(name for name in BEGIN if name != "recorder_node/start"))
    recorder.offer("recorder_node/start")
    recorder.refusal = "camera/scene: nobody publishes it"
    arm.spin_until(lambda: len(arm.chunks) > 5)
    os.write(keys, b"n")
    said = "recorder_node/start: camera/scene: nobody publishes it; it is tried again"
    arm.spin_until(lambda: said in log.read_text())
    assert "control_node/arm" not in services.called
    recorder.refusal = ""
    arm.spin_until(lambda: "armed: the keys move the arm" in log.read_text())
    assert log.read_text().count("it is tried again") == 1
    # What is recorded has to be ended before the next episode begins.
    os.write(keys, b"n")
    arm.spin_until(lambda: "an episode is recorded: y, x or Backspace ends it first" in log.read_text())
    assert services.called.count("control_node/reset") == 1


@pytest.mark.ros
def test_an_episode_begins_from_where_the_reset_has_moved_the_arm(
    arm: Arm, terminal: tuple[int, subprocess.Popen[bytes]]
) -> None:
    keys, _ = terminal
    services = Services(arm.node)
    services.offer(*BEGIN[1:])

    def on_reset(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The arm is silent meanwhile, as a simulator is.
        time.sleep(0.3)
        arm.state, response.success = HOME + 0.02, True
        return response

    arm.node.create_service(Trigger, BEGIN[0], on_reset)
    arm.spin_until(lambda: len(arm.chunks) > 5)
    os.write(keys, b"n")
    arm.spin_until(lambda: len(services.called) == 4)
    arm.chunks.clear()
    arm.spin_until(lambda: len(arm.chunks) > 5)
    assert np.allclose(arm.chunks[-1], HOME + 0.02)


@pytest.mark.ros
def test_without_a_terminal_it_says_so_and_ends_with_2(environment: dict[str, str]) -> None:
    done = subprocess.run(
        teleop_command(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,  # else it finds the terminal that the tests were started in
    )
    assert done.returncode == 2
    assert "is read from a terminal, and there is none" in done.stderr


def test_every_key_of_the_configuration_file_is_known() -> None:
    import yaml

    parameters = yaml.safe_load((config_folder() / "teleop_node.yaml").read_text())["/**"]["ros__parameters"]
    assert set(parameters["jog"]) == set(JogConfig.__dataclass_fields__)
