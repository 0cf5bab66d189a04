"""Camera and joint traffic between two processes: is anything lost, and how late does it arrive?

Three cameras of 640x480 at 30 Hz and joint states at 100 Hz for 30 s, with the transport profile that every graph of
one host runs on; then the same with the middleware's default transport as the baseline.

    python benchmarks/ros_transport.py [--quick] --json FILE
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import sys
import time
from array import array
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, Criterion, at_least, below, exactly, main

sys.path.insert(0, str(ROOT / "ros_ws/src/armature_ros"))

CAMERAS = ("left", "right", "wrist")
CAMERA_HZ, JOINT_HZ = 30, 100
WIDTH_PX, HEIGHT_PX = 640, 480
JOINTS = tuple(f"joint{i}" for i in range(1, 8))
DURATION_S, QUICK_S = 30.0, 5.0
WARM_UP_S = 1.0
DISCOVERY_S = 20.0
DRAIN_S = 1.0
SENT_MIN = 0.99
"""Of the rates, by the wall clock: traffic that was not there is not lost either."""


def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Run the traffic on the shipped profile and on the default transport; criteria are about the former."""
    duration_s = QUICK_S if quick else DURATION_S
    shipped = run_traffic(duration_s, profile=True)
    default = run_traffic(duration_s, profile=False)
    criteria = sent_criteria(shipped["sent_hz"])
    criteria += [exactly(f"camera {name}: frames lost", shipped["lost"][name], "frames", 0) for name in CAMERAS]
    criteria.append(exactly("joint states lost", shipped["lost"]["joint_states"], "messages", 0))
    criteria.append(below("camera to callback, p99", shipped["camera_latency_ms"]["p99"], "ms", 10.0))
    return criteria, {
        "duration_s": duration_s,
        "shipped": shipped,
        "default_transport": default,
        "ratio_default_to_shipped": _ratios(default, shipped),
    }


def sent_criteria(sent_hz: dict[str, float]) -> list[Criterion]:
    """Ask of every stream that it was really published at its rate."""
    rates_hz = {**dict.fromkeys(CAMERAS, CAMERA_HZ), "joint_states": JOINT_HZ}
    return [
        at_least(f"{name}: sent, of {rate_hz} Hz", sent_hz[name] / rate_hz, "of all", SENT_MIN)
        for name, rate_hz in rates_hz.items()
    ]


def run_traffic(duration_s: float, *, profile: bool) -> dict[str, Any]:
    """Start one publishing and one subscribing process and put together what both saw."""
    context = multiprocessing.get_context("spawn")
    domain = 100 + os.getpid() % 100
    ends = context.Pipe(), context.Pipe()
    processes = [
        context.Process(target=target, args=(end[1], domain, profile, duration_s), daemon=True)
        for target, end in zip((_publish, _subscribe), ends, strict=True)
    ]
    for process in processes:
        process.start()
    sent = _answer(ends[0][0], processes[0], duration_s + 2 * DISCOVERY_S)
    time.sleep(DRAIN_S)
    ends[1][0].send("stop")
    received = _answer(ends[1][0], processes[1], DISCOVERY_S)
    for process in processes:
        process.join(DISCOVERY_S)
    return _outcome(sent, received)


def _answer(end: Connection, process: Any, patience_s: float) -> dict[str, Any]:
    if not end.poll(patience_s):
        raise RuntimeError(f"process {process.name} did not answer within {patience_s:g} s")
    return end.recv()


def _outcome(sent: dict[str, Any], received: dict[str, Any]) -> dict[str, Any]:
    latencies = received["latency_ms"]
    cameras = np.concatenate([latencies[name] for name in CAMERAS])
    return {
        "sent": sent["count"],
        "sent_hz": {name: count / sent["wall_s"] for name, count in sent["count"].items()},
        "received": {name: len(values) for name, values in latencies.items()},
        "lost": {name: count - len(latencies[name]) for name, count in sent["count"].items()},
        "camera_latency_ms": _percentiles(cameras),
        "joint_latency_ms": _percentiles(np.asarray(latencies["joint_states"])),
        "publisher_cpu_percent": sent["cpu_percent"],
        "subscriber_cpu_percent": received["cpu_percent"],
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    if len(values) == 0:
        return {"p50": float("nan"), "p99": float("nan"), "max": float("nan")}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(values.max()), 3)}


def _ratios(default: dict[str, Any], shipped: dict[str, Any]) -> dict[str, float]:
    pairs = {p: (default["camera_latency_ms"][p], shipped["camera_latency_ms"][p]) for p in ("p50", "p99")}
    return {f"camera_latency_{p}": round(a / b, 2) for p, (a, b) in pairs.items()}


def _enter(domain: int, *, profile: bool) -> None:
    """Choose the transport; the middleware reads these variables when its first participant is made."""
    from armature_ros.qos import single_host_environment

    os.environ |= single_host_environment() | {"ROS_DOMAIN_ID": str(domain)}
    if not profile:
        for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
            del os.environ[name]


def _publish(end: Connection, domain: int, profile: bool, duration_s: float) -> None:
    _enter(domain, profile=profile)
    import rclpy

    rclpy.init()
    node = rclpy.create_node("transport_source")
    publishers = _publishers(node)
    _await_subscribers(publishers)
    _send(publishers, WARM_UP_S, measured=False)
    cpu_s, wall_s = time.process_time(), time.monotonic()
    count = _send(publishers, duration_s, measured=True)
    # The last one of a stream is due up to a period before the end; a loop that lags sends all, only later.
    took_s = max(time.monotonic() - wall_s, duration_s)
    end.send({"count": count, "wall_s": took_s, "cpu_percent": _cpu_percent(cpu_s, wall_s)})
    time.sleep(2 * DRAIN_S)  # a reliable writer has to live until its last message is acknowledged
    node.destroy_node()
    rclpy.shutdown()


def _cpu_percent(cpu_s: float, wall_s: float) -> float:
    """Return the processor time since `cpu_s` over the wall time since `wall_s`, in percent of one core."""
    return round(100 * (time.process_time() - cpu_s) / (time.monotonic() - wall_s), 1)


def _publishers(node: Any) -> dict[str, Any]:
    from sensor_msgs.msg import Image, JointState

    from armature_ros.qos import published_stream_qos

    qos = published_stream_qos(lockstep=False)
    made = {name: node.create_publisher(Image, f"camera/{name}/image_raw", qos) for name in CAMERAS}
    return made | {"joint_states": node.create_publisher(JointState, "joint_states", qos)}


def _await_subscribers(publishers: dict[str, Any]) -> None:
    deadline_s = time.monotonic() + DISCOVERY_S
    while any(publisher.get_subscription_count() == 0 for publisher in publishers.values()):
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"no subscriber within {DISCOVERY_S:g} s")
        time.sleep(0.02)


def _send(publishers: dict[str, Any], duration_s: float, *, measured: bool) -> dict[str, int]:
    """Publish every stream at its own rate on absolute deadlines; return how many messages of each were sent."""
    frame = np.random.default_rng(0).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    period_ns = {name: round(1e9 / (JOINT_HZ if name == "joint_states" else CAMERA_HZ)) for name in publishers}
    count = dict.fromkeys(publishers, 0)
    begin_ns = time.monotonic_ns()
    # Unsynchronised cameras: their phases are spread over the period.
    due = [(begin_ns + i * period_ns[name] // len(publishers), name) for i, name in enumerate(publishers)]
    heapq.heapify(due)
    while (head := due[0])[0] < begin_ns + duration_s * 1e9:
        due_ns, name = head
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        publishers[name].publish(_message(name, frame, str(count[name]) if measured else ""))
        count[name] += 1
        heapq.heapreplace(due, (due_ns + period_ns[name], name))
    return count


def _message(name: str, frame: np.ndarray, label: str) -> Any:
    """Build a message stamped now on the host's monotonic clock, which both processes read."""
    from sensor_msgs.msg import Image, JointState

    stamp_ns = time.monotonic_ns()
    if name == "joint_states":
        message = JointState(name=JOINTS, position=[0.0] * len(JOINTS))
    else:
        data = array("B")
        data.frombytes(memoryview(frame).cast("B"))
        message = Image(height=HEIGHT_PX, width=WIDTH_PX, encoding="rgb8", step=3 * WIDTH_PX)
        message.data = data
    message.header.frame_id = label
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


def _subscribe(end: Connection, domain: int, profile: bool, _duration_s: float) -> None:
    _enter(domain, profile=profile)
    import rclpy
    from rclpy.experimental import EventsExecutor

    rclpy.init()
    node = rclpy.create_node("transport_sink")
    latency_ms = _listen(node)
    executor = EventsExecutor()
    executor.add_node(node)
    cpu_s, wall_s = time.process_time(), time.monotonic()
    while not end.poll():
        executor.spin_once(timeout_sec=0.1)
    end.send({"latency_ms": latency_ms, "cpu_percent": _cpu_percent(cpu_s, wall_s)})
    node.destroy_node()
    rclpy.shutdown()


def _listen(node: Any) -> dict[str, list[float]]:
    from sensor_msgs.msg import Image, JointState

    from armature_ros.qos import reliable_qos

    qos = reliable_qos()
    latency_ms: dict[str, list[float]] = {name: [] for name in (*CAMERAS, "joint_states")}

    def receive(name: str, message: Any) -> None:
        now_ns = time.monotonic_ns()
        if message.header.frame_id:
            stamp = message.header.stamp
            latency_ms[name].append((now_ns - stamp.sec * 10**9 - stamp.nanosec) / 1e6)

    for name in CAMERAS:
        node.create_subscription(Image, f"camera/{name}/image_raw", lambda m, n=name: receive(n, m), qos)
    node.create_subscription(JointState, "joint_states", lambda m: receive("joint_states", m), qos)
    return latency_ms


if __name__ == "__main__":
    sys.exit(main(Path(__file__).stem, measure))
