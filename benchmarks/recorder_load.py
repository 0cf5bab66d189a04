"""Does the recorder keep up with a well-equipped robot, and what does it need for that?

Three cameras of 640x480 at 30 Hz, joint states at 500 Hz and commands at 20 Hz for 60 s, published by one process and
recorded by a real recorder_node on the transport profile that every graph of one host runs on. Then every stamp and
every pixel is read back and compared. Once lossless (the default, to which the bounds apply) and once as JPEG.

    python benchmarks/recorder_load.py [--quick] --json FILE
"""

from __future__ import annotations

import heapq
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from harness import ROOT, Criterion, at_least, below, exactly, main

sys.path.insert(0, str(ROOT / "ros_ws/src/armature_ros"))

CAMERAS = ("left", "right", "wrist")
CAMERA_HZ, JOINT_HZ, COMMAND_HZ = 30, 500, 20
WIDTH_PX, HEIGHT_PX, FRAMES = 640, 480, 24
JOINTS = tuple(f"joint{i}" for i in range(1, 8))
DURATION_S, QUICK_S = 60.0, 10.0
SAMPLE_PERIOD_S = 0.25
WARM_UP_PART = 1.0
PATIENCE_S = 60.0
CPU_LIMIT_PERCENT = 60.0
GROWTH_LIMIT_MB = 10.0
SENT_MIN = 0.99
"""Of what the rates come to: a load that was not there burdens nobody."""
RATES_HZ = {
    **{f"camera/{name}": CAMERA_HZ for name in CAMERAS},
    "joint/position": JOINT_HZ,
    "action/executed": COMMAND_HZ,
    "action/requested": COMMAND_HZ,
}
STREAMS = {
    **{f"camera/{name}": {"topic": f"camera/{name}/image_raw", "message": "image"} for name in CAMERAS},
    "joint/position": {"topic": "joint_states", "message": "joint_state"},
}


def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Record both ways; the criteria are about the lossless one."""
    duration_s = QUICK_S if quick else DURATION_S
    lossless, jpeg = (run_load(duration_s, encoding) for encoding in ("lossless", "jpeg"))
    missing = sum(max(lossless["published"][s] - lossless["read_back"][s], 0) for s in lossless["published"])
    criteria = [
        *sent_criteria(lossless["published"], duration_s),
        exactly("published and not read back", missing, "samples", 0),
        exactly("streams whose counts do not add up", len(lossless["unequal"]), "streams", 0),
        exactly("samples read back with another stamp or value", lossless["wrong"], "samples", 0),
        below("recorder_node, user and system", lossless["cpu_percent"], "% of a core", CPU_LIMIT_PERCENT),
        below("growth of its memory meanwhile", lossless["growth_mb"], "MB", GROWTH_LIMIT_MB),
    ]
    return criteria, {"duration_s": duration_s, "lossless": lossless, "jpeg": jpeg}


def sent_criteria(published: dict[str, int], duration_s: float) -> list[Criterion]:
    """Ask of every stream that it was really published at its rate."""
    return [
        at_least(f"{name}: published, of {rate_hz} Hz", published[name] / (rate_hz * duration_s), "of all", SENT_MIN)
        for name, rate_hz in RATES_HZ.items()
    ]


def run_load(duration_s: float, encoding: str) -> dict[str, Any]:
    """Record `duration_s` of the load into a dataset of its own, and compare it with what was published."""
    with tempfile.TemporaryDirectory(prefix="recorder_load_") as folder:
        os.environ |= _environment()
        end, far_end = multiprocessing.Pipe()
        source = multiprocessing.get_context("spawn").Process(target=_publish, args=(far_end,), daemon=True)
        source.start()
        try:
            with (Path(folder) / "recorder.log").open("w+") as log:
                outcome = _record(Path(folder), duration_s, encoding, end, log)
            sent = outcome.pop("sent")
            return outcome | _compare(Path(folder) / "dataset", sent, encoding)
        finally:
            source.kill()


def _environment() -> dict[str, str]:
    from armature_ros.graph import ONE_THREAD, graph_environment

    return graph_environment(60 + os.getpid() % 40) | ONE_THREAD


def _record(folder: Path, duration_s: float, encoding: str, source: Connection, log: Any) -> dict[str, Any]:
    """Start recorder_node, record, and return what it counted and used, and the stamps that were sent."""
    process = subprocess.Popen(_command(folder, encoding), stdout=log, stderr=log)
    try:
        with _Services() as services:
            # The transport's buffers and the allocator's fill up at first; an episode thrown away shows what stays.
            services.start()
            time.sleep(WARM_UP_PART * duration_s)
            services.discard()
            begin_ns = json.loads(services.start())["begin_ns"]
            used = _watch(psutil.Process(process.pid), duration_s)
            source.send("stop")
            if not source.poll(PATIENCE_S):
                raise RuntimeError("the publishing process does not answer")
            sent = {name: [s for s in stamps if s[0] >= begin_ns] for name, stamps in source.recv().items()}
            answer = json.loads(services.end())
        process.terminate()
        code = process.wait(PATIENCE_S)
        if code:
            log.seek(0)
            raise RuntimeError(f"recorder_node ended with {code}: {log.read()}")
    finally:
        process.kill()
    return used | {"sent": sent, "counts": answer["counts"]}


def _command(folder: Path, encoding: str) -> list[str]:
    from armature_ros.config_files import config_folder

    (folder / "spec.json").write_text(json.dumps(_spec().to_json()))
    parameters: dict[str, Any] = {
        "dataset": str(folder / "dataset"),
        "robot": {"spec_file": str(folder / "spec.json"), "task": "load"},
        "streams": STREAMS,
        "encodings": {f"camera/{name}": encoding for name in CAMERAS},
    }
    (folder / "load.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    files = (config_folder() / "recorder_node.yaml", folder / "load.yaml")
    arguments = [word for file in files for word in ("--params-file", str(file))]
    return [sys.executable, "-m", "armature_ros.recorder_node", "--ros-args", *arguments]


def _spec() -> Any:
    from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec

    joints = ArraySpec("joint/position", (len(JOINTS),), "float64", "rad", labels=JOINTS)
    cameras = [ArraySpec(f"camera/{name}", (HEIGHT_PX, WIDTH_PX, 3), "uint8", "rgb8") for name in CAMERAS]
    action = ActionSpec("joint_position", (joints,), float(COMMAND_HZ))
    return RobotSpec("load", ObservationSpec((*cameras, joints), float(CAMERA_HZ)), action)


class _Services:
    """Calls the recorder's services from a node of this process."""

    def __enter__(self) -> _Services:
        import rclpy
        from std_srvs.srv import SetBool, Trigger

        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("load_driver", context=self._context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._start = self._node.create_client(Trigger, "recorder_node/start")
        self._discard = self._node.create_client(Trigger, "recorder_node/discard")
        self._end = self._node.create_client(SetBool, "recorder_node/end")
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.shutdown()

    def start(self) -> str:
        """Start an episode as soon as the recorder hears everyone."""
        from std_srvs.srv import Trigger

        deadline_s = time.monotonic() + PATIENCE_S
        while not (answer := self._call(self._start, Trigger.Request())).success:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the recorder does not start: {answer.message}")
            time.sleep(0.2)
        return answer.message

    def discard(self) -> None:
        """Throw the episode away."""
        from std_srvs.srv import Trigger

        self._accepted(self._call(self._discard, Trigger.Request()))

    def end(self) -> str:
        """End it as a success."""
        from std_srvs.srv import SetBool

        return self._accepted(self._call(self._end, SetBool.Request(data=True)))

    def _accepted(self, answer: Any) -> str:
        if not answer.success:
            raise RuntimeError(f"the recorder refuses: {answer.message}")
        return answer.message

    def _call(self, client: Any, request: Any) -> Any:
        if not client.wait_for_service(timeout_sec=PATIENCE_S):
            raise RuntimeError(f"nobody offers {client.srv_name}")
        future = client.call_async(request)
        self._executor.spin_until_future_complete(future, timeout_sec=PATIENCE_S)
        return future.result()


def _watch(process: psutil.Process, duration_s: float) -> dict[str, Any]:
    """Wait while a process works; return how much of a core and of memory it took."""
    begin_s, before = time.monotonic(), process.cpu_times()
    times_s, resident_mb = [], []
    while (elapsed_s := time.monotonic() - begin_s) < duration_s:
        times_s.append(elapsed_s)
        resident_mb.append(process.memory_info().rss / 1e6)
        time.sleep(SAMPLE_PERIOD_S)
    after = process.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    return {
        "cpu_percent": round(100 * used_s / (time.monotonic() - begin_s), 1),
        "cpu_user_percent": round(100 * (after.user - before.user) / (time.monotonic() - begin_s), 1),
        "growth_mb": round(duration_s * float(np.polyfit(times_s, resident_mb, 1)[0]), 2),
        "memory_mb": {"first": resident_mb[0], "last": resident_mb[-1], "peak": max(resident_mb)},
    }


def _compare(dataset: Path, sent: dict[str, list[tuple[int, int]]], encoding: str) -> dict[str, Any]:
    """Read everything back; `sent` holds by stream the stamps and which of its frames or values each had."""
    from data_collection.store import open_dataset

    (episode,) = open_dataset(dataset).episodes
    published = {name: len(stamps) for name, stamps in sent.items()}
    read_back = {name: episode.length(name) for name in sent}
    counts = episode.metadata["counts"]
    unequal = [
        name
        for name in sent
        if {published[name], *(counts[name][key] for key in ("received", "recorded", "committed"))} != {read_back[name]}
    ]
    wrong = sum(_count_wrong(episode, name, stamps, encoding) for name, stamps in sent.items())
    size_bytes = sum(file.stat().st_size for file in dataset.rglob("*") if file.is_file())
    return {
        "published": published,
        "read_back": read_back,
        "unequal": unequal,
        "wrong": wrong,
        "dataset_mb": round(size_bytes / 1e6, 1),
    }


def _count_wrong(episode: Any, name: str, sent: list[tuple[int, int]], encoding: str) -> int:
    """Count the samples that are not what was sent: exactly, or of a JPEG nearly."""
    which, frames = dict(sent), _frames(name) if name.startswith("camera/") else None
    wrong = 0
    for stamps_ns, _, values in episode.blocks(name):
        for stamp_ns, value in zip(stamps_ns.tolist(), values, strict=True):
            if stamp_ns not in which:
                wrong += 1
            elif frames is None:
                wrong += not np.array_equal(value, _values(which[stamp_ns]))
            elif encoding == "lossless":
                wrong += not np.array_equal(value, frames[which[stamp_ns]])
            else:
                difference = value[::8, ::8].astype(np.int16) - frames[which[stamp_ns]][::8, ::8]
                wrong += bool(np.abs(difference).mean() > 5)
    return wrong


def _frames(name: str) -> np.ndarray:
    """Make frames like those of a camera: smooth surfaces, a thing that moves, and the sensor's noise."""
    rng = np.random.default_rng(len(name))
    rows, columns = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
    surface = 90 + 60 * np.sin(columns / 120)[..., None] + 40 * np.cos(rows / 90)[..., None] * np.array([1, 0.8, 0.6])
    frames = np.empty((FRAMES, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    for k in range(FRAMES):
        scene = surface + rng.normal(0, 3, surface.shape)
        scene[200:280, 20 * k : 20 * k + 80] = (200, 60, 40)
        frames[k] = np.clip(scene, 0, 255)
    return frames


def _values(number: int) -> np.ndarray:
    return np.sin(0.001 * number + np.arange(len(JOINTS)))


def _publish(end: Connection) -> None:
    """Publish until told to stop, then answer with the stamp and the number of everything that was sent."""
    import rclpy

    rclpy.init()
    node = rclpy.create_node("load_source")
    publishers = _publishers(node)
    begin_ns = time.monotonic_ns()
    # Unsynchronised sources: their phases are spread over the period.
    due = [(begin_ns + i * 1_300_000, name) for i, name in enumerate(publishers)]
    heapq.heapify(due)
    sent: dict[str, list[tuple[int, int]]] = {name: [] for name in publishers}
    while not end.poll():
        due_ns, name = due[0]
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        publish, count, period_ns = publishers[name]
        number = len(sent[name]) % count
        stamp_ns = time.time_ns()
        publish(number, stamp_ns)
        sent[name].append((stamp_ns, number))
        heapq.heapreplace(due, (due_ns + period_ns, name))
    end.send(sent)
    time.sleep(PATIENCE_S)  # a reliable writer has to live until its last message is acknowledged; killed before
    node.destroy_node()


def _publishers(node: Any) -> dict[str, tuple[Any, int, int]]:
    """Return by stream: the function that publishes a numbered sample, how many there are, the period [ns]."""
    from sensor_msgs.msg import Image, JointState
    from trajectory_msgs.msg import JointTrajectory

    from armature_ros.conversions import action_to_msg, image_to_msg, joint_state_to_msg, time_from_ns
    from armature_ros.qos import published_stream_qos

    qos = published_stream_qos(lockstep=False)

    def camera(name: str) -> tuple[Any, int, int]:
        publisher = node.create_publisher(Image, f"{name}/image_raw", qos)
        messages = [image_to_msg(frame, 0, name) for frame in _frames(name)]

        def publish(number: int, stamp_ns: int) -> None:
            messages[number].header.stamp = time_from_ns(stamp_ns)
            publisher.publish(messages[number])

        return publish, FRAMES, 10**9 // CAMERA_HZ

    def vector(topic: str, kind: type, make: Any, rate_hz: int) -> tuple[Any, int, int]:
        publisher = node.create_publisher(kind, topic, qos)
        return lambda number, stamp_ns: publisher.publish(make(number, stamp_ns)), 10**6, 10**9 // rate_hz

    def command(number: int, stamp_ns: int) -> Any:
        return action_to_msg(_values(number), JOINTS, stamp_ns, 10**9 // COMMAND_HZ)

    def state(number: int, stamp_ns: int) -> Any:
        return joint_state_to_msg(JOINTS, _values(number), stamp_ns)

    return {
        **{f"camera/{name}": camera(f"camera/{name}") for name in CAMERAS},
        "joint/position": vector("joint_states", JointState, state, JOINT_HZ),
        "action/executed": vector("control/executed", JointTrajectory, command, COMMAND_HZ),
        "action/requested": vector("control/requested", JointTrajectory, command, COMMAND_HZ),
    }


if __name__ == "__main__":
    sys.exit(main(Path(__file__).stem, measure))
