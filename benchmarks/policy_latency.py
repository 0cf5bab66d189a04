"""How long does a chunk take: eager, torch.compile, engine, and a DiffusionPolicy of lerobot of the same size?

Untrained policies of each preset answer one observation at a time: seven joints, a gripper, two poses, no camera and
no prompt, so that of `paper` what samples the chunk is measured, not its encoders of images and text. One `infer` is
measured, from arrays to the chunk of actions in physical units. All ways of a preset take turns, chunk by chunk, so
that whatever else the machine does meets them alike. `paper` is measured on a GPU only. The engine is OpenVINO on a CPU
and a CUDA graph on a GPU; each was compared with eager when it was loaded (1e-4 of normalised units).

Bounds are for `small`, which takes minutes on a CPU: with --quick `tiny` is measured there, which is only reported.

lerobot is measured where ARMATURE_LEROBOT_PYTHON names a Python that has it, in a process of its own: the U-Net of
its DiffusionPolicy with the sizes of our `diffusion`, DDIM with as many steps, from tensors to tensors.

    python benchmarks/policy_latency.py [--threads 2] [--families bc ebt] [--no-compiled] [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import tyro
from harness import ROOT, Arguments, Criterion, at_least, main
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from armature.errors import ConfigError, unknown
from armature.normalizer import FieldStats, Normalizer
from armature.spec import (
    GRIPPER_OPENING,
    JOINT_POSITION,
    OBJECT_POSE,
    TCP_POSE,
    ActionSpec,
    ArraySpec,
    ObservationSpec,
    RobotSpec,
)
from armature.testing import random_observation
from policies.checkpoint import load_policy, save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.export import export_engine
from policies.language import TextConfig
from policies.nets.observation import VisionConfig
from policies.presets.catalog import PRESETS
from policies.registry import METHODS, family_of
from policies.train_config import TrainConfig

LEROBOT = "ARMATURE_LEROBOT_PYTHON"
ENGINE_MIN, CACHE_MIN = 2.0, 1.5
DEVICES, SIZES = ("cpu", "cuda"), ("tiny", "small", "paper")
RATE_HZ = 20
WARM_UP = 5

Answer = Callable[[], float]
"""Makes one chunk and returns the seconds it took."""


@dataclass(frozen=True)
class LatencyArguments(Arguments):
    """What to measure."""

    families: tuple[str, ...] = tuple(METHODS)
    devices: tuple[str, ...] = DEVICES
    """Those of them that are there."""
    sizes: tuple[str, ...] = SIZES
    """Those of them that are measured on a device."""
    threads: int = 1
    """CPU threads of torch, OpenVINO and lerobot."""
    compiled: bool = True
    """Measure torch.compile too, which takes minutes to compile for each preset."""


def measure(arguments: LatencyArguments) -> tuple[list[Criterion], dict[str, Any]]:
    """Time every preset on every device; criteria are about `small` on the CPU."""
    for kind, given, valid in (("device", arguments.devices, DEVICES), ("size", arguments.sizes, SIZES)):
        for each in given:
            if each not in valid:
                raise ConfigError(unknown(kind, each, valid))
    torch.set_num_threads(arguments.threads)
    latencies: dict[str, dict[str, Any]] = {}
    skipped: list[str] = []
    if "cuda" in arguments.devices and not torch.cuda.is_available():
        skipped.append("GPU, and with it the presets `paper`: none here")
    for preset, device in planned(arguments):
        print(f"{preset} on {device} …", flush=True)
        with tempfile.TemporaryDirectory(prefix="latency-") as folder:
            latencies[f"{preset} on {device}"] = measure_preset(preset, device, Path(folder), arguments, skipped)
    print_table(latencies, skipped)
    details = {"ms": latencies, "not_measured": skipped, "threads": arguments.threads}
    return criteria(latencies), details


def planned(arguments: LatencyArguments) -> list[tuple[str, str]]:
    """Return the presets with their devices."""
    places = {"cpu": ("tiny",) if arguments.quick else ("tiny", "small")}
    if torch.cuda.is_available():
        places["cuda"] = ("small",) if arguments.quick else ("small", "paper")
    return [
        (f"{family}_{size}", device)
        for device in arguments.devices
        for family in arguments.families
        for size in places.get(device, ())
        if size in arguments.sizes
    ]


def is_bounded(preset: str, device: str) -> bool:
    """Tell whether `criteria` asks something of a preset on a device."""
    return preset.endswith("_small") and (device == "cpu" or has_cache(PRESETS[preset](Path(), Path())))


def has_cache(config: TrainConfig) -> bool:
    """Tell whether a method can keep fused experts."""
    return hasattr(config.method, "cache_experts")


def measure_preset(
    preset: str, device: str, folder: Path, arguments: LatencyArguments, skipped: list[str]
) -> dict[str, Any]:
    """Return, for every way to compute the preset's chunk, p50 and p99 in milliseconds."""
    config = PRESETS[preset](Path(), Path())
    config = replace(config, policy=replace(config.policy, vision=VisionConfig(), text=TextConfig()))
    path = save_checkpoint(folder / "checkpoint", untrained(config), {})
    answers: dict[str, Answer] = {"eager": answer_of(load_policy(path, device))}
    if has_cache(config):
        plain = replace(config, method=replace(config.method, cache_experts=False))
        uncached = save_checkpoint(folder / "uncached", untrained(plain), {})
        answers["eager, no cache"] = answer_of(load_policy(uncached, device))
    made_s: dict[str, float] = {}
    if device == "cpu":
        begin_s = time.perf_counter()
        export_engine(path)
        made_s["export"] = time.perf_counter() - begin_s
    for engine in ("auto", *(["compiled"] if arguments.compiled and not arguments.quick else [])):
        begin_s = time.perf_counter()
        policy = load_policy(path, device, engine=engine)
        made_s[f"load {policy.engine.name}"] = time.perf_counter() - begin_s
        answers[policy.engine.name] = answer_of(policy)
    if preset.startswith("diffusion_"):
        answers |= lerobot_answer(config, device, arguments.threads, skipped)
    found = take_turns(answers, 20 if arguments.quick else 200)
    return {name: percentiles(seconds) for name, seconds in found.items()} | {"made_s": made_s}


def untrained(config: TrainConfig) -> ChunkPolicy:
    """Make a policy with random weights, whose statistics are the bounds of the spec."""
    spec = robot()
    bounds = {array.name: np.array([array.low, array.high]) for array in spec.observation}
    bounds["action"] = np.stack([spec.action.low, spec.action.high])
    fields = {name: FieldStats.of(value) for name, value in bounds.items()}
    torch.manual_seed(0)
    normalizer = Normalizer(fields, dict.fromkeys(fields, "limits"))
    return ChunkPolicy(family_of(config.method), config.policy, config.method, spec, normalizer).eval()


def robot() -> RobotSpec:
    """Return an arm with seven joints and a gripper that sees two poses besides."""

    def array(name: str, size: int, unit: str) -> ArraySpec:
        labels = tuple(f"{name} {i}" for i in range(size))
        return ArraySpec(name, (size,), "float32", unit, low=(-1.0,) * size, high=(1.0,) * size, labels=labels)

    joints, gripper = array(JOINT_POSITION, 7, "rad"), array(GRIPPER_OPENING, 1, "m")
    poses = (array(TCP_POSE, 7, "m"), array(OBJECT_POSE, 7, "m"))
    observation = ObservationSpec((joints, gripper, *poses), RATE_HZ)
    return RobotSpec("arm", observation, ActionSpec("joint_position", (joints, gripper), RATE_HZ))


def answer_of(policy: Any) -> Answer:
    """Return a function that times one `infer`."""
    observation = random_observation(policy.spec, policy.obs_steps, np.random.default_rng(0), 0)
    policy.reset(0)

    def answer() -> float:
        begin_s = time.perf_counter()
        policy.infer(observation)
        return time.perf_counter() - begin_s

    return answer


def lerobot_answer(config: TrainConfig, device: str, threads: int, skipped: list[str]) -> dict[str, Answer]:
    """Start lerobot's policy of the same size in its own Python; note why where it does not start."""
    python = os.environ.get(LEROBOT)
    if not python:
        skipped.append(f"lerobot: {LEROBOT} names no Python that has it")
        return {}
    spec, unet = robot(), config.method.unet
    sizes = {
        "device": device,
        "threads": threads,
        "state_dim": sum(array.size for array in spec.observation),
        "action_dim": spec.action.dim,
        "obs_steps": config.policy.obs_steps,
        "chunk_steps": config.policy.chunk_steps,
        "sampling_steps": config.method.sampling_steps,
        **{name: getattr(unet, name) for name in ("dims", "kernel", "groups", "step_dim")},
    }
    command = [python, str(ROOT / "benchmarks" / "lerobot_latency.py"), json.dumps(sizes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ready = _line(process.stdout)
    if not ready:
        skipped.append(f"lerobot: ended with exit code {process.wait()}")
        return {}
    print(f"lerobot: {json.loads(ready)['parameters']:,} parameters")

    def answer() -> float:
        print(file=process.stdin, flush=True)
        return float(_line(process.stdout))

    return {"lerobot": answer}


def _line(stream: IO[str] | None) -> str:
    return "" if stream is None else stream.readline()


def take_turns(answers: dict[str, Answer], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Return the seconds of each answer, (rounds,), one of each per round."""
    for answer in answers.values():
        for _ in range(WARM_UP):
            answer()
    found: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(rounds):
        for name, answer in answers.items():
            found[name].append(answer())
    return {name: np.array(seconds) for name, seconds in found.items()}


def percentiles(seconds: NDArray[np.float64]) -> dict[str, float]:
    """Return p50, p99 and the least, in milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99), "min": 1e3 * float(seconds.min())}


def criteria(latencies: dict[str, dict[str, Any]]) -> list[Criterion]:
    """Ask of every `small` on the CPU that its engine is twice as fast as eager, and of MoDE that its cache pays."""
    asked: list[Criterion] = []
    for where, found in latencies.items():
        if where.endswith("_small on cpu"):
            ratio = found["eager"]["p50"] / found["openvino"]["p50"]
            asked.append(at_least(f"{where}: engine faster than eager, p50", ratio, "x", ENGINE_MIN))
        if "_small on " in where and "eager, no cache" in found:
            ratio = found["eager, no cache"]["p50"] / found["eager"]["p50"]
            asked.append(at_least(f"{where}: cached experts faster, p50", ratio, "x", CACHE_MIN))
    return asked


def print_table(latencies: dict[str, dict[str, Any]], skipped: list[str]) -> None:
    """Show every way beside eager."""
    table = Table(title="one chunk, batch of one", title_justify="left")
    for heading in ("preset", "computed by", "p50 ms", "p99 ms", "least ms", "eager/this"):
        table.add_column(heading, justify="left" if heading in ("preset", "computed by") else "right")
    for where, found in latencies.items():
        for name, ms in found.items():
            if name != "made_s":
                figures = [f"{ms[which]:.2f}" for which in ("p50", "p99", "min")]
                table.add_row(where, name, *figures, f"{found['eager']['p50'] / ms['p50']:.2f} x")
    console = Console()
    console.print(table)
    for reason in dict.fromkeys(skipped):
        console.print(f"not measured: {reason}", markup=False)


if __name__ == "__main__":
    given = tyro.cli(LatencyArguments, prog="benchmarks/policy_latency.py", description=__doc__)
    reports_only = not any(is_bounded(*each) for each in planned(given))
    raise SystemExit(main("policy_latency", lambda quick: measure(given), given, reports_only=reports_only))
