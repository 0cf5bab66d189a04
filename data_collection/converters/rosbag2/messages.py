"""Decoded ROS messages to arrays, and arrays to ROS messages, side by side. Pure: no bag, no clock, no ROS."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import reduce
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue, unknown
from armature.jpeg import is_whole_jpeg, jpeg_size
from data_collection.converters.rosbag2.message_types import jazzy

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
INT64 = "std_msgs/msg/Int64"
MULTI_ARRAYS = {
    dtype: f"std_msgs/msg/{name}MultiArray"
    for dtype, name in {
        "float16": "Float32", "float32": "Float32", "float64": "Float64", "bool": "UInt8",
        "int8": "Int8", "int16": "Int16", "int32": "Int32", "int64": "Int64",
        "uint8": "UInt8", "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64",
    }.items()
}  # fmt: skip
"""The message that holds every value of a dtype exactly."""
_WIRE = {"float16": "float32", "bool": "uint8"}

POSE_LABELS = ("x", "y", "z", "qx", "qy", "qz", "qw")
JOINT_FIELDS = ("position", "velocity", "effort")
CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
"""The accepted encodings of an Image, and their bytes per pixel; mono8 becomes three equal channels."""

NS_PER_S = 1_000_000_000
STAMP_NS_MAX = (2**31 - 1) * NS_PER_S
"""The seconds of a ROS time are an int32."""
_STAMP = {0: struct.Struct(">iI"), 1: struct.Struct("<iI")}


def stamp_ns_of(data: bytes) -> int:
    """Return the header's stamp [ns] of a CDR message that begins with a header, without decoding the rest."""
    if len(data) < 12 or data[0] != 0 or data[1] not in _STAMP:
        raise InvalidValue(f"{len(data)} bytes are no CDR message with a header")
    seconds, nanoseconds = _STAMP[data[1]].unpack_from(data, 4)
    if seconds < 0 or nanoseconds >= NS_PER_S:
        raise InvalidValue(f"header.stamp is {seconds} s {nanoseconds} ns")
    return seconds * NS_PER_S + nanoseconds


def require_stamp(stamp_ns: int) -> None:
    """Raise InvalidValue on a stamp that a ROS time cannot hold."""
    if not 0 <= stamp_ns <= STAMP_NS_MAX:
        raise InvalidValue(f"stamp {stamp_ns} ns does not fit a ROS time (0 to {STAMP_NS_MAX} ns)")


def header_of(stamp_ns: int, frame: str) -> Any:
    """Return a header; raise InvalidValue on a stamp that a ROS time cannot hold."""
    require_stamp(stamp_ns)
    time = _new("builtin_interfaces/msg/Time", sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)
    return _new("std_msgs/msg/Header", stamp=time, frame_id=frame)


def image_shape(message: Any) -> tuple[int, int, int]:
    """Return (H, W, 3) of an Image; raise InvalidValue unless encoding, step and size agree."""
    height, width, step, size = int(message.height), int(message.width), int(message.step), len(message.data)
    if message.encoding not in CHANNELS:
        raise InvalidValue(unknown("encoding", message.encoding, CHANNELS))
    if message.is_bigendian not in (0, 1):
        raise InvalidValue(f"is_bigendian is {message.is_bigendian}. Valid: 0, 1")
    if height == 0 or width == 0 or step < width * CHANNELS[message.encoding] or height * step != size:
        raise InvalidValue(f"{message.encoding} image of {width}x{height}, step {step}, holds {size} bytes")
    return height, width, 3


def pixels_of(message: Any) -> NDArray[np.uint8]:
    """Return RGB pixels (H, W, 3) of an Image, of rgb8 without a copy."""
    height, width, _ = image_shape(message)
    channels = CHANNELS[message.encoding]
    rows = np.asarray(message.data, np.uint8).reshape(height, -1)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    if message.encoding == "bgr8":
        return pixels[..., ::-1]
    return pixels if channels == 3 else np.repeat(pixels, 3, axis=2)


def image_message(pixels: NDArray[np.uint8], stamp_ns: int, frame: str) -> Any:
    """Return an rgb8 Image."""
    height, width, _ = pixels.shape
    return _new(IMAGE, header=header_of(stamp_ns, frame), height=height, width=width, encoding="rgb8", is_bigendian=0,
                step=3 * width, data=np.ascontiguousarray(pixels).reshape(-1))  # fmt: skip


def compressed_shape(message: Any) -> tuple[int, int, int]:
    """Return (H, W, 3) of a whole JPEG or PNG by its header; raise InvalidValue where it is neither, or cut."""
    data = bytes(message.data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        size = _png_size(data)
    else:
        size = jpeg_size(data) if is_whole_jpeg(data) else None
    if size is None:
        raise InvalidValue(f"CompressedImage '{message.format}' is no whole JPEG or PNG. Valid: jpeg, png")
    return *size, 3


def decoded_pixels_of(message: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return RGB pixels of a CompressedImage; its size is looked at before memory is taken for it."""
    if compressed_shape(message) != shape:
        raise InvalidValue(f"image is {compressed_shape(message)}, expected {shape}")
    # The orientation that a JPEG may carry is for viewers; the recorded rows are what a policy saw.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.asarray(message.data, np.uint8), flags)
    if image is None or image.shape != shape:
        raise InvalidValue(f"CompressedImage '{message.format}' cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def compressed_message(jpeg: bytes, stamp_ns: int, frame: str) -> Any:
    """Return a CompressedImage of a JPEG file's bytes."""
    header, data = header_of(stamp_ns, frame), np.frombuffer(jpeg, np.uint8)
    return _new(COMPRESSED_IMAGE, header=header, format="jpeg", data=data)


def joints_of(message: Any, field: str, labels: Sequence[str]) -> NDArray[np.float64]:
    """Select one field of a JointState by the joints' names, (len(labels),)."""
    if field not in JOINT_FIELDS:
        raise InvalidValue(unknown("field of JointState", field, JOINT_FIELDS))
    return _by_name(message.name, getattr(message, field), labels, field)


def joint_message(values: NDArray[Any], field: str, labels: Sequence[str], stamp_ns: int, frame: str) -> Any:
    """Return a JointState with one field of named joints."""
    fields = dict.fromkeys(JOINT_FIELDS, np.empty(0)) | {field: np.asarray(values, np.float64)}
    return _new(JOINT_STATE, header=header_of(stamp_ns, frame), name=list(labels), **fields)


def target_of(message: Any, labels: Sequence[str]) -> NDArray[np.float64]:
    """Return the first point of a JointTrajectory by the joints' names, (len(labels),)."""
    if not message.points:
        raise InvalidValue("JointTrajectory has no points")
    return _by_name(message.joint_names, message.points[0].positions, labels, "points[0].positions")


def target_message(values: NDArray[Any], labels: Sequence[str], stamp_ns: int, period_ns: int) -> Any:
    """Return a JointTrajectory of one point, to be reached one period after its stamp."""
    reached = _new("builtin_interfaces/msg/Duration", sec=period_ns // NS_PER_S, nanosec=period_ns % NS_PER_S)
    none = np.empty(0)
    point = _new("trajectory_msgs/msg/JointTrajectoryPoint", positions=np.asarray(values, np.float64), velocities=none,
                 accelerations=none, effort=none, time_from_start=reached)  # fmt: skip
    return _new(JOINT_TRAJECTORY, header=header_of(stamp_ns, ""), joint_names=list(labels), points=[point])


def pose_of(message: Any) -> NDArray[np.float64]:
    """Return position [m] and quaternion xyzw of a PoseStamped, (7,)."""
    at, turn = message.pose.position, message.pose.orientation
    return np.array([at.x, at.y, at.z, turn.x, turn.y, turn.z, turn.w])


def pose_message(pose: NDArray[Any], stamp_ns: int, frame: str) -> Any:
    """Return a PoseStamped of position [m] and quaternion xyzw, (7,)."""
    x, y, z, qx, qy, qz, qw = (float(value) for value in pose)
    position = _new("geometry_msgs/msg/Point", x=x, y=y, z=z)
    orientation = _new("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw)
    pose_part = _new("geometry_msgs/msg/Pose", position=position, orientation=orientation)
    return _new(POSE_STAMPED, header=header_of(stamp_ns, frame), pose=pose_part)


def field_of(message: Any, paths: Sequence[str]) -> NDArray[Any]:
    """Return the numbers at field paths such as `data` or `pose.position.x`, end to end; one alone keeps its dtype."""
    values = [np.asarray(reduce(_attribute, path.split("."), message)) for path in paths]
    for path, value in zip(paths, values, strict=True):
        if value.dtype.kind not in "biuf":
            raise InvalidValue(f"field {path} holds no numbers")
    return values[0] if len(values) == 1 else np.concatenate([value.reshape(-1) for value in values])


def array_message(values: NDArray[Any], dtype: str) -> Any:
    """Return a std_msgs MultiArray of the dtype, flat; it has no header."""
    layout = _new("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    return _new(
        MULTI_ARRAYS[dtype], layout=layout, data=np.ascontiguousarray(values, _WIRE.get(dtype, dtype)).reshape(-1)
    )


def int64_message(value: int) -> Any:
    """Return a std_msgs/Int64."""
    return _new(INT64, data=value)


def exactly(values: NDArray[Any], shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Bring values to a spec's shape and dtype; raise InvalidValue where that would lose more than a float's digits."""
    if values.size != int(np.prod(shape)):
        raise InvalidValue(f"holds {values.shape}, expected {shape}")
    target = np.dtype(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        out = values.reshape(shape).astype(target)
    if target.kind == "f":
        lost = np.isinf(out) & ~np.isinf(values.reshape(shape).astype(np.float64))
    else:
        lost = out != values.reshape(shape)
    if lost.any():
        raise InvalidValue(f"holds {values.reshape(shape)[lost][0]}, which is no {dtype}")
    return out


def _new(type_name: str, **fields: Any) -> Any:
    return jazzy().types[type_name](**fields)


def _attribute(value: Any, name: str) -> Any:
    fields = [] if isinstance(value, np.ndarray) else [key for key in getattr(value, "__dict__", {}) if key[0] != "_"]
    if name not in fields:
        raise InvalidValue(unknown("field", name, fields))
    return getattr(value, name)


def _by_name(names: Sequence[str], values: Any, labels: Sequence[str], field: str) -> NDArray[np.float64]:
    if len(names) != len(values):
        raise InvalidValue(f"has {len(names)} names and {len(values)} values in {field}")
    found = dict(zip(names, values, strict=True))
    missing = [label for label in labels if label not in found]
    if missing:
        raise InvalidValue(f"lacks {', '.join(missing)}. It has: {', '.join(names) or '(none)'}")
    if len(found) != len(names):
        raise InvalidValue(f"names a joint twice: {', '.join(names)}")
    return np.array([found[label] for label in labels], np.float64)


def _png_size(data: bytes) -> tuple[int, int] | None:
    # A cut PNG decodes to a picture with a grey end: the last chunk must be there.
    if data[12:16] != b"IHDR" or b"IEND" not in data[-16:]:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return height, width
