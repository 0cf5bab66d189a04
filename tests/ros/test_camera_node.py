"""camera_source on real files and a real MJPEG stream; camera_node as a process of its own."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.experimental import EventsExecutor
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from armature.errors import ConfigError
from armature_ros.camera_node import CameraNode, CameraNodeConfig, load_calibration
from armature_ros.camera_source import CameraLost, CameraSource, Frame, SourceConfig, check_source
from armature_ros.conversions import image_from_msg, ns_from_time
from armature_ros.qos import reliable_qos

WIDTH_PX, HEIGHT_PX, FRAMES = 64, 48, 12


def grey(level: int) -> np.ndarray:
    return np.full((HEIGHT_PX, WIDTH_PX, 3), level, np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, pure red, each 20 levels brighter than the one before."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (WIDTH_PX, HEIGHT_PX))
    for k in range(FRAMES):
        frame = grey(0)
        frame[..., 2] = 20 * k
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int], np.ndarray]], str]]:
    """Serve `picture(k)` for k = 0, 1, ... as MJPEG over HTTP at 50 Hz until `picture` raises StopIteration."""
    servers: list[ThreadingHTTPServer] = []

    def start(picture: Callable[[int], np.ndarray]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                for k in itertools.count():
                    try:
                        jpeg = cv2.imencode(".jpg", picture(k))[1].tobytes()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                    except (StopIteration, OSError):
                        return
                    time.sleep(0.02)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/stream.mjpg"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def source(text: str, **settings: object) -> CameraSource:
    settings = {"rate_hz": 200.0, "retries": 1, "retry_wait_s": 0.01, "frozen_s": 0.3} | settings
    return CameraSource(SourceConfig(text, **settings), time.monotonic_ns, threading.Event())


def test_file_gives_every_frame_once_in_rgb_and_then_is_lost(clip: Path) -> None:
    frames: list[Frame] = []
    with pytest.raises(CameraLost, match=f"{clip.name}' ended after 12 frames"):
        frames.extend(source(str(clip)).frames())
    assert len(frames) == FRAMES
    red = [int(frame.image[..., 0].mean()) for frame in frames]
    assert np.allclose(red, [20 * k for k in range(FRAMES)], atol=4)
    assert frames[5].image[..., 2].mean() < 10
    assert (np.diff([frame.stamp_ns for frame in frames]) > 0).all()


def test_file_loops_and_is_resized_when_asked(clip: Path) -> None:
    frames = list(itertools.islice(source(str(clip), loop=True, width_px=32, height_px=24).frames(), 2 * FRAMES))
    assert {frame.image.shape for frame in frames} == {(24, 32, 3)}
    assert np.allclose(frames[FRAMES + 3].image, frames[3].image)


def test_stream_frames_are_thinned_to_the_rate(serve: Callable[..., str]) -> None:
    camera = source(serve(lambda k: grey(10 + k % 200)), rate_hz=10.0)
    list(itertools.islice(camera.frames(), 4))
    assert camera.counts.acquired >= 10
    assert camera.counts.thinned == camera.counts.acquired - 4


@pytest.mark.fault(row=26)
def test_frozen_stream_is_never_repeated_and_lost_in_the_end(serve: Callable[..., str]) -> None:
    sent = itertools.count()
    camera = source(serve(lambda _: grey(10 + 10 * min(next(sent), 4))))
    levels: list[int] = []
    with pytest.raises(CameraLost, match="no fresh frame"):
        levels.extend(int(frame.image.mean()) for frame in camera.frames())
    assert camera.counts.repeated > 0
    assert all(a != b for a, b in itertools.pairwise(levels))


def test_stream_that_comes_back_is_taken_up_again(serve: Callable[..., str]) -> None:
    sent = itertools.count()

    def twenty_then_hang_up(k: int) -> np.ndarray:
        if k == 20:
            raise StopIteration
        return grey(10 + next(sent) % 200)

    camera = source(serve(twenty_then_hang_up), retries=20)
    assert len(list(itertools.islice(camera.frames(), 30))) == 30
    assert camera.counts.reopened >= 1


def test_unreachable_source_is_lost_after_its_retries() -> None:
    camera = source("http://127.0.0.1:9/nothing.mjpg", retries=2)
    with pytest.raises(CameraLost, match="cannot be opened; gave up after 2 retries"):
        next(camera.frames())
    assert camera.counts.reopened == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "no/such.mp4"}, "'no/such.mp4' is no file; valid: a device index, a file or a URL"),
        ({"rate_hz": 0.0}, "rate_hz is 0"),
        ({"width_px": 64}, "give both or neither"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_source(SourceConfig(**({"source": "0", "rate_hz": 30.0} | settings)))


CALIBRATION = """
image_width: 64
image_height: 48
camera_name: wrist
camera_matrix: {rows: 3, cols: 3, data: [50, 0, 32, 0, 51, 24, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [50, 0, 32, 0, 0, 51, 24, 0, 0, 0, 1, 0]}
"""


def test_calibration_reaches_camera_info(tmp_path: Path) -> None:
    path = tmp_path / "wrist.yaml"
    path.write_text(CALIBRATION)
    config = CameraNodeConfig("0", "camera/wrist", "wrist", 30.0, 64, 48, calibration_file=str(path))
    info = load_calibration(config)
    assert list(info.k) == [50, 0, 32, 0, 51, 24, 0, 0, 1]
    assert list(info.d) == [0.1, -0.2, 0, 0, 0]
    with pytest.raises(ConfigError, match="is for 64x48, not for 640x480"):
        load_calibration(CameraNodeConfig("0", "c", "c", 30.0, 640, 480, calibration_file=str(path)))


def node_command(**parameters: object) -> list[str]:
    given = {"topic": "camera/test", "frame_id": "test_optical", "rate_hz": 30.0} | parameters
    values = [item for name, value in given.items() for item in ("-p", f"{name}:={json.dumps(value)}")]
    return [sys.executable, "-m", "armature_ros.camera_node", "--ros-args", *values]


class Listener:
    """Keeps what a camera node publishes."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("listener", context=self._context)
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        self.jpegs: list[CompressedImage] = []
        for kind, name, kept in (
            (Image, "image_raw", self.images),
            (CameraInfo, "camera_info", self.infos),
            (CompressedImage, "image_raw/compressed", self.jpegs),
        ):
            self.subscribe(kind, f"camera/test/{name}", kept.append)

    def subscribe(self, kind: type, topic: str, on_message: Callable[[Any], None]) -> None:
        self._node.create_subscription(kind, topic, on_message, reliable_qos())

    def spin_until(self, is_done: Callable[[], bool], limit_s: float = 30.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while not is_done():
            assert time.monotonic() < deadline_s, "it took too long"
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def listener(environment: dict[str, str]) -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.mark.ros
def test_node_publishes_image_info_and_jpeg_of_the_same_stamp(clip: Path, listener: Listener) -> None:
    process = subprocess.Popen(node_command(source=str(clip), loop=True))
    try:
        listener.spin_until(lambda: len(listener.images) >= 20 and len(listener.jpegs) >= 5)
    finally:
        process.terminate()
    assert process.wait(10) == 0
    stamps_ns = [ns_from_time(image.header.stamp) for image in listener.images]
    assert (np.diff(stamps_ns) > 0).all()
    pixels = image_from_msg(listener.images[3])
    assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert pixels[..., 1:].max() < 20
    info = listener.infos[-1]
    assert (info.width, info.height, info.header.frame_id) == (WIDTH_PX, HEIGHT_PX, "test_optical")
    jpeg = listener.jpegs[0]
    twin = next(image for image in listener.images if image.header.stamp == jpeg.header.stamp)
    decoded = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - image_from_msg(twin)).max() < 25


@pytest.mark.ros
@pytest.mark.fault(row=29)
def test_node_whose_camera_falls_from_30_to_12_hz_warns(serve: Callable[..., str], listener: Listener) -> None:
    def slow(k: int) -> np.ndarray:
        time.sleep(1 / 12 - 0.02)
        return grey(10 + k % 200)

    drifts: list[DiagnosticStatus] = []

    def look(message: DiagnosticArray) -> None:
        drifts.extend(s for s in message.status if re.fullmatch(r"[0-9.]+ Hz, expected 30 Hz", s.message))

    listener.subscribe(DiagnosticArray, "/diagnostics", look)
    process = subprocess.Popen(node_command(source=serve(slow), frozen_s=5.0))
    try:
        listener.spin_until(lambda: bool(drifts))
    finally:
        process.terminate()
    assert process.wait(10) == 0
    assert (drifts[0].level, drifts[0].name) == (DiagnosticStatus.WARN, "camera_node: camera/test")
    assert float(next(v.value for v in drifts[0].values if v.key == "rate_hz")) < 24


@pytest.mark.ros
def test_node_whose_camera_is_lost_names_it_and_ends_with_1(
    serve: Callable[..., str], environment: dict[str, str]
) -> None:
    pictures = iter([grey(10 + 20 * k) for k in range(5)])
    url = serve(lambda _: next(pictures))
    command = node_command(source=url, retries=1, retry_wait_s=0.05, frozen_s=0.5)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"camera source '{url}'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ros
def test_node_whose_capture_fails_otherwise_ends_with_that(
    clip: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cannot be published")

    monkeypatch.setattr(CameraNode, "_publish", fail)
    rclpy.init(args=node_command(source=str(clip))[3:])
    node = CameraNode()
    try:
        executor = SimpleNamespace(spin_once=lambda timeout_sec: time.sleep(timeout_sec))
        with pytest.raises(RuntimeError, match="cannot be published"):
            node.loop(executor, SimpleNamespace(requested=False))
    finally:
        node.destroy_node()
        rclpy.shutdown()


@pytest.mark.ros
def test_node_refuses_a_file_that_is_not_there_with_2(environment: dict[str, str]) -> None:
    done = subprocess.run(node_command(source="no/such.mp4"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'no/such.mp4' is no file" in done.stderr
