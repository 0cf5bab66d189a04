"""Publishes a CameraInfo beside every image of a simulated robot, as drivers of real cameras do."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from armature.spec import ArraySpec
from armature_ros.conversions import header_of, time_from_ns
from armature_ros.streams import TopicArrays


class CameraInfos:
    """One publisher per image, `camera_info` in the namespace of its topic."""

    def __init__(self, node: Node, topics: Sequence[TopicArrays]) -> None:
        self._infos = [
            (_info_of(array), node.create_publisher(CameraInfo, _info_topic(topic.topic), 10))
            for topic in topics
            for array in topic.arrays
            if array.is_image
        ]

    def publish(self, stamp_ns: int) -> None:
        """Publish those that somebody listens to."""
        for info, publisher in self._infos:
            if publisher.get_subscription_count():
                info.header.stamp = time_from_ns(stamp_ns)
                publisher.publish(info)


def _info_of(array: ArraySpec) -> CameraInfo:
    # K stays zero, which by ROS's convention means uncalibrated.
    height, width, _ = array.shape
    return CameraInfo(header=header_of(0, array.name), height=height, width=width)


def _info_topic(image_topic: str) -> str:
    return image_topic.rsplit("/", 1)[0] + "/camera_info"
