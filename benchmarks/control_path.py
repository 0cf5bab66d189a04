"""What does the control path cost? The gate per step, the loop's deadlines, and the way from a camera to the arm.

- Gate: one `SafetyGate.check` of the Franka arm (7 joints and a gripper), following a moving target within the limits,
  and cutting down requests that ask for too much. Beside it, in turn, what others do instead: `np.clip` to the range.
- Loop: the thread of `control_node` at 100 Hz with the real path (chunks, gate), without ROS: missed deadlines.
- Camera to command: the graph `robot` with two camera nodes (640x480, 30 Hz, from a file), the stand-in for an arm and
  a small network; from the stamp of the newest frame that a chunk answers until its first command goes out, without the
  network's own time. A chunk waits for the next tick of the control loop, 5 ms on average at the usual 100 Hz; so
  also with a loop at 250 Hz.

    python benchmarks/control_path.py [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from graph_probe import GraphProbe
from harness import Arguments, Criterion, at_least, main
from std_msgs.msg import String
from swinging import START, fer_spec

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.control_path import ControlPath
from armature.control.residual import NoResidual
from armature.control.safety_gate import SafetyGate
from armature.normalizer import FieldStats, Normalizer
from armature.types import ActionChunk, Sample, Tick
from armature_ros.graph import graph_environment, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import reliable_qos
from armature_ros.steady_loop import SteadyLoop
from policies.checkpoint import save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.presets.catalog import PRESETS
from policies.registry import family_of
from sim.defaults import robot_limits

PERIOD_NS = 10_000_000
GATE_MEDIAN_MAX_US, GATE_P999_MAX_US = 30.0, 300.0
OVERRUNS_MAX_SHARE = 0.001
TICKS_MIN_SHARE = 0.99
"""Of the ticks that the rate comes to: a loop that stood still has missed no deadline."""
CHUNKS_MIN_SHARE = 0.5
"""Of the policy's action periods, each of which may bring a chunk: of few the quantiles say nothing."""
CAMERA_P50_MAX_MS, CAMERA_P99_MAX_MS = 8.0, 20.0
GATE_STEPS, LOOP_S, CAMERA_S = 20_000, 60.0, 60.0
QUICK = {"steps": 2_000, "loop_s": 5.0, "camera_s": 10.0}
CONTROL_RATES_HZ = (100.0, 250.0)
FRAMES = 60


@dataclass(frozen=True)
class PathArguments(Arguments):
    """What can be asked of this benchmark."""

    domain_id: int = 78


def measure(arguments: PathArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Measure the three, one after the other."""
    wanted = QUICK if quick else {"steps": GATE_STEPS, "loop_s": LOOP_S, "camera_s": CAMERA_S}
    criteria: list[Criterion] = []
    details: dict[str, Any] = {}
    for name, ask in (("following", _follows), ("cutting down", _asks_too_much)):
        times_us, clips_us = gate_times_us(ask, int(wanted["steps"]))
        details[f"gate, {name}, us"] = _quantiles(times_us)
        details[f"np.clip beside it, {name}, us"] = _quantiles(clips_us)
        criteria.append(_most(f"gate, {name}, median", statistics.median(times_us), "us", GATE_MEDIAN_MAX_US))
        criteria.append(_most(f"gate, {name}, p99.9", float(np.percentile(times_us, 99.9)), "us", GATE_P999_MAX_US))
    ticks, overruns = loop_overruns(wanted["loop_s"])
    details["loop"] = {"ticks": ticks, "overruns": overruns}
    due = wanted["loop_s"] * 1e9 / PERIOD_NS
    criteria.append(at_least("loop at 100 Hz, ticks", ticks / due, "of all", TICKS_MIN_SHARE))
    criteria.append(_most("loop at 100 Hz, missed deadlines", overruns / max(ticks, 1), "of all", OVERRUNS_MAX_SHARE))
    for rate_hz in CONTROL_RATES_HZ:
        parts_ms = camera_to_command_ms(arguments.domain_id, wanted["camera_s"], rate_hz)
        name, total_ms = f"camera to command at {rate_hz:g} Hz", [a + b for a, b in parts_ms]
        details[f"{name}, ms"] = {
            "count": len(parts_ms),
            "all": _quantiles(total_ms),
            "camera to network": _quantiles([a for a, _ in parts_ms]),
            "network to command": _quantiles([b for _, b in parts_ms]),
        }
        chunks_min = CHUNKS_MIN_SHARE * fer_spec().action.rate_hz * wanted["camera_s"]
        criteria.append(at_least(f"{name}, chunks", len(parts_ms), "", chunks_min))
        for q, limit in ((50, CAMERA_P50_MAX_MS), (99, CAMERA_P99_MAX_MS)):
            criteria.append(_most(f"{name}, p{q}", _quantile(total_ms, q), "ms", limit))
    return criteria, details


def _most(name: str, value: float, unit: str, limit: float) -> Criterion:
    return Criterion(name, value, unit, f"<= {limit:g}", bool(value <= limit))


def _quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{q:g}": _quantile(values, q) for q in (50, 90, 99, 99.9, 100)}


def _quantile(values: list[float], q: float) -> float:
    return float(np.percentile(values, q)) if values else float("nan")


def gate_times_us(ask: Any, steps: int) -> tuple[list[float], list[float]]:
    """Return the times [us] of each step of the gate, the arm being where it was commanded to be, and of `np.clip`."""
    action = fer_spec().action
    gate = SafetyGate(action, robot_limits("fer").safety("run"), PERIOD_NS)
    measured, times_us, clips_us = START, list[float](), list[float]()
    gate.arm(Tick(0, 0), Sample(0, 0, measured))
    for k in range(steps):
        now_ns = k * PERIOD_NS
        requested, sample = ask(now_ns / 1e9), Sample(now_ns, now_ns, measured)
        begin_ns = time.perf_counter_ns()
        command = gate.check(Tick(now_ns, now_ns), requested, sample, now_ns)
        gated_ns = time.perf_counter_ns()
        np.clip(requested, action.low, action.high)
        clipped_ns = time.perf_counter_ns()
        times_us.append((gated_ns - begin_ns) / 1e3)
        clips_us.append((clipped_ns - gated_ns) / 1e3)
        measured = command.action
    return times_us, clips_us


def _follows(now_s: float) -> np.ndarray:
    return START + np.append(np.full(7, 0.2 * np.sin(2 * now_s)), 0.0)


def _asks_too_much(now_s: float) -> np.ndarray:
    # Half a radian there and back, at once, every second.
    return START + np.append(np.full(7, 0.25 * (-1) ** int(now_s)), 0.0)


def loop_overruns(duration_s: float) -> tuple[int, int]:
    """Return the ticks of the control loop and the deadlines that it missed."""
    action = fer_spec().action
    limits = robot_limits("fer").safety("run")
    path = ControlPath(action, limits, SchedulerConfig("receding_horizon", 8), NoResidual(), PERIOD_NS)

    def tick(steady_ns: int) -> None:
        path.take_state(Sample(steady_ns, time.monotonic_ns(), START))
        if path.needs_chunk(steady_ns):
            actions = np.stack([_follows(steady_ns / 1e9 + i / action.rate_hz) for i in range(16)])
            path.take_chunk(ActionChunk(steady_ns, steady_ns, action.period_ns, actions), steady_ns)
        path.tick(Tick(steady_ns, steady_ns))

    path.arm()
    loop = SteadyLoop(PERIOD_NS, tick)
    loop.start()
    time.sleep(duration_s)
    loop.stop()
    if loop.failure is not None:
        raise loop.failure
    return loop.ticks, loop.overruns


def camera_to_command_ms(domain_id: int, duration_s: float, rate_hz: float) -> list[tuple[float, float]]:
    """Return, for each chunk, the times from its newest frame to the network and from there to its first command."""
    os.environ.update(graph_environment(domain_id))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [subprocess.Popen(*each) for each in _commands(folder, rate_hz)]
        probe = GraphProbe()
        seen: dict[str, dict[int, dict[str, Any]]] = {"policy_node": {}, "control_node": {}}
        for node, timings in seen.items():
            probe.listen(String, f"{node}/timing", reliable_qos(1000), partial(_keep, timings))
        try:
            probe.drive(60.0, moves=False)
            time.sleep(duration_s)
        finally:
            probe.close()
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
    return list(_latencies_ms(seen["policy_node"], seen["control_node"]))


def _keep(timings: dict[int, dict[str, Any]], message: String) -> None:
    timing = json.loads(message.data)
    timings[timing["stamp_ns"]] = timing


def _latencies_ms(
    answers: dict[int, dict[str, Any]], commands: dict[int, dict[str, Any]]
) -> Iterator[tuple[float, float]]:
    for stamp_ns in answers.keys() & commands.keys():
        answer = answers[stamp_ns]
        sent_ns = commands[stamp_ns]["command_ns"]
        yield (answer["seen_ns"] - answer["camera_ns"]) / 1e6, (sent_ns - answer["answered_ns"]) / 1e6


def _commands(folder: Path, rate_hz: float) -> Iterator[tuple[list[str]]]:
    """Yield the command line of each node, cameras reading a film made here."""
    film = _film(folder / "film.avi")
    overrides = [f"control_node.flight_folder={folder}/flight", f"control_node.rate_hz={rate_hz}"]
    overrides += ["policy_node.execute_steps=1"]
    overrides += [f"camera_{name}.{key}={value}" for name in ("scene", "wrist")
                  for key, value in (("source", film), ("loop", "true"))]  # fmt: skip
    config = GraphConfig(policy=str(_checkpoint(folder / "policy")), robot="fer", mock_arm=True, execute_steps=1,
                         overrides=tuple(overrides))  # fmt: skip
    for node in make_graph("robot", config):
        yield (["env", *(f"{k}={v}" for k, v in node.environment.items()), *node.command()],)


def _film(path: Path) -> Path:
    # Not compressed, as such a camera delivers at this size: what decoding costs is the camera's matter.
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"I420"), 30.0, (640, 480))
    rng = np.random.default_rng(0)
    for _ in range(FRAMES):
        writer.write(np.kron(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8)))
    writer.release()
    return path


def _checkpoint(path: Path) -> Path:
    """Write a small network with random weights, whose actions stay within a millirad of where the arm is."""
    spec, preset = fer_spec(), PRESETS["bc_tiny"](Path(), Path())
    config = replace(preset.policy, relative_actions=True)
    bounds = {array.name: np.array([array.low, array.high]) for array in spec.observation.vectors}
    bounds["action"] = np.stack([np.append(np.full(7, -1e-3), 0.03), np.append(np.full(7, 1e-3), 0.05)])
    fields = {name: FieldStats.of(value) for name, value in bounds.items()}
    torch.manual_seed(0)
    normalizer = Normalizer(fields, dict.fromkeys(fields, "limits"))
    policy = ChunkPolicy(family_of(preset.method), config, preset.method, spec, normalizer).eval()
    return save_checkpoint(path, policy, {"dataset_fingerprint": "none", "command": "benchmark"})


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(PathArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
