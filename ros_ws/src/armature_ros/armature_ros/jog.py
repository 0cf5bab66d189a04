"""Keys to motion targets: the pure part of keyboard teleoperation, without a terminal and without ROS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.spec import GRIPPER_OPENING, TCP_DELTA, ActionSpec

UP, DOWN, LEFT, RIGHT = "up", "down", "left", "right"
ALIASES = {"w": UP, "s": DOWN, "a": LEFT, "d": RIGHT}
TCP_KEYS = {
    UP: (0, +1), DOWN: (0, -1), LEFT: (1, +1), RIGHT: (1, -1), "r": (2, +1), "f": (2, -1),
    "i": (3, +1), "k": (3, -1), "j": (4, +1), "l": (4, -1), "u": (5, +1), "o": (5, -1),
}  # fmt: skip
PLANAR_KEYS = {RIGHT: (0, +1), LEFT: (0, -1), DOWN: (1, +1), UP: (1, -1)}
HELP = {
    "joint_position": "left/right or 1-9: choose a joint; up/down: move it; g: gripper",
    "tcp_delta": "arrows: x, y; r/f: z; i/k, j/l, u/o: turn about x, y, z; g: gripper",
    "planar_position": "arrows: move",
}


@dataclass(frozen=True)
class JogConfig:
    """How fast a held key moves the arm.

    Terminals do not say when a key is let go: `release_s` after its last repeat it counts as such. A target runs ahead
    of what the arm is told by no more than `lead_max_*`: an arm that is held back does not jump when it comes free.
    """

    joint_speed_rad_s: float = 0.4
    linear_speed_m_s: float = 0.08
    angular_speed_rad_s: float = 0.4
    planar_speed_px_s: float = 120.0
    release_s: float = 0.15
    lead_max_rad: float = 0.05
    lead_max_px: float = 20.0


class Jog:
    """Holds the target and moves it while a key is down; without a key it holds still.

    Example: joint 2 chosen, "up" at t = 0, release after 0.15 s, 0.4 rad/s, steps of 0.05 s: three steps of 0.02 rad.
    """

    def __init__(self, spec: ActionSpec, config: JogConfig) -> None:
        self._spec = spec
        self._config = config
        self._target: NDArray[np.float64] | None = None
        self._motion: tuple[int, int] | None = None
        self._until_s = 0.0
        self._is_stopping = False
        self._commanded: NDArray[np.float64] | None = None
        self.chosen = 0
        self._gripper = _gripper_index(spec)
        self._axes = {"tcp_delta": TCP_KEYS, "planar_position": PLANAR_KEYS}.get(spec.kind)

    @property
    def chosen_label(self) -> str:
        """Name the joint that up and down move."""
        return self._spec.labels[self.chosen]

    def reset(self) -> None:
        """Forget the target; the next one begins at the measured state."""
        self._target = self._motion = None

    def begin(self, start: NDArray[np.float64]) -> None:
        """Let the target be `start` (D,), such as what the arm was last commanded to do."""
        self._target = np.clip(start, self._spec.low, self._spec.high)

    def release(self) -> None:
        """Let go of the key: the arm stops where it is told to be, and what was asked for and not done is forgotten."""
        self._motion = None
        self._stop_later()

    def press(self, key: str, now_s: float) -> bool:
        """Take one key; return False when it means nothing here."""
        key = ALIASES.get(key, key)
        if key == "g" and self._gripper is not None:
            self._toggle_gripper(self._gripper)
            return True
        motion = self._motion_of(key)
        if motion is not None:
            self._motion, self._until_s = motion, now_s + self._config.release_s
            return True
        return self._axes is None and self._choose(key)

    def is_moving(self, now_s: float) -> bool:
        """Tell whether a key that moves the arm is down."""
        return self._motion is not None and now_s < self._until_s

    def action(
        self,
        now_s: float,
        period_s: float,
        measured: NDArray[np.float64],
        commanded: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Return the action (D,) that is due now, `period_s` after the one before.

        `measured` (D,) is the state in the layout of the action, `commanded` (D,) what the arm was last told, where
        somebody says so.
        """
        at = measured if commanded is None else commanded
        if self._target is None:
            self.begin(at)
        if self._spec.kind == "tcp_delta":
            self._target[self._spec.slice_of(TCP_DELTA)] = 0.0
        if self._motion is not None and self.is_moving(now_s):
            index, sign = self._motion
            self._move(self._target, index, sign * self._speed(index), period_s, at)
            self._stop_later()
        elif self._is_stopping and commanded is not None:
            self._stop(self._target, commanded)
        return self._target.copy()

    def _stop_later(self) -> None:
        self._is_stopping, self._commanded = True, None

    def _stop(self, target: NDArray[np.float64], commanded: NDArray[np.float64]) -> None:
        """Ask for what the arm is told anyway, until that stays the same; the gripper holds what it holds."""
        arm = np.arange(len(target)) != self._gripper
        target[arm] = commanded[arm]
        self._is_stopping = self._commanded is None or not np.array_equal(commanded[arm], self._commanded[arm])
        self._commanded = commanded

    def _move(
        self,
        target: NDArray[np.float64],
        index: int,
        speed: float,
        period_s: float,
        at: NDArray[np.float64],
    ) -> None:
        """Change one element of the target; the others stay where they are even if something pushes the arm."""
        if self._spec.kind == "tcp_delta":
            # A displacement holds for one step of the robot, however often it is published.
            target[index] = speed * self._spec.period_ns / 1e9
            return
        lead = self._config.lead_max_px if self._spec.kind == "planar_position" else self._config.lead_max_rad
        near = np.clip(target[index] + speed * period_s, at[index] - lead, at[index] + lead)
        target[index] = np.clip(near, self._spec.low[index], self._spec.high[index])

    def _speed(self, index: int) -> float:
        config = self._config
        if self._spec.kind == "planar_position":
            return config.planar_speed_px_s
        if self._spec.kind == "tcp_delta":
            return config.linear_speed_m_s if index < 3 else config.angular_speed_rad_s
        return config.joint_speed_rad_s

    def _motion_of(self, key: str) -> tuple[int, int] | None:
        if self._axes is not None:
            return self._axes.get(key)
        return {UP: (self.chosen, +1), DOWN: (self.chosen, -1)}.get(key)

    def _choose(self, key: str) -> bool:
        """Choose a joint by its number or the next one to either side."""
        joints = self._spec.dim - (self._gripper is not None)
        if key.isdecimal() and 1 <= int(key) <= joints:
            self.chosen = int(key) - 1
        elif key in (LEFT, RIGHT):
            self.chosen = (self.chosen + (1 if key == RIGHT else -1)) % joints
        else:
            return False
        self._motion = None
        return True

    def _toggle_gripper(self, index: int) -> None:
        if self._target is not None:
            low, high = self._spec.low[index], self._spec.high[index]
            self._target[index] = low if self._target[index] > (low + high) / 2 else high


def _gripper_index(spec: ActionSpec) -> int | None:
    names = [array.name for array in spec.arrays]
    return spec.slice_of(GRIPPER_OPENING).start if GRIPPER_OPENING in names else None
