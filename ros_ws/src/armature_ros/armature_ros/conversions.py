"""ROS messages to the kernel's values and back. Pure: no node, no clock, no state."""

from __future__ import annotations

from array import array as buffer
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from armature.errors import InvalidValue
from armature.jpeg import count_scans, is_whole_jpeg, jpeg_size
from armature.spec import TCP_DELTA, ActionSpec, ArraySpec
from armature.transforms import unit_quaternion
from armature.types import ActionChunk, CommittedActions

NS_PER_S = 1_000_000_000
PIXELS_MAX = 4096 * 4096
"""Of one image; no camera of a robot has more."""
SCANS_MAX = 32
"""Of one JPEG; a progressive one has about ten, thousands would keep the decoder busy for minutes."""
JPEG_QUALITY = 90
STEPS_MAX = 1000
"""Of one chunk; policies plan tens of steps."""


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
    """Return pixels (H, W, 3) rgb8, of rgb8 without a copy; raise InvalidValue unless all fields agree."""
    height, width, _ = image_shape(message)
    rows = np.frombuffer(message.data, np.uint8).reshape(height, message.step)
    pixels = rows[:, : 3 * width].reshape(height, width, 3)
    return pixels if message.encoding == "rgb8" else np.ascontiguousarray(pixels[..., ::-1])


def image_shape(message: Image) -> tuple[int, int, int]:
    """Return (H, W, 3) by the fields of an Image alone; raise InvalidValue unless they agree with each other."""
    height, width, step, size = message.height, message.width, message.step, len(message.data)
    if message.encoding not in ("rgb8", "bgr8"):
        raise InvalidValue(f"image encoding '{message.encoding}'. Valid: rgb8, bgr8")
    if message.is_bigendian not in (0, 1):
        raise InvalidValue(f"image's is_bigendian is {message.is_bigendian}. Valid: 0, 1")
    _require_pixels(height, width)
    if step < 3 * width or size != height * step:
        raise InvalidValue(f"image of {width}x{height}, step {step}, holds {size} bytes")
    return height, width, 3


def jpeg_to_msg(pixels: NDArray[np.uint8], stamp_ns: int, frame_id: str, quality: int) -> CompressedImage:
    """Return pixels (H, W, 3) rgb8 as JPEG, in the format that image_transport names."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=header_of(stamp_ns, frame_id), format="rgb8; jpeg compressed bgr8")
    message.data = buffer("B", encoded.tobytes())
    return message


def pixels_from_jpeg(message: CompressedImage, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return pixels (H, W, 3) rgb8; raise InvalidValue on a JPEG that is cut, or not of `shape` by its header."""
    found = jpeg_shape(message)
    if found != shape:
        raise InvalidValue(f"compressed image is {found}, expected {shape}")
    # The orientation that a JPEG may carry is for viewers; a policy sees the rows as they were taken.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
    if bgr is None or bgr.shape != shape:
        raise InvalidValue(f"compressed image '{message.format}' of {len(message.data)} bytes cannot be decoded")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def jpeg_shape(message: CompressedImage) -> tuple[int, int, int]:
    """Return (H, W, 3) by the header of a whole JPEG, without decoding it; raise InvalidValue where it is none."""
    data = message.data.tobytes()
    size = jpeg_size(data)
    if size is None or not is_whole_jpeg(data):
        raise InvalidValue(f"compressed image '{message.format}' of {len(data)} bytes is no whole JPEG. Valid: jpeg")
    _require_pixels(*size)
    if (scans := count_scans(data)) > SCANS_MAX:
        raise InvalidValue(f"compressed image has {scans} scans, at most {SCANS_MAX} are decoded")
    return *size, 3


def _require_pixels(height: int, width: int) -> None:
    if not 0 < height * width <= PIXELS_MAX:
        raise InvalidValue(f"image of {width}x{height} pixels, valid are 1 to {PIXELS_MAX} in all")


def joint_state_to_msg(labels: Sequence[str], positions: NDArray[Any], stamp_ns: int) -> JointState:
    """Return a JointState of positions (D,) named by `labels`."""
    return JointState(header=header_of(stamp_ns), name=list(labels), position=positions.astype(np.float64).tolist())


def positions_from_joint_state(message: JointState, labels: Sequence[str]) -> NDArray[np.float64]:
    """Select positions by name, (len(labels),) in their order; other joints, velocities and efforts do not matter.

    Raises InvalidValue naming the joints that are missing or named twice.
    """
    if len(message.name) != len(message.position):
        raise InvalidValue(f"joint state has {len(message.name)} names and {len(message.position)} positions")
    found = dict(zip(message.name, message.position, strict=True))
    if len(found) != len(message.name):
        twice = sorted(name for name, count in Counter(message.name).items() if count > 1)
        raise InvalidValue(f"joint state names {', '.join(twice)} more than once")
    missing = [label for label in labels if label not in found]
    if missing:
        raise InvalidValue(f"joint state lacks {', '.join(missing)}; it has {', '.join(message.name)}")
    return np.array([found[label] for label in labels])


def measured_from_joint_state(message: JointState, spec: ActionSpec) -> NDArray[np.float64]:
    """Return the measured state (D,) in the layout of the action; a TCP displacement measures as zero.

    Raises InvalidValue naming the joints that are missing, named twice or not finite.
    """
    parts = {
        part.name: np.zeros(part.size) if part.name == TCP_DELTA else positions_from_joint_state(message, part.labels)
        for part in spec.arrays
    }
    measured = spec.join(parts)
    if not np.isfinite(measured).all():
        faulty = [label for label, value in zip(spec.labels, measured, strict=True) if not np.isfinite(value)]
        raise InvalidValue(f"joint state is not finite at {', '.join(faulty)}")
    return measured


def pose_to_msg(pose: NDArray[Any], stamp_ns: int, frame_id: str) -> PoseStamped:
    """Return a PoseStamped of position [m] and quaternion xyzw, (7,)."""
    message = PoseStamped(header=header_of(stamp_ns, frame_id))
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = pose[:3].tolist()
    orientation.x, orientation.y, orientation.z, orientation.w = pose[3:].tolist()
    return message


def pose_from_msg(message: PoseStamped) -> NDArray[np.float64]:
    """Return position [m] and unit quaternion xyzw, (7,); raise InvalidValue on a quaternion that is no rotation."""
    position, orientation = message.pose.position, message.pose.orientation
    quaternion = np.array([orientation.x, orientation.y, orientation.z, orientation.w])
    return np.concatenate([[position.x, position.y, position.z], unit_quaternion(quaternion)])


def values_from_msg(message: Any, arrays: Sequence[ArraySpec]) -> dict[str, NDArray[Any]]:
    """Return the arrays that a message carries, in their specs' dtypes; raise InvalidValue when one is not in it."""
    if isinstance(message, Image):
        return {array.name: image_from_msg(message) for array in arrays}
    if isinstance(message, CompressedImage):
        return {array.name: pixels_from_jpeg(message, array.shape) for array in arrays}
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
    if message_type is CompressedImage:
        return jpeg_to_msg(values[first.name], stamp_ns, first.name, JPEG_QUALITY)
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
    """Return the chunk of a trajectory.

    Raises InvalidValue on wrong names, uneven times, values that are not finite, more than STEPS_MAX of them.
    """
    if len(message.points) > STEPS_MAX:
        raise InvalidValue(f"chunk has {len(message.points)} steps, at most {STEPS_MAX} are taken")
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


def committed_to_msg(committed: CommittedActions, labels: Sequence[str]) -> JointTrajectory:
    """Return what is executed meanwhile as a trajectory, stamped with its first action; the delay travels apart."""
    points = [
        JointTrajectoryPoint(positions=action.tolist(), time_from_start=_duration(i * committed.period_ns))
        for i, action in enumerate(committed.actions)
    ]
    return JointTrajectory(header=header_of(committed.start_ns), joint_names=list(labels), points=points)


def action_to_msg(action: NDArray[Any], labels: Sequence[str], stamp_ns: int, period_ns: int) -> JointTrajectory:
    """Return one command (D,) as a trajectory of one point, to be reached one period after its stamp."""
    point = JointTrajectoryPoint(positions=action.astype(np.float64).tolist(), time_from_start=_duration(period_ns))
    return JointTrajectory(header=header_of(stamp_ns), joint_names=list(labels), points=[point])


def action_from_msg(message: JointTrajectory, labels: Sequence[str]) -> NDArray[np.float64]:
    """Return the first point of a trajectory (D,), by name; NaN is let through: it says that nothing was asked for."""
    return _positions(message, labels)[0]


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
