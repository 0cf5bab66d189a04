"""The model of the arm alone agrees with the simulated one, and with whatever file a robot is described in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armature.control.kinematics import Kinematics
from armature.errors import ConfigError, InvalidValue
from sim.arms import ARMS
from sim.environment import make_env
from sim.kinematics import ArmKinematics, ModelKinematics, rotation_matrix, rotation_of, rotation_vector
from sim.tasks import SimConfig

# A column turned by 90 degrees about z, a joint about y at its top, a fixed tool; no file of its shapes exists.
URDF = """
<robot name="two">
  <link name="stand"/>
  <link name="column">
    <visual><geometry><mesh filename="package://nowhere/column.stl"/></geometry></visual>
    <inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
  </link>
  <link name="arm"/>
  <link name="tool0"/>
  <joint name="turn" type="continuous">
    <parent link="stand"/><child link="column"/><origin xyz="0 0 0.5" rpy="0 0 1.5707963267948966"/><axis xyz="0 0 1"/>
  </joint>
  <joint name="lift" type="revolute">
    <parent link="column"/><child link="arm"/><origin xyz="0 0 0.2"/><axis xyz="0 1 0"/>
    <limit lower="-2" upper="2" velocity="1" effort="1"/>
  </joint>
  <joint name="flange" type="fixed"><parent link="arm"/><child link="tool0"/><origin xyz="0.3 0 0"/></joint>
</robot>
"""
# The same arm from the table that it stands on, with a gripper, its motors and a camera.
MJCF = """
<mujoco>
  <compiler angle="radian"/>
  <asset><mesh name="shape" file="nowhere.stl"/></asset>
  <worldbody>
    <body name="stand" pos="1 2 0" quat="0.7071067811865476 0 0 0.7071067811865476">
      <body name="column" pos="0 0 0.5">
        <joint name="turn" axis="0 0 1"/><geom type="mesh" mesh="shape"/><camera name="eye"/>
        <body name="arm" pos="0 0 0.2">
          <joint name="lift" axis="0 1 0" range="-2 2" limited="true"/>
          <site name="tip" pos="0.3 0 0"/>
          <body name="jaw" pos="0.25 0 0"><joint name="grip" type="slide" axis="0 1 0"/><geom size="0.01"/></body>
        </body>
      </body>
    </body>
    <body name="cup"><freejoint/><geom size="0.02"/></body>
  </worldbody>
  <actuator><motor joint="grip"/></actuator>
  <sensor><jointpos joint="grip"/></sensor>
</mujoco>
"""


@pytest.fixture(scope="module", params=ARMS)
def robot(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def kinematics(robot: str) -> ArmKinematics:
    return ArmKinematics(ARMS[robot])


@pytest.fixture
def urdf(tmp_path: Path) -> Path:
    path = tmp_path / "two.urdf"
    path.write_text(URDF)
    return path


@pytest.fixture
def mjcf(tmp_path: Path) -> Path:
    path = tmp_path / "two.xml"
    path.write_text(MJCF)
    return path


def test_forward_kinematics_is_the_simulators(kinematics: ArmKinematics, robot: str) -> None:
    env = make_env(SimConfig(cameras=False, robot=robot))
    for seed in range(3):
        observation = env.reset(seed=seed)[0]
        position, rotation = kinematics.forward(observation["joint/position"].astype(np.float64))
        np.testing.assert_allclose(position, observation["tcp/pose"][:3], atol=1e-5)
        np.testing.assert_allclose(rotation, rotation_matrix(observation["tcp/pose"][3:]), atol=1e-5)
    env.close()


def test_joint_step_gives_the_asked_motion(kinematics: ArmKinematics, robot: str) -> None:
    home = np.array(ARMS[robot].home_rad)
    twist = np.array([0.002, -0.003, 0.001, 0.004, 0.0, -0.005])
    step = kinematics.joint_step(home, twist)
    (before, turned_from), (after, turned_to) = kinematics.forward(home), kinematics.forward(home + step)
    np.testing.assert_allclose(after - before, twist[:3], atol=2e-4)
    np.testing.assert_allclose(rotation_vector(turned_to @ turned_from.T), twist[3:], atol=4e-4)


def test_joint_step_stays_within_the_joint_ranges(kinematics: ArmKinematics, robot: str) -> None:
    joints = np.array(ARMS[robot].home_rad)
    for _ in range(200):
        joints = joints + kinematics.joint_step(joints, np.array([0.0, 0.0, 0.0, 0.0, 0.0, -0.1]))
    assert joints[-1] <= {"panda": 2.8973, "ur5e": 6.28319}[robot] - 0.1 + 1e-9


@settings(max_examples=50)
@given(share=st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7))
def test_the_jacobian_is_what_a_small_motion_of_each_joint_does(kinematics, robot, share) -> None:
    low, high = np.array(ARMS[robot].low_rad), np.array(ARMS[robot].high_rad)
    joints = low + np.array(share[: len(low)]) * (high - low)
    arm: Kinematics = kinematics
    jacobian = arm.jacobian(joints)
    for i, nudge in enumerate(1e-6 * np.eye(len(low))):
        np.testing.assert_allclose(
            (arm.tcp(joints + nudge) - arm.tcp(joints - nudge)) / 2e-6, jacobian[:3, i], atol=1e-8
        )
        (_, before), (_, after) = kinematics.forward(joints - nudge), kinematics.forward(joints + nudge)
        np.testing.assert_allclose(rotation_vector(after @ before.T) / 2e-6, jacobian[3:, i], atol=1e-7)


def test_what_was_returned_stays_as_it_was(kinematics: ArmKinematics, robot: str) -> None:
    home = np.array(ARMS[robot].home_rad)
    answers = (kinematics.tcp(home), kinematics.jacobian(home), *kinematics.forward(home))
    copies = [answer.copy() for answer in answers]
    kinematics.jacobian(home + 0.1)
    for answer, copy in zip(answers, copies, strict=True):
        np.testing.assert_array_equal(answer, copy)


def test_a_urdf_is_read_without_the_meshes_that_it_names(urdf: Path) -> None:
    arm = ModelKinematics.from_file(urdf, ("turn", "lift"), "tool0")
    np.testing.assert_allclose(arm.tcp(np.zeros(2)), [0.0, 0.3, 0.7], atol=1e-12)
    np.testing.assert_allclose(arm.tcp(np.array([-np.pi / 2, -np.pi / 2])), [0.0, 0.0, 1.0], atol=1e-12)
    expected = [[-0.3, 0.0], [0.0, 0.0], [0.0, -0.3], [0.0, -1.0], [0.0, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(arm.jacobian(np.zeros(2)), expected, atol=1e-12)


def test_an_mjcf_is_read_the_same_from_the_frame_of_its_base_whatever_else_is_in_it(mjcf: Path) -> None:
    arm = ModelKinematics.from_file(mjcf, ("turn", "lift"), "tip", base="stand")
    np.testing.assert_allclose(arm.tcp(np.zeros(2)), [0.3, 0.0, 0.7], atol=1e-12)
    np.testing.assert_allclose(arm.jacobian(np.zeros(2))[:, 1], [0.0, 0.0, -0.3, 0.0, 1.0, 0.0], atol=1e-12)
    in_the_world = ModelKinematics.from_file(mjcf, ("turn", "lift"), "tip")
    np.testing.assert_allclose(in_the_world.tcp(np.zeros(2)), [1.0, 2.3, 0.7], atol=1e-12)


def test_joints_are_in_the_order_asked_for_and_may_leave_the_tool_alone(mjcf: Path) -> None:
    arm = ModelKinematics.from_file(mjcf, ("lift", "grip", "turn"), "tip", base="stand")
    np.testing.assert_allclose(arm.tcp(np.array([-np.pi / 2, 0.01, 0.3])), [0.0, 0.0, 1.0], atol=1e-12)
    jacobian = arm.jacobian(np.array([0.0, 0.01, 0.0]))
    np.testing.assert_allclose(jacobian[:3], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.3], [-0.3, 0.0, 0.0]], atol=1e-12)


def test_the_tool_may_be_a_body(mjcf: Path) -> None:
    arm = ModelKinematics.from_file(mjcf, ("turn", "lift"), "jaw", base="stand")
    np.testing.assert_allclose(arm.tcp(np.zeros(2)), [0.25, 0.0, 0.7], atol=1e-12)


def test_the_description_that_the_simulator_ships_gives_the_arm_that_it_simulates() -> None:
    import robosuite

    path = Path(robosuite.__file__).parent / "models/assets/robots/panda/robot.xml"
    shipped = ModelKinematics.from_file(path, tuple(f"joint{i}" for i in range(1, 8)), "right_hand", base="base")
    simulated = ArmKinematics(ARMS["panda"])
    joints = np.array(ARMS["panda"].home_rad) + 0.1
    (hand, turn), (tcp, _) = shipped.forward(joints), simulated.forward(joints)
    # The simulated TCP is on the axis of the hand, between the finger tips.
    np.testing.assert_allclose(turn.T @ (tcp - hand), [0.0, 0.0, 0.097], atol=1e-3)
    np.testing.assert_allclose(shipped.jacobian(joints)[3:], simulated.jacobian(joints)[3:], atol=1e-9)


@pytest.mark.parametrize(
    ("joints", "tcp", "base", "message"),
    [
        (("turn", "lfit"), "tip", "stand", "unknown joint of the model 'lfit'. Did you mean 'lift'?"),
        (("turn", "turn"), "tip", "stand", "joint 'turn' is named 2 times"),
        (("turn", "lift"), "tool", "stand", "unknown site or body of the model 'tool'"),
        (("turn", "lift"), "tip", "stnad", "unknown body of the model 'stnad'. Did you mean 'stand'?"),
        (("turn", "lift"), "tip", "column", "base 'column' is moved by the joints turn, lift"),
    ],
)
def test_names_that_a_model_lacks_are_refused_with_those_it_has(mjcf: Path, joints, tcp, base, message) -> None:
    with pytest.raises(ConfigError) as refusal:
        ModelKinematics.from_file(mjcf, joints, tcp, base)
    assert message in str(refusal.value)


def test_a_file_that_is_absent_or_no_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"arm\.urdf: there is no such file"):
        ModelKinematics.from_file(tmp_path / "arm.urdf", ("turn",), "tip")
    (tmp_path / "arm.urdf").write_text("<robot><link")
    with pytest.raises(ConfigError, match=r"arm\.urdf: "):
        ModelKinematics.from_file(tmp_path / "arm.urdf", ("turn",), "tip")


def test_joints_of_another_number_are_refused(urdf: Path) -> None:
    arm = ModelKinematics.from_file(urdf, ("turn", "lift"), "tool0")
    for wrong in (np.zeros(1), np.zeros(3), np.zeros((2, 1))):
        with pytest.raises(InvalidValue, match=r"expected \(2,\)"):
            arm.tcp(wrong)


def test_rotation_vector_inverts_known_turns() -> None:
    quarter = rotation_matrix(np.array([0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)]))
    np.testing.assert_allclose(quarter, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(rotation_vector(quarter), [0.0, 0.0, np.pi / 2], atol=1e-12)


@given(vector=st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3).map(np.array))
def test_rotation_vector_inverts_rotation_of(vector) -> None:
    np.testing.assert_allclose(rotation_vector(rotation_of(vector)), vector, atol=1e-9)


def test_rotation_of_turns_about_its_vector() -> None:
    np.testing.assert_allclose(
        rotation_of(np.array([0.0, 0.0, np.pi / 2])), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12
    )
