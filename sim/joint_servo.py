"""One control period of robosuite's joint position controller, law for law, without its layers of objects.

robosuite spends four fifths of a step in Python, in 25 substeps of physics each. Here a substep is three calls of
MuJoCo and ten array operations without a copy; the numbers are the same to 1e-6 in each of a thousand steps
(`tests/sim/test_joint_servo.py`), the speeds are compared in `benchmarks/learner_speed.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError
from sim.backend import mujoco


class JointServo:
    """Moves the arm and the gripper of a robosuite world with one robot and a JOINT_POSITION controller.

    Torques are M (kp (goal - q) - kd q') + bias, within the range of the motors, anew in every substep.
    """

    def __init__(self, world: Any) -> None:
        """Take gains and limits from the world; raise ConfigError where its joints do not lie side by side."""
        robot = world.robots[0]
        arm = robot.part_controllers["right"]
        model = world.sim.model._model
        self._world, self._model, self._data = world, model, world.sim.data._data
        self._gripper, self._fingers = robot.gripper["right"], robot._ref_actuators_indexes_dict["right_gripper"]
        self._substeps = int(world.control_timestep / world.model_timestep)
        positions, velocities = _side_by_side(arm.qpos_index), _side_by_side(arm.qvel_index)
        motors = _side_by_side(robot._ref_actuators_indexes_dict["right"])
        self._kp, self._kd = np.array(arm.kp), np.array(arm.kd)
        self._torque_low, self._torque_high = model.actuator_ctrlrange[motors].T.copy()
        grips = model.actuator_ctrlrange[self._fingers]
        self._grip_middle, self._grip_half = grips.mean(axis=1), np.diff(grips, axis=1)[:, 0] / 2
        # Views: MuJoCo computes in place.
        self._q, self._v = self._data.qpos[positions], self._data.qvel[velocities]
        self._bias, self._torque = self._data.qfrc_bias[velocities], self._data.ctrl[motors]
        self._wanted, self._force = np.zeros(model.nv), np.zeros(model.nv)
        self._wanted_of_arm, self._force_of_arm = self._wanted[velocities], self._force[velocities]
        self._damping = np.zeros_like(self._kd)

    def step(self, goal_rad: NDArray[np.float64], grip: float) -> None:
        """Let one control period pass, the arm on its way to `goal_rad` (n,); `grip` closes (1), opens (-1) or rests.

        What robosuite remembers between steps (the gripper's speed, the number of steps) is kept by it as before.
        """
        wanted, force, torque, damping = self._wanted_of_arm, self._force_of_arm, self._torque, self._damping
        model, data = self._model, self._data
        fingers = self._grip_middle + self._grip_half * self._gripper.format_action(np.array([grip]))
        goal_rad = np.array(goal_rad, dtype=np.float64)
        for substep in range(self._substeps):
            mujoco.mj_step1(model, data)
            if substep == 0:
                data.ctrl[self._fingers] = fingers
            np.subtract(goal_rad, self._q, out=wanted)
            np.multiply(wanted, self._kp, out=wanted)
            np.multiply(self._v, self._kd, out=damping)
            np.subtract(wanted, damping, out=wanted)
            mujoco.mj_mulM(model, data, self._force, self._wanted)
            np.add(force, self._bias, out=torque)
            np.maximum(torque, self._torque_low, out=torque)
            np.minimum(torque, self._torque_high, out=torque)
            mujoco.mj_step2(model, data)
        self._world.timestep += 1
        self._world.cur_time += self._world.control_timestep


def _side_by_side(indices: list[int]) -> slice:
    """Return consecutive indices as a slice."""
    if list(indices) != list(range(indices[0], indices[0] + len(indices))):
        raise ConfigError(f"the joints of the arm lie at {list(indices)}, not side by side")
    return slice(indices[0], indices[0] + len(indices))
