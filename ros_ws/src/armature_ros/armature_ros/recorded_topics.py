"""Which topics a recorder listens to: those of the robot, the commands, and who drives and the reward where known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from armature.errors import InvalidValue
from armature.spec import ActionSpec, ArraySpec, RobotSpec
from armature_ros.conversions import action_from_msg, positions_from_joint_state
from armature_ros.streams import StreamConfig, topics_of
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER, stream_specs

ACTION_TOPICS = {ACTION_EXECUTED: "control/executed", ACTION_REQUESTED: "control/requested"}
OPTIONAL_TOPICS = {TAKEOVER: "control/takeover", REWARD: "reward"}
"""Joint states with the one name `engaged` or `reward`: the kind of message that carries a stamped number."""

# Seconds of traffic that may wait while this process is kept from running: of small messages many, of images few.
_IMAGE_DEPTH, _SMALL_DEPTH = 100, 2000


@dataclass(frozen=True)
class RecordedTopic:
    """One topic, the streams that its messages carry, and how they are taken out."""

    name: str
    message_type: type
    streams: tuple[str, ...]
    read: Callable[[Any], dict[str, NDArray[Any]]]
    """Raises InvalidValue on a message that does not hold them."""
    is_required: bool = True

    @property
    def type_name(self) -> str:
        """Return the ROS name of the message type, such as sensor_msgs/msg/Image."""
        return "/".join((*self.message_type.__module__.split(".")[:2], self.message_type.__name__))

    @property
    def depth(self) -> int:
        """Return how many messages the middleware holds for us."""
        return _IMAGE_DEPTH if self.message_type in (Image, CompressedImage) else _SMALL_DEPTH


def recorded_topics(spec: RobotSpec, streams: Mapping[str, StreamConfig]) -> tuple[RecordedTopic, ...]:
    """Return every topic that is recorded of a robot; raise ConfigError on an array without a stream."""
    arrays = stream_specs(spec)
    sensors = [
        RecordedTopic(topic.topic, topic.message_type, tuple(a.name for a in topic.arrays), topic.read)
        for topic in topics_of(spec.observation.arrays, streams)
    ]
    actions = [
        RecordedTopic(topic, JointTrajectory, (name,), _action_of(name, spec.action))
        for name, topic in ACTION_TOPICS.items()
    ]
    optional = [
        RecordedTopic(topic, JointState, (name,), _number_of(arrays[name]), is_required=False)
        for name, topic in OPTIONAL_TOPICS.items()
    ]
    return (*sensors, *actions, *optional)


def _number_of(array: ArraySpec) -> Callable[[Any], dict[str, NDArray[Any]]]:
    def read(message: Any) -> dict[str, NDArray[Any]]:
        value = positions_from_joint_state(message, array.labels)
        if array.name == TAKEOVER and value[0] not in (0, 1):
            raise InvalidValue(f"'engaged' is {value[0]:g}. Valid: 0, 1")
        return {array.name: value.astype(array.dtype)}

    return read


def _action_of(name: str, action: ActionSpec) -> Callable[[Any], dict[str, NDArray[Any]]]:
    def read(message: Any) -> dict[str, NDArray[Any]]:
        try:
            return {name: action_from_msg(message, action.labels)}
        except InvalidValue as error:
            raise InvalidValue(f"no action of the kind {action.kind} that this robot takes: {error}") from error

    return read
