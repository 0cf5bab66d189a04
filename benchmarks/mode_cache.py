"""MoDE: what are experts worth that are fused once for every sampling step?

The same chunk, from the same noise, is sampled with the cache and without, in turn, on one thread. Without it a step
runs each layer's router on the one noise level and then the two experts that it chose, one after the other; nothing
is computed for the others, and nothing is gathered. Fusing changes no product of these: what it can save is the
router, and the overhead of narrow matrices. The paper's count of operations leaves the cached experts out altogether.

    python benchmarks/mode_cache.py [--quick] [--json FILE]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from harness import Criterion, at_least, below, main
from rich.console import Console
from rich.table import Table

from policies.context import Context, ContextSpec
from policies.mode import Mode
from policies.presets.catalog import PRESETS

STATE_DIM, ACTION_DIM = 5, 2
GAIN_MIN, DIFFERENCE_MAX = 1.5, 1e-5
ROUNDS, ROUNDS_QUICK, ROUNDS_PAPER = 200, 20, 5
BYTES_PER_WEIGHT = 8
"""A weight in float32, and its copy in the cache where every expert is in one set."""
HEADROOM = 1.5


def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Time `small`, and `paper` where the memory is large enough; the criteria are about `small`."""
    torch.set_num_threads(1)
    rounds = ROUNDS_QUICK if quick else ROUNDS
    results = {"small": compare("mode_small", rounds)}
    if not quick and fits("mode_paper"):
        results["paper"] = compare("mode_paper", ROUNDS_PAPER)
    show(results)
    small = results["small"]
    criteria = [
        at_least("small: cached against uncached, median", small["gain"], "x", GAIN_MIN),
        below("small: greatest difference of an action", small["difference"], "", DIFFERENCE_MAX),
    ]
    return criteria, results


def compare(preset: str, rounds: int) -> dict[str, float]:
    """Return milliseconds per chunk (median) with and without the cache, their ratio and the actions' difference."""
    sample = sampler(preset)
    started = time.perf_counter()
    chunks = {cached: sample(cached) for cached in (True, False)}
    built_ms = (time.perf_counter() - started) * 1e3
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for cached, taken in times.items():
            started = time.perf_counter()
            sample(cached)
            taken.append((time.perf_counter() - started) * 1e3)
    cached_ms, uncached_ms = (statistics.median(times[cached]) for cached in (True, False))
    return {
        "cached_ms": cached_ms,
        "uncached_ms": uncached_ms,
        "cached_best_ms": min(times[True]),
        "uncached_best_ms": min(times[False]),
        "gain": uncached_ms / cached_ms,
        "first_of_each_ms": built_ms,
        "difference": (chunks[True] - chunks[False]).abs().max().item(),
    }


def sampler(preset: str) -> Callable[[bool], torch.Tensor]:
    """Make a function that samples always the same chunk, with or without the cache."""
    config = PRESETS[preset](Path(), Path())
    steps, chunk = config.policy.obs_steps, config.policy.chunk_steps
    torch.manual_seed(0)
    mode = Mode(config.method, ACTION_DIM, chunk, ContextSpec(steps, STATE_DIM)).eval()
    context = Context(torch.rand(1, steps, STATE_DIM), torch.zeros(1, steps, 0, 0))
    noise = torch.randn(1, chunk, ACTION_DIM)

    @torch.no_grad()
    def sample(cached: bool) -> torch.Tensor:
        mode.config = replace(mode.config, cache_experts=cached)
        return mode.sample(context, noise).actions

    return sample


def fits(preset: str) -> bool:
    """Tell whether the preset and a full cache of it fit into the memory that is free."""
    config = PRESETS[preset](Path(), Path())
    with torch.device("meta"):
        mode = Mode(config.method, ACTION_DIM, config.policy.chunk_steps, ContextSpec(1, STATE_DIM))
    needed = sum(p.numel() for p in mode.parameters()) * BYTES_PER_WEIGHT * HEADROOM
    return psutil.virtual_memory().available > needed


def show(results: dict[str, dict[str, float]]) -> None:
    """Print milliseconds per chunk."""
    table = Table("preset", "cached ms", "uncached ms", "gain", "best ms", "difference", title="MoDE, one thread")
    for name, r in results.items():
        best = f"{r['cached_best_ms']:.2f} / {r['uncached_best_ms']:.2f}"
        figures = (f"{r['cached_ms']:.2f}", f"{r['uncached_ms']:.2f}", f"{r['gain']:.2f}", best)
        table.add_row(name, *figures, f"{r['difference']:.1e}")
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main("mode_cache", measure))
