"""One camera on ROS: frames of a device, a file or a stream, stamped when they were acquired.

A capture thread reads and publishes; the executor's thread serves diagnostics. A camera that is lost for good ends the
node with exit code 1, so that the graph notices; an old frame is never published again.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rclpy.executors import Executor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from armature.clock import SteadyClock
from armature.errors import ConfigError
from armature_ros.camera_source import CameraLost, CameraSource, Frame, SourceConfig
from armature_ros.conversions import header_of, image_to_msg, jpeg_to_msg, time_from_ns
from armature_ros.diagnostics import Diagnostics, StreamMonitor
from armature_ros.parameters import load_config
from armature_ros.qos import published_stream_qos
from armature_ros.spin import StopRequest, run

JOIN_S = 3.0


@dataclass(frozen=True)
class CameraNodeConfig:
    """Parameters of `camera_node`; those of the source are explained at SourceConfig."""

    source: str
    """Device index ("0"), video file or URL."""
    topic: str
    """Below it come image_raw, camera_info and image_raw/compressed, for instance "camera/scene"."""
    frame_id: str
    rate_hz: float
    width_px: int = 0
    height_px: int = 0
    loop: bool = False
    retries: int = 5
    retry_wait_s: float = 1.0
    frozen_s: float = 1.0
    jpeg_quality: int = 90
    """Of image_raw/compressed, which costs nothing while nobody subscribes; 0 leaves the topic out."""
    calibration_file: str = ""
    """YAML as written by ROS's camera_calibration; empty: camera_info says uncalibrated."""


class CameraNode(Node):
    """Publishes one camera."""

    def __init__(self) -> None:
        super().__init__("camera_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, CameraNodeConfig)
        self._info = load_calibration(self.config)
        self._stopping = threading.Event()
        self._source = CameraSource(source_of(self.config), self._now_ns, self._stopping)
        self._failure: Exception | None = None
        self._monitor, self._monitor_lock = StreamMonitor(self.config.rate_hz), threading.Lock()
        qos = published_stream_qos(lockstep=False)
        self._image_publisher = self.create_publisher(Image, f"{self.config.topic}/image_raw", qos)
        self._info_publisher = self.create_publisher(CameraInfo, f"{self.config.topic}/camera_info", qos)
        self._jpeg_publisher = (
            self.create_publisher(CompressedImage, f"{self.config.topic}/image_raw/compressed", qos)
            if self.config.jpeg_quality
            else None
        )
        Diagnostics(self, self._diagnose)

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Capture until asked to stop; raise what ended the capture: CameraLost when the source is gone for good."""
        capture = threading.Thread(target=self._capture, name="capture", daemon=True)
        capture.start()
        while capture.is_alive() and not stop.requested:
            executor.spin_once(timeout_sec=0.1)
        self._stopping.set()
        capture.join(JOIN_S)  # a driver may be waiting for a frame that never comes
        if self._failure is not None:
            raise self._failure

    def _capture(self) -> None:
        try:
            for frame in self._source.frames():
                self._publish(frame)
        except Exception as error:
            # The node's main thread ends the process with it.
            self._failure = error

    def _publish(self, frame: Frame) -> None:
        config, stamp = self.config, time_from_ns(frame.stamp_ns)
        self._image_publisher.publish(image_to_msg(frame.image, frame.stamp_ns, config.frame_id))
        self._info.header.stamp = stamp
        self._info.height, self._info.width = frame.image.shape[:2]
        self._info_publisher.publish(self._info)
        if self._jpeg_publisher is not None and self._jpeg_publisher.get_subscription_count():
            self._jpeg_publisher.publish(jpeg_to_msg(frame.image, frame.stamp_ns, config.frame_id, config.jpeg_quality))
        with self._monitor_lock:
            self._monitor.on_sample(frame.stamp_ns, SteadyClock().now_ns())

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _diagnose(self) -> dict[str, dict[str, str]]:
        counts = asdict(self._source.counts)
        with self._monitor_lock:
            report = self._monitor.report()
        return {self.config.topic: {**report, **{key: str(value) for key, value in counts.items()}}}


def load_calibration(config: CameraNodeConfig) -> CameraInfo:
    """Return the camera info of the configured calibration; all zeros, which means uncalibrated, without one.

    Raises ConfigError naming the file when it cannot be read or belongs to another image size.
    """
    info = CameraInfo(header=header_of(0, config.frame_id))
    if not config.calibration_file:
        return info
    try:
        data = yaml.safe_load(Path(config.calibration_file).read_text())
        size = (int(data["image_width"]), int(data["image_height"]))
        info.distortion_model = str(data["distortion_model"])
        info.d = _matrix(data, "distortion_coefficients")
        info.k = _matrix(data, "camera_matrix")
        info.r = _matrix(data, "rectification_matrix")
        info.p = _matrix(data, "projection_matrix")
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"calibration_file '{config.calibration_file}' cannot be read: {error!r}") from error
    if size != (config.width_px, config.height_px):
        wanted = f"{config.width_px}x{config.height_px}"
        raise ConfigError(f"calibration_file '{config.calibration_file}' is for {size[0]}x{size[1]}, not for {wanted}")
    return info


def _matrix(data: dict[str, Any], name: str) -> NDArray[np.float64] | list[float]:
    return [float(value) for value in data[name]["data"]]


def source_of(config: CameraNodeConfig) -> SourceConfig:
    return SourceConfig(**{f.name: getattr(config, f.name) for f in fields(SourceConfig)})


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code: 1 when the camera was lost, 2 on bad input."""
    try:
        return run(CameraNode, CameraNode.loop, args)
    except CameraLost as error:
        print(f"camera_node: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
