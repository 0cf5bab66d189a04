"""`armature train`: from a dataset to a checkpoint, resumable at any step.

out/checkpoint/       what `load_policy` reads: the averaged weights
out/best/             the same, of the most successful evaluation in simulation (--rollout.every-steps)
out/training_state/   what `--resume` continues from, exactly
out/tensorboard/      losses, learning rate, success
out/not_finite/       the batch that made the loss NaN or infinite, if one did

On several GPUs or machines: `accelerate launch --num_processes N -m armature.cli train --device cuda ...`, or torchrun.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from armature.config import to_plain
from armature.errors import ConfigError, InvalidValue, unknown
from policies.checkpoint import read_document, save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.dataset_torch import batch_indices
from policies.device import require_compiler, require_device
from policies.export import export_engine, require_exportable
from policies.init_from import initialised, origin_of
from policies.presets.catalog import PRESETS
from policies.provenance import provenance
from policies.registry import compiled_families, family_of
from policies.sampler import leaves
from policies.train_config import TrainConfig, read_recorded
from policies.train_data import TrainData, load_data
from policies.train_log import TrainLog, interruption
from policies.train_not_finite import FOLDER, write_not_finite
from policies.train_rollout import Best, measure_success, require_able, require_prompt, require_task
from policies.train_validation import validate
from policies.train_workers import Workers, open_workers
from policies.training_state import NotFinite, TrainingState, learning_rate

# May differ between a training and its continuation without changing what is learned; compiled, dropout is drawn anew.
_FREE_TO_CHANGE = (
    *("dataset", "out", "stop_at_step", "resume", "save_every_steps", "validate_every_steps", "threads"),
    *("windows", "cache", "rollout", "export", "device", "compiled"),
)


def train(config: TrainConfig, command: str | None = None) -> Path:
    """Train a policy and return the folder of its checkpoint.

    `command` goes into the checkpoint, by default that of this process. After Ctrl-C the state is saved, then
    KeyboardInterrupt goes on. Raises ArmatureError on a wrong config, dataset or state, InvalidValue on a loss that is
    not finite. Of many processes all return, and the first has written.
    """
    _check(config)
    # Folders of pretrained encoders are looked at first, and from here on must stay as they are.
    config = replace(config, policy=config.policy.pinned())
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng(), open_workers(config.device, config.precision, config.accumulate_steps) as workers:
        _check_parts(config, workers)
        data, state = _prepare(config, workers)
        if config.export:
            # What cannot be exported is known before the first step.
            require_exportable(state.average)
        path = _Run(config, data, state, command or shlex.join(sys.argv)).finish()
        if config.export and state.step == config.steps and workers.is_main:
            export_engine(path)
        return path


def main(argv: list[str]) -> int:
    """Run `armature train` with its arguments; print where the checkpoint lies."""
    config = parse_arguments(argv)
    path = train(config, shlex.join(["armature", "train", *argv]))
    if os.environ.get("RANK", "0") == "0":
        Console(stderr=True).print(f"checkpoint: {path}", highlight=False, soft_wrap=True)
    return 0


def parse_arguments(argv: list[str]) -> TrainConfig:
    """Read the command line over the values of `--preset`; an unknown key ends the process with exit code 2."""
    name = _preset_name(argv)
    if name not in PRESETS:
        raise ConfigError(unknown("preset", name, PRESETS))
    default = PRESETS[name](tyro.MISSING, tyro.MISSING)
    return tyro.cli(TrainConfig, prog="armature train", description=__doc__, args=argv, default=default)


def _preset_name(argv: list[str]) -> str:
    name = "lift_pixels"
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):
        if argument == "--preset":
            name = following
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    return name


def _check(config: TrainConfig) -> None:
    least = {"steps": 1, "batch_size": 1, "accumulate_steps": 1, "validate_every_steps": 1, "save_every_steps": 1,
             "stop_at_step": 1, "threads": 1, "seed": 0}  # fmt: skip
    for name, minimum in least.items():
        if (value := getattr(config, name)) is not None and value < minimum:
            raise ConfigError(f"{name} is {value}, must be at least {minimum}")
    require_device(config.device)
    if config.compiled:
        require_compiler()
        _require_compilable(config)
    if config.cache is not None and config.windows != "mapped":
        raise ConfigError(f"cache is {config.cache}, but windows is '{config.windows}'; add --windows mapped")
    if config.out.exists() and not config.out.is_dir():
        raise ConfigError(f"{config.out} is a file: choose another --out")
    has_state = (config.out / "training_state").exists()
    if has_state and not config.resume:
        raise ConfigError(f"{config.out}: holds a training already; continue it with --resume or choose another --out")


def _require_compilable(config: TrainConfig) -> None:
    family, able = family_of(config.method), compiled_families()
    if family not in able:
        raise ConfigError(f"compiled: nothing of {family} is compiled in training. Valid families: {', '.join(able)}")


def _check_parts(config: TrainConfig, workers: Workers) -> None:
    if config.batch_size % workers.parts:
        parts = f"{workers.count} processes times {config.accumulate_steps} accumulate_steps"
        raise ConfigError(f"batch_size is {config.batch_size}: must be a multiple of {workers.parts}, {parts}")


def _prepare(config: TrainConfig, workers: Workers) -> tuple[TrainData, TrainingState]:
    console = Console(stderr=True, quiet=not workers.is_main)
    with console.status(f"reading {config.dataset}"), workers.first_here():
        dataset, data = load_data(config, str(workers.device))
    if data.validation is None and config.validation_fraction > 0:
        console.print(f"{config.dataset}: one episode to learn from, so none is left to validate on", soft_wrap=True)
    seen = config.policy.seen(dataset.spec)
    if config.rollout.every_steps:
        require_task(config.rollout, seen)
        require_able(config.rollout, family_of(config.method), config.policy.goal_steps)
        require_prompt(config.rollout, data.prompts)
    torch.manual_seed(config.seed)
    normalizer = data.train.normalizer(seen)
    policy = ChunkPolicy(family_of(config.method), config.policy, config.method, dataset.spec, normalizer)
    policy = initialised(policy, config)
    if data.prompts:
        policy.set_prompts(data.prompts)
    state = TrainingState(policy.to(workers.device), config.optimizer, workers)
    if config.compiled:
        policy.method.compile_training()
    if config.resume:
        state.load(config.out / "training_state", partial(_require_same, config, data, workers))
    return data, state


def _require_same(config: TrainConfig, data: TrainData, workers: Workers, document: Mapping[str, Any]) -> None:
    if document["dataset_fingerprint"] != data.fingerprint:
        found = f"{data.fingerprint}, the training began with {document['dataset_fingerprint']}"
        raise ConfigError(f"{config.dataset}: the dataset's fingerprint is {found}")
    recorded = to_plain(read_recorded(document["config"], config))
    before, now = (dict(leaves(plain)) for plain in (recorded, _recorded(config, workers)))
    for name in {**now, **before}:
        if name.partition(".")[0] not in _FREE_TO_CHANGE and before.get(name) != now.get(name):
            raise ConfigError(f"--resume: {name} is {now.get(name)}, the training began with {before.get(name)}")


def _recorded(config: TrainConfig, workers: Workers) -> dict[str, Any]:
    """Return the config that a continuation has to have: any number of processes, as long as the parts are as many."""
    return to_plain(config) | {"accumulate_steps": workers.parts}


def _is_due(step: int, every: int, end: int) -> bool:
    return step % every == 0 or step == end


class _Run:
    """One training from its present step to its end."""

    def __init__(self, config: TrainConfig, data: TrainData, state: TrainingState, command: str) -> None:
        self.config, self.data, self.state, self.workers = config, data, state, state.workers
        self.end = config.steps if config.stop_at_step is None else min(config.steps, config.stop_at_step)
        self.origin = provenance(data.fingerprint, command) | origin_of(config)
        self.summary: dict[str, Any] = {**data.summary, "config": to_plain(config), "processes": self.workers.count}
        self.best = Best(config.out / "best", config.rollout, state.step)

    def finish(self) -> Path:
        """Train to the end, or to an interruption in any of the processes; return the folder of the checkpoint."""
        state, config = self.state, self.config
        log = TrainLog(config.out / "tensorboard", state.step, config.steps, self.workers.is_main)
        is_stopped = False
        with log, interruption() as interrupted:
            if state.step > 0:
                self._catch_up(log)
            begin_s = time.monotonic() - state.seconds
            while state.step < self.end and not is_stopped:
                self._step(log)
                state.seconds = time.monotonic() - begin_s
                self.summary["seconds"] = round(state.seconds, 1)
                if self.data.validation and _is_due(state.step, config.validate_every_steps, self.end):
                    self._validate(log)
                paused_s = time.monotonic()
                is_due = _is_due(state.step, config.save_every_steps, self.end)
                if is_due and self._is_measured():
                    # An evaluation that raises, or takes the process with it, loses nothing then.
                    self._save(is_best=False)
                is_best = self._evaluate(log)
                begin_s += time.monotonic() - paused_s
                is_stopped = self.workers.total(interrupted.is_set()) > 0
                if is_due or is_stopped or is_best:
                    self._save(is_best)
        if is_stopped:
            raise KeyboardInterrupt
        return config.out / "checkpoint"

    def _catch_up(self, log: TrainLog) -> None:
        """Evaluate, and write the checkpoint, where the process that saved the state ended before it could."""
        path, step = self.config.out / "checkpoint", self.state.step
        training = read_document(path)["provenance"]["training"] if path.exists() else {}
        lacks_checkpoint = step >= self.end and training.get("steps") != step
        if lacks_checkpoint or (self._is_measured() and training.get("rollout", {}).get("step") != step):
            self.summary |= {"steps": step, "seconds": round(self.state.seconds, 1)}
            if self.data.validation:
                self._validate(log)
            self._save(self._evaluate(log))

    def _step(self, log: TrainLog) -> None:
        state, config, data = self.state, self.config, self.data.train
        indices = batch_indices(state.step, config.batch_size, len(data), config.seed, self.data.cumulative)
        try:
            mine = self.workers.share(torch.arange(len(indices)))
            loss = state.update(data.batch(indices, config.seed, state.step, mine), config.seed, config.steps)
        except NotFinite as error:
            raise self._stopped(error, indices) from error
        log.step(state.step, loss, learning_rate(state.step - 1, config.steps, config.optimizer))
        self.summary |= {"steps": state.step, "loss": loss}

    def _stopped(self, error: NotFinite, indices: torch.Tensor) -> InvalidValue:
        folder = self.config.out / FOLDER
        if self.workers.is_main:
            batch = self.data.train.batch(indices, self.config.seed, self.state.step)
            write_not_finite(folder, error, self.state, batch, to_plain(self.config))
        return InvalidValue(
            f"{error}. The batch is in {folder}; look at it with: python -m policies.train_not_finite {folder}. "
            f"Often optimizer.learning_rate ({self.config.optimizer.learning_rate:g}) is too high"
        )

    def _validate(self, log: TrainLog) -> None:
        if self.workers.is_main:
            found = validate(self.state.average, self.data.validation, self.config)
            log.scalars(self.state.step, {name.replace("_", "/", 1): value for name, value in found.items()})
            self.summary |= found

    def _is_measured(self) -> bool:
        """Tell whether success is to be measured at this step."""
        every = self.config.rollout.every_steps
        return every > 0 and _is_due(self.state.step, every, self.config.steps)

    def _evaluate(self, log: TrainLog) -> bool:
        """Measure success where it is due, and tell whether it is the best so far."""
        if not self._is_measured():
            return False
        step, config = self.state.step, self.config.rollout
        found = measure_success(self.state.average, config, self.workers)
        is_best = self.best.is_reached(found["k"])
        self.summary["rollout"] = {"step": step, **found}
        log.scalars(step, {f"rollout/{name}": found[name] for name in ("rate", "low", "high")})
        interval = f"95 % interval {found['low']:.3f} to {found['high']:.3f}"
        kept = ", the best so far" if is_best else ""
        log.say(f"step {step}: {config.task} succeeded in {found['k']}/{found['n']} episodes ({interval}){kept}")
        return is_best

    def _save(self, is_best: bool) -> None:
        if not self.workers.is_main:
            return
        state, config = self.state, self.config
        origin = {**self.origin, "training": self.summary}
        if is_best:
            # Before the state: one that is ahead of it is chosen anew, one that was forgotten never would be.
            save_checkpoint(config.out / "best", state.average, origin, config.save_dtype)
        state.save(config.out / "training_state", _recorded(config, self.workers), self.data.fingerprint)
        save_checkpoint(config.out / "checkpoint", state.average, origin, config.save_dtype)
