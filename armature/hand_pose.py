"""The pose of two human hands as one vector of 48 numbers: the action of H-RDT's pretraining (arXiv 2507.23523).

Per hand, left before right: wrist position (3), wrist rotation as the first two columns of its matrix one after the
other (6; Zhou et al. 2019, "On the continuity of rotation representations"), positions of five fingertips (15). All
positions are absolute, in one frame. Beware: others take the first two rows of the matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue
from armature.spec import HAND_POSE, ActionSpec, ArraySpec

HANDS = ("left", "right")
FINGERS = ("thumb", "index", "middle", "ring", "little")
HAND_DIM = 24
POSE_DIM = len(HANDS) * HAND_DIM
SMALLEST_COLUMN = 1e-6
"""A column shorter than this, or nearer than this to parallel with the first, does not tell a direction."""
RIGID_TOLERANCE = 1e-3
"""How far the last row of a wrist pose may be from (0, 0, 0, 1)."""


class HandPoses(NamedTuple):
    """Wrists (..., 2, 4, 4) and fingertips (..., 2, 5, 3) [m] of the left and the right hand, in one frame."""

    wrists: NDArray[np.float64]
    fingertips: NDArray[np.float64]


def encode(wrists: NDArray[Any], fingertips: NDArray[Any]) -> NDArray[np.float64]:
    """Lay out wrist poses (..., 2, 4, 4) and fingertips (..., 2, 5, 3) [m] as a vector (..., 48).

    Rotations are made orthonormal. Raises InvalidValue on other shapes, values that are not finite, and wrists that
    are not rigid poses: columns that do not tell a rotation, a mirrored rotation, a last row other than (0, 0, 0, 1).
    """
    wrists = _checked("wrists", wrists, (len(HANDS), 4, 4))
    fingertips = _checked("fingertips", fingertips, (len(HANDS), len(FINGERS), 3))
    if wrists.shape[:-3] != fingertips.shape[:-3]:
        raise InvalidValue(f"wrists {wrists.shape} and fingertips {fingertips.shape}: their leading axes differ")
    if not np.allclose(wrists[..., 3, :], (0.0, 0.0, 0.0, 1.0), rtol=0, atol=RIGID_TOLERANCE):
        raise InvalidValue("wrists: the last row of a pose is (0, 0, 0, 1); is the matrix transposed?")
    rotation = _orthonormal(wrists[..., :3, 0], wrists[..., :3, 1])
    if (np.sum(rotation[..., 2] * wrists[..., :3, 2], axis=-1) <= 0).any():
        raise InvalidValue("wrists: a mirrored rotation (determinant -1) cannot be told by two of its columns")
    columns = np.swapaxes(rotation[..., :2], -1, -2)  # (..., hand, column, xyz)
    parts = (wrists[..., :3, 3], _joined(columns, 2), _joined(fingertips, 2))
    return _joined(np.concatenate(parts, axis=-1), 2)


def decode(pose: NDArray[Any]) -> HandPoses:
    """Turn a vector (..., 48) into wrist poses and fingertips; inverse of `encode`.

    The six numbers of a rotation are made orthonormal (Gram-Schmidt), as those that a network predicts have to be.
    Raises InvalidValue on another shape, values that are not finite, and columns that do not tell a rotation.
    """
    hands = _checked("hand pose", pose, (POSE_DIM,)).reshape(*pose.shape[:-1], len(HANDS), HAND_DIM)
    wrists = np.zeros((*hands.shape[:-1], 4, 4))
    wrists[..., :3, :3] = _orthonormal(hands[..., 3:6], hands[..., 6:9])
    wrists[..., :3, 3] = hands[..., :3]
    wrists[..., 3, 3] = 1.0
    return HandPoses(wrists, hands[..., 9:].reshape(*hands.shape[:-1], len(FINGERS), 3))


def hand_pose_array(frame: str) -> ArraySpec:
    """Describe the vector (48,) of hands whose poses are given in `frame`; rotations have no unit."""
    return ArraySpec(HAND_POSE, (POSE_DIM,), "float32", "m", frame, labels=_labels())


def hand_pose_action(frame: str, rate_hz: float) -> ActionSpec:
    """Describe the action of moving both hands to absolute poses in `frame`."""
    return ActionSpec("hand_pose", (hand_pose_array(frame),), rate_hz)


def _labels() -> tuple[str, ...]:
    points = ("wrist", "wrist_x_axis", "wrist_y_axis", *FINGERS)
    return tuple(f"{hand}_{point}_{axis}" for hand in HANDS for point in points for axis in "xyz")


def _orthonormal(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation (..., 3, 3) with the direction of `first` (..., 3) and, beside it, that of `second`."""
    x = _direction(first)
    # The second is made a direction before the part along the first is taken off: what is small is then told by angle.
    second = _direction(second)
    y = _direction(second - np.sum(x * second, axis=-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def _direction(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    if (length < SMALLEST_COLUMN).any():
        found = f"shortest column {length.min():.2g}, must be at least {SMALLEST_COLUMN:g}"
        raise InvalidValue(f"wrist rotation: columns are zero or parallel ({found})")
    return vector / length


def _joined(array: NDArray[np.float64], axes: int) -> NDArray[np.float64]:
    return array.reshape(*array.shape[:-axes], -1)


def _checked(name: str, value: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    if value.shape[-len(shape) :] != shape:
        raise InvalidValue(f"{name}: shape {value.shape}, expected (..., {', '.join(map(str, shape))})")
    if not np.isfinite(value).all():
        raise InvalidValue(f"{name}: not finite at {np.argwhere(~np.isfinite(value))[:5].tolist()}")
    return value.astype(np.float64)
