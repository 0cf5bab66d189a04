"""ROS messages to the kernel's values and back. Pure: no node, no clock, no state."""

from __future__ import annotations

import json
from array import array as buffer
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from armature.errors import InvalidValue
from armature.spec import TCP_DELTA, ActionSpec, ArraySpec
from armature.types import ActionChunk

NS_PER_S = 1_000_000_000


def time_from_ns(stamp_ns: int) -> Time:
    """Return a ROS time of integer nanoseconds."""
    return Time(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def ns_from_time(stamp: Time | Duration) -> int:
    """Return integer nanoseconds of a ROS time or duration."""
    return stamp.sec * NS_PER_S + stamp.nanosec


def header_of(stamp_ns: int, frame_id: str = "") -> Header:
    """Return a header."""
    return Header(stamp=time_from_ns(stamp_ns), frame_id=frame_id)


def image_to_msg(pixels: NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Image:
    """Return an rgb8 Image of pixels (H, W, 3)."""
    height, width, _ = pixels.shape
    message = Image(header=header_of(stamp_ns, frame_id), height=height, width=width, encoding="rgb8", step=width * 3)
    # Assigning an array checks every element (72 ms for a VGA frame); this is one memcpy.
    data = buffer("B")
    data.frombytes(memoryview(np.ascontiguousarray(pixels)).cast("B"))
    message.data = data
    return message


def image_from_msg(message: Image) -> NDArray[np.uint8]:
    """Return pixels (H, W, 3) rgb8 without a copy; raise InvalidValue on another encoding or a short buffer."""
    if message.encoding not in ("rgb8", "bgr8"):
        raise InvalidValue(f"image encoding '{message.encoding}'. Valid: rgb8, bgr8")
    if message.step < 3 * message.width or len(message.data) < message.height * message.step:
        raise InvalidValue(
            f"image of {message.width}x{message.height}, step {message.step}, holds {len(message.data)} bytes"
        )
    rows = np.frombuffer(message.data, np.uint8, message.height * message.step).reshape(message.height, message.step)
    pixels = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return pixels if message.encoding == "rgb8" else np.ascontiguousarray(pixels[..., ::-1])


def joint_state_to_msg(labels: Sequence[str], positions: NDArray[Any], stamp_ns: int) -> JointState:
    """Return a JointState of positions (D,) named by `labels`."""
    return JointState(header=header_of(stamp_ns), name=list(labels), position=positions.astype(np.float64).tolist())


def positions_from_joint_state(message: JointState, labels: Sequence[str]) -> NDArray[np.float64]:
    """Select positions by name, (len(labels),) in their order; raise InvalidValue naming the missing joints."""
    if len(message.name) != len(message.position):
        raise InvalidValue(f"joint state has {len(message.name)} names and {len(message.position)} positions")
    found = dict(zip(message.name, message.position, strict=True))
    missing = [label for label in labels if label not in found]
    if missing:
        raise InvalidValue(f"joint state lacks {', '.join(missing)}; it has {', '.join(message.name)}")
    return np.array([found[label] for label in labels])


def measured_from_joint_state(message: JointState, spec: ActionSpec) -> NDArray[np.float64]:
    """Return the measured state (D,) in the layout of the action; a TCP displacement measures as zero."""
    parts = {
        part.name: np.zeros(part.size) if part.name == TCP_DELTA else positions_from_joint_state(message, part.labels)
        for part in spec.arrays
    }
    return spec.join(parts)


def pose_to_msg(pose: NDArray[Any], stamp_ns: int, frame_id: str) -> PoseStamped:
    """Return a PoseStamped of position [m] and quaternion xyzw, (7,)."""
    message = PoseStamped(header=header_of(stamp_ns, frame_id))
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = pose[:3].tolist()
    orientation.x, orientation.y, orientation.z, orientation.w = pose[3:].tolist()
    return message


def pose_from_msg(message: PoseStamped) -> NDArray[np.float64]:
    """Return position [m] and quaternion xyzw, (7,)."""
    position, orientation = message.pose.position, message.pose.orientation
    return np.array([position.x, position.y, position.z, orientation.x, orientation.y, orientation.z, orientation.w])


def values_from_msg(message: Any, arrays: Sequence[ArraySpec]) -> dict[str, NDArray[Any]]:
    """Return the arrays that a message carries, in their specs' dtypes; raise InvalidValue when one is not in it."""
    if isinstance(message, Image):
        return {array.name: image_from_msg(message) for array in arrays}
    if isinstance(message, PoseStamped):
        return {array.name: pose_from_msg(message).astype(array.dtype) for array in arrays}
    return {array.name: positions_from_joint_state(message, array.labels).astype(array.dtype) for array in arrays}


def values_to_msg(
    message_type: type, arrays: Sequence[ArraySpec], values: Mapping[str, NDArray[Any]], stamp_ns: int
) -> Any:
    """Return the message of `message_type` that carries `arrays`; inverse of `values_from_msg`."""
    first = arrays[0]
    if message_type is Image:
        return image_to_msg(values[first.name], stamp_ns, first.name)
    if message_type is PoseStamped:
        return pose_to_msg(values[first.name], stamp_ns, first.frame)
    labels = [label for array in arrays for label in array.labels]
    return joint_state_to_msg(labels, np.concatenate([values[array.name] for array in arrays]), stamp_ns)


def chunk_to_msg(chunk: ActionChunk, labels: Sequence[str]) -> JointTrajectory:
    """Return a chunk as a trajectory: stamped with the observation that it answers, frame_id is the policy's id."""
    offset_ns = chunk.start_ns - chunk.stamp_ns
    points = [
        JointTrajectoryPoint(positions=action.tolist(), time_from_start=_duration(offset_ns + i * chunk.period_ns))
        for i, action in enumerate(np.asarray(chunk.actions, dtype=np.float64))
    ]
    return JointTrajectory(header=header_of(chunk.stamp_ns, chunk.policy_id), joint_names=list(labels), points=points)


def chunk_from_msg(message: JointTrajectory, spec: ActionSpec) -> ActionChunk:
    """Return the chunk of a trajectory; raise InvalidValue on wrong names, uneven times, values that are not finite."""
    actions = _positions(message, spec.labels)
    if not np.isfinite(actions).all():
        faulty = np.flatnonzero(~np.isfinite(actions).all(axis=1)).tolist()
        raise InvalidValue(f"chunk is not finite at steps {faulty}")
    times_ns = [ns_from_time(point.time_from_start) for point in message.points]
    periods_ns = set(np.diff(times_ns).tolist()) or {spec.period_ns}
    if len(periods_ns) != 1 or min(periods_ns) <= 0:
        raise InvalidValue(f"chunk has uneven steps: {sorted(periods_ns)} ns")
    stamp_ns = ns_from_time(message.header.stamp)
    return ActionChunk(stamp_ns, stamp_ns + times_ns[0], periods_ns.pop(), actions, message.header.frame_id)


def action_to_msg(action: NDArray[Any], labels: Sequence[str], stamp_ns: int, period_ns: int) -> JointTrajectory:
    """Return one command (D,) as a trajectory of one point, to be reached one period after its stamp."""
    point = JointTrajectoryPoint(positions=action.astype(np.float64).tolist(), time_from_start=_duration(period_ns))
    return JointTrajectory(header=header_of(stamp_ns), joint_names=list(labels), points=[point])


def action_from_msg(message: JointTrajectory, labels: Sequence[str]) -> NDArray[np.float64]:
    """Return the first point of a trajectory (D,), by name; NaN is let through: it says that nothing was asked for."""
    return _positions(message, labels)[0]


@dataclass(frozen=True)
class Episode:
    """What the topic `episode` announces: number, seed and the stamp of the first tick."""

    episode: int
    seed: int
    begin_ns: int

    def to_msg(self) -> String:
        """Return the announcement."""
        return String(data=json.dumps(asdict(self)))

    @classmethod
    def from_msg(cls, message: String) -> Episode:
        """Read an announcement."""
        return cls(**json.loads(message.data))


def _positions(message: JointTrajectory, labels: Sequence[str]) -> NDArray[np.float64]:
    if sorted(message.joint_names) != sorted(labels):
        raise InvalidValue(f"trajectory names {list(message.joint_names)}, expected {list(labels)}")
    sizes = {len(point.positions) for point in message.points}
    if sizes != {len(labels)}:
        raise InvalidValue(f"trajectory points have {sorted(sizes)} positions, expected {len(labels)}")
    order = [message.joint_names.index(label) for label in labels]
    return np.array([point.positions for point in message.points], dtype=np.float64)[:, order]


def _duration(duration_ns: int) -> Duration:
    return Duration(sec=duration_ns // NS_PER_S, nanosec=duration_ns % NS_PER_S)
