"""How fast is learning by reinforcement on this machine: updates of the critics, and steps of the simulated arm?

- Critics: an update of ten critics (batch 256, two layers of 256) with all that belongs to it, as it is and compiled,
  in turn with the same update written as a loop over ten networks, and with nothing but the matrix products that an
  update cannot do without: all critics' at once and one by one, of which the faster is the limit.
- The same on a GPU, where torch sees one: there an update is a CUDA graph, and stands beside itself without one.
- Arm: steps of the environment of Lift, with all that a policy sees, in turn with robosuite's own `step`, which has one
  thread for its products as the environment has; beside them the servo of `sim/joint_servo.py` alone.

    python benchmarks/learner_speed.py [--quick] [--json FILE]
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Criterion, at_least, main
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from policies.device import compiler
from policies.replay import Batch
from policies.residual_td3 import ResidualConfig, ResidualTd3
from sim.arm_env import _single_blas_thread
from sim.environment import make_env
from sim.tasks import SimConfig

OBSERVATION_DIM, ACTION_DIM, BATCH = 24, 8, 256
ROUNDS, ROUNDS_QUICK = 200, 20
STEPS, STEPS_QUICK = 400, 60
LOOP_MIN, LIMIT_MIN, STEP_MIN = 1.5, 0.9, 4.0
LIMITS = ("matrix products, batched", "matrix products, one by one")


def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Measure both."""
    rounds = ROUNDS_QUICK if quick else ROUNDS
    update_ms = in_turn(updates_on("cpu"), rounds)
    gpu_ms = in_turn(updates_on("cuda"), rounds) if torch.cuda.is_available() else {}
    step_ms = arm_steps_ms(STEPS_QUICK if quick else STEPS)
    show(update_ms | {f"{name}, GPU": taken_ms for name, taken_ms in gpu_ms.items()} | step_ms)
    if compiler() is None:
        print("not measured: compiled critics, there is no C++ compiler here")
    limit_ms = min(update_ms[name] for name in LIMITS)
    steps_gain = step_ms["robosuite's step"] / step_ms["environment step"]
    ours = update_ms.get("ensemble, compiled", float("nan"))
    on_gpu = [
        at_least(f"critics on a GPU: against {name}", gpu_ms[name] / gpu_ms["ensemble"], "x", LOOP_MIN)
        for name in ("loop over networks", "ensemble, no graph")
        if gpu_ms
    ]
    return [
        *on_gpu,
        at_least("critics, compiled: against a loop", update_ms["loop over networks"] / ours, "x", LOOP_MIN),
        at_least("critics, compiled: share of the limit", limit_ms / ours, "", LIMIT_MIN),
        at_least("arm: environment step against robosuite's step", steps_gain, "x", STEP_MIN),
    ], {"threads": torch.get_num_threads(), "median_ms": update_ms | step_ms, "median_ms_on_gpu": gpu_ms}


def updates_on(device: str) -> dict[str, Callable[[], Any]]:
    """Return the ways to update, each done when it returns."""
    config = ResidualConfig(hidden=(256, 256))
    learner = ResidualTd3(config, OBSERVATION_DIM, ACTION_DIM, device=device)
    batch = random_batch().to(device)
    updates: dict[str, Callable[[], Any]] = {
        "ensemble": lambda: learner.update_critics(batch),
        "loop over networks": Loop(learner, device).updater(batch),
        **dict(zip(LIMITS, matrix_products(learner.config, device), strict=True)),
    }
    if device == "cpu":
        if compiler() is not None:
            compiled = ResidualTd3(replace(config, compiled=True), OBSERVATION_DIM, ACTION_DIM)
            updates["ensemble, compiled"] = lambda: compiled.update_critics(batch)
        return updates
    eager = ResidualTd3(config, OBSERVATION_DIM, ACTION_DIM, device=device)
    inputs = [*batch.tensors, torch.tensor(1.0, device=device), *eager.draw(batch.next_base)]
    updates["ensemble, no graph"] = lambda: eager.learn_critics(*inputs)
    return {name: _waited_for(update) for name, update in updates.items()}


def _waited_for(update: Callable[[], Any]) -> Callable[[], None]:
    def whole() -> None:
        update()
        torch.cuda.synchronize()

    return whole


def random_batch() -> Batch:
    """Return transitions of nothing."""
    draw = torch.Generator().manual_seed(0)
    seen, after = (torch.randn(BATCH, OBSERVATION_DIM, generator=draw) for _ in range(2))
    base, action, base_after = (torch.randn(BATCH, ACTION_DIM, generator=draw) for _ in range(3))
    return Batch(seen, base, action, torch.zeros(BATCH), torch.full((BATCH,), 0.97), after, base_after)


class Loop:
    """The same update with a network per critic: same sizes, same losses, same optimiser, same Polyak step."""

    def __init__(self, learner: ResidualTd3, device: str) -> None:
        self._learner, self._config = learner, learner.config
        inputs, hidden = OBSERVATION_DIM + 2 * ACTION_DIM, learner.config.hidden
        self.networks = [_network(inputs, hidden).to(device) for _ in range(learner.config.critics)]
        self._targets = copy.deepcopy(self.networks)
        self._parameters = [p for network in self.networks for p in network.parameters()]
        self._target_parameters = [p for network in self._targets for p in network.parameters()]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=learner.config.critic_lr, fused=True)

    def updater(self, batch: Batch) -> Callable[[], None]:
        """Return a function that takes one step on `batch`."""
        return lambda: self._update(batch)

    def _update(self, batch: Batch) -> None:
        target = self._target(batch)
        seen = torch.cat([batch.observation, batch.base, batch.action - batch.base], dim=-1)
        losses = [(network(seen)[:, 0] - target).square().mean() for network in self.networks]
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(self._parameters, self._config.grad_norm_max)
        self._optimizer.step()
        with torch.no_grad():
            for follower, parameter in zip(self._target_parameters, self._parameters, strict=True):
                follower.lerp_(parameter, self._config.polyak)

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        residual = self._learner.target_actor(batch.next_observation, batch.next_base)
        noise = torch.randn_like(residual) * self._config.smoothing_std
        residual = (residual + noise).clamp(-1, 1)
        seen = torch.cat([batch.next_observation, batch.next_base, residual], dim=-1)
        chosen = torch.randperm(self._config.critics)[: self._config.critics_of_target].tolist()
        values = torch.stack([self._targets[i](seen)[:, 0] for i in chosen])
        return (batch.reward + batch.discount * values.amin(dim=0)).clamp(0, 1)


def _network(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


def matrix_products(config: ResidualConfig, device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the products of one update, batched and one by one.

    They are those of two critics on what follows, of all on what was done, and of their gradients.
    """
    sizes = (OBSERVATION_DIM + 2 * ACTION_DIM, *config.hidden, 1)
    layers = list(pairwise(sizes))
    weights = [torch.randn(config.critics, i, o, device=device) for i, o in layers]
    inputs = [torch.randn(config.critics, BATCH, i, device=device) for i, _ in layers]
    gradients = [torch.randn(config.critics, BATCH, o, device=device) for _, o in layers]
    few = config.critics_of_target
    pairs = [(x[:few], weight[:few]) for x, weight in zip(inputs, weights, strict=True)]
    for x, weight, gradient in zip(inputs, weights, gradients, strict=True):
        pairs += [(x, weight), (x.transpose(1, 2), gradient)]
    # What the first layer was given needs no gradient.
    pairs += [(gradient, weight.transpose(1, 2)) for weight, gradient in zip(weights[1:], gradients[1:], strict=True)]
    singles = [single for pair in pairs for single in zip(*(side.unbind() for side in pair), strict=True)]

    def batched() -> None:
        for left, right in pairs:
            torch.bmm(left, right)

    def one_by_one() -> None:
        for left, right in singles:
            torch.mm(left, right)

    return batched, one_by_one


def arm_steps_ms(steps: int) -> dict[str, float]:
    """Return the median time of a control period of Lift, the arm on its way to random goals."""
    envs: list[Any] = [make_env(SimConfig("lift", cameras=False)).unwrapped for _ in range(3)]
    for env in envs:
        env.reset(seed=0)
    theirs, ours, servo = envs[0]._world, envs[1], envs[2]._servo
    rng, start = np.random.default_rng(0), ours.measured_action()
    goals = [start + np.append(rng.uniform(-0.2, 0.2, len(start) - 1), 0.0) for _ in range(10)]
    number = iter(range(3 * steps + 100))

    def goal() -> np.ndarray:
        return goals[next(number) // 15 % len(goals)]

    def their_step() -> None:
        with _single_blas_thread():
            theirs.step(np.append(goal()[:-1], 0.0))

    found = in_turn(
        {
            "robosuite's step": their_step,
            "environment step": lambda: ours.step(goal()),
            "joint servo alone": lambda: servo.step(goal()[:-1], 0.0),
        },
        steps,
    )
    for env in envs:
        env.close()
    return found


def in_turn(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median time of each function [ms], called one after the other, so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 3):
        for name, function in functions.items():
            begun = time.perf_counter()
            function()
            # The first calls compile, allocate and fill caches.
            if number >= 3:
                times[name].append((time.perf_counter() - begun) * 1e3)
    return {name: statistics.median(taken) for name, taken in times.items()}


def show(times_ms: Mapping[str, float]) -> None:
    """Print what everything takes."""
    table = Table(title="Learning by reinforcement", title_justify="left")
    table.add_column("")
    for heading in ("median ms", "per second"):
        table.add_column(heading, justify="right")
    for name, taken_ms in times_ms.items():
        table.add_row(name, f"{taken_ms:.2f}", f"{1e3 / taken_ms:.0f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main(Path(__file__).stem, measure))
