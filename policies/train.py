"""`armature train`: from a dataset to a checkpoint, resumable at any step.

out/checkpoint/       what `load_policy` reads: the averaged weights
out/training_state/   what `--resume` continues from, exactly
out/tensorboard/      losses, learning rate
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from armature.config import to_plain
from armature.errors import ConfigError, DatasetError, unknown
from data_collection.aligned_cache import open_cache
from data_collection.sampling import outcome_of, window_weights
from data_collection.store import Dataset, Episode, open_dataset
from data_collection.windows import Windows, load_windows, split_by_episode
from policies.checkpoint import save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.dataset_torch import Goals, WindowTensors, batch_indices
from policies.export import export_engine, require_exportable
from policies.init_from import initialised, origin_of
from policies.policy_config import relative_part
from policies.presets.catalog import PRESETS
from policies.provenance import provenance
from policies.registry import family_of
from policies.train_config import TrainConfig
from policies.training_state import TrainingState, learning_rate, seed_draws

_VALIDATION_BATCHES = 8
_LOSS_SMOOTHING = 0.98
# May differ between a training and its continuation without changing what is learned.
_FREE_TO_CHANGE = (
    *("dataset", "out", "steps", "stop_at_step", "resume", "save_every_steps", "validate_every_steps", "threads"),
    *("windows", "cache", "export"),
)


@dataclass(frozen=True)
class TrainData:
    """The windows to learn from, those to validate on (None without a split), and where they come from.

    `cumulative` (windows,) is the sum of the weights by which windows are drawn, None where all are drawn alike.
    """

    train: WindowTensors
    validation: WindowTensors | None
    cumulative: NDArray[np.float64] | None
    fingerprint: str
    summary: dict[str, Any]


def train(config: TrainConfig, command: str | None = None) -> Path:
    """Train a policy and return the folder of its checkpoint.

    `command` goes into the checkpoint, by default that of this process. After Ctrl-C the state is saved, then
    KeyboardInterrupt goes on. Raises ArmatureError on a wrong config, dataset or state, InvalidValue on a loss that is
    not finite.
    """
    _check(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng():
        data, state = _prepare(config)
        if config.export:
            # What cannot be exported is known before the first step.
            require_exportable(state.average)
        path = _run(config, data, state, command or shlex.join(sys.argv))
        if config.export and state.step == config.steps:
            export_engine(path)
        return path


def load_data(config: TrainConfig) -> tuple[Dataset, TrainData]:
    """Read, filter and split the episodes of `config.dataset`."""
    dataset = open_dataset(config.dataset)
    fingerprint, recorded = dataset.fingerprint, dataset.episodes
    episodes = [episode for episode in recorded if config.episodes == "all" or is_successful(episode)]
    if not episodes:
        found = f"has {len(recorded)} episodes, none to learn from"
        raise DatasetError(f"{config.dataset}: {found} (--episodes {config.episodes})")
    learn, validate = split_by_episode(len(episodes), config.validation_fraction, config.seed)
    learned, *held_out = _windows(config, dataset, episodes, [learn, validate] if len(validate) else [learn])
    weights = window_weights(config.sampling, [episodes[i] for i in learn], learned)
    tensors = [_tensors(config, dataset, windows) for windows in (learned, *held_out)]
    counts = {"episodes": len(learn), "windows": len(learned), "validation_episodes": len(validate),
              "outcomes": dict(Counter(outcome_of(episode) for episode in episodes))}  # fmt: skip
    cumulative = None if weights is None else np.cumsum(weights)
    return dataset, TrainData(tensors[0], tensors[1] if held_out else None, cumulative, fingerprint, counts)


def is_successful(episode: Episode) -> bool:
    """Tell whether an episode was brought to its end and is not marked as failed."""
    return episode.is_complete and episode.metadata["success"] is not False


def main(argv: list[str]) -> int:
    """Run `armature train` with its arguments; print where the checkpoint lies."""
    config = parse_arguments(argv)
    path = train(config, shlex.join(["armature", "train", *argv]))
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
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument == "--preset":
            name = following
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    return name


def _check(config: TrainConfig) -> None:
    for name in ("steps", "batch_size", "validate_every_steps", "save_every_steps"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be at least 1")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device '{config.device}': torch sees no CUDA device here. Valid: cpu")
    if config.cache is not None and config.windows != "mapped":
        raise ConfigError(f"cache is {config.cache}, but windows is '{config.windows}'; add --windows mapped")
    has_state = (config.out / "training_state").exists()
    if has_state and not config.resume:
        raise ConfigError(f"{config.out}: holds a training already; continue it with --resume or choose another --out")


def _windows(
    config: TrainConfig, dataset: Dataset, episodes: list[Episode], parts: list[NDArray[np.int64]]
) -> list[Windows]:
    """Return the windows of each part of the episodes."""
    spec, steps = config.policy.seen(dataset.spec), (config.policy.obs_steps, config.policy.chunk_steps)
    if config.windows == "memory":
        return [load_windows([episodes[i] for i in part], spec, *steps, config.alignment) for part in parts]
    mapped = open_cache(dataset, episodes, spec, config.alignment, config.cache)
    return [Windows(mapped, *steps, chosen=part) for part in parts]


def _tensors(config: TrainConfig, dataset: Dataset, windows: Windows) -> WindowTensors:
    spec, steps = config.policy.seen(dataset.spec), config.policy.goal_steps
    goals = Goals(tuple(array.name for array in spec.observation.vectors), steps) if steps else None
    return WindowTensors(windows, relative_part(config.policy, spec), config.device, goals)


def _prepare(config: TrainConfig) -> tuple[TrainData, TrainingState]:
    with Console(stderr=True).status(f"reading {config.dataset}"):
        dataset, data = load_data(config)
    normalizer = data.train.normalizer(config.policy.seen(dataset.spec))
    torch.manual_seed(config.seed)
    policy = ChunkPolicy(family_of(config.method), config.policy, config.method, dataset.spec, normalizer)
    policy = initialised(policy, config).to(config.device)
    state = TrainingState(policy, config.optimizer)
    if config.resume:
        _require_same(config, data, state.load(config.out / "training_state"))
    return data, state


def _require_same(config: TrainConfig, data: TrainData, document: Mapping[str, Any]) -> None:
    if document["dataset_fingerprint"] != data.fingerprint:
        found = f"{data.fingerprint}, the training began with {document['dataset_fingerprint']}"
        raise ConfigError(f"{config.dataset}: the dataset's fingerprint is {found}")
    # A training that began before an option existed had its default.
    before, now = to_plain(TrainConfig(config.dataset, config.out)) | document["config"], to_plain(config)
    for name in now:
        if name not in _FREE_TO_CHANGE and before[name] != now[name]:
            raise ConfigError(f"--resume: {name} is {now[name]}, the training began with {before[name]}")


def _run(config: TrainConfig, data: TrainData, state: TrainingState, command: str) -> Path:
    end = config.steps if config.stop_at_step is None else min(config.steps, config.stop_at_step)
    summary: dict[str, Any] = {**data.summary, "config": to_plain(config)}
    origin = provenance(data.fingerprint, command) | origin_of(config)
    # Steps are logged from 1: what an earlier run logged beyond the state that is continued must not stay.
    writer = SummaryWriter(str(config.out / "tensorboard"), purge_step=state.step + 1 if state.step else None)
    with writer, _interruption() as interrupted, _progress() as progress:
        bar = progress.add_task("training", total=config.steps, completed=state.step, loss=float("nan"))
        smooth, begin_s = None, time.monotonic() - state.seconds
        while state.step < end and not interrupted.is_set():
            indices = batch_indices(state.step, config.batch_size, len(data.train), config.seed, data.cumulative)
            loss = state.update(data.train.batch(indices, config.seed, state.step), config.seed, config.steps)
            state.seconds = time.monotonic() - begin_s
            smooth = loss if smooth is None else _LOSS_SMOOTHING * smooth + (1 - _LOSS_SMOOTHING) * loss
            progress.update(bar, completed=state.step, loss=smooth)
            summary |= {"steps": state.step, "loss": loss, "seconds": round(state.seconds, 1)}
            writer.add_scalar("train/loss", loss, state.step)
            rate = learning_rate(state.step - 1, config.steps, config.optimizer)
            writer.add_scalar("train/learning_rate", rate, state.step)
            if data.validation and _is_due(state.step, config.validate_every_steps, end):
                summary |= validate(state.average, data.validation, config)
                _log_validation(writer, state.step, summary)
            if _is_due(state.step, config.save_every_steps, end) or interrupted.is_set():
                _save(config, data, state, {**origin, "training": summary})
    if interrupted.is_set():
        raise KeyboardInterrupt
    return config.out / "checkpoint"


def validate(policy: ChunkPolicy, data: WindowTensors, config: TrainConfig) -> dict[str, float]:
    """Measure on held-out windows, with the same draws every time: loss, and mean absolute error of sampled actions.

    The error is in normalised units: 2 is the whole range of an action in the dataset.
    """
    generator = seed_draws(config.seed, 0)
    every = np.arange(len(data))
    chosen = every[:: max(1, len(every) // (_VALIDATION_BATCHES * config.batch_size))]
    losses, errors = [], []
    with torch.no_grad():
        for begin in range(0, len(chosen), config.batch_size):
            batch = data.batch(torch.from_numpy(chosen[begin : begin + config.batch_size]))
            losses.append(policy.loss(batch, generator).item())
            noise = torch.randn(batch["action"].shape, generator=generator).to(batch["action"].device)
            error = (policy.sample(batch, noise, generator).actions - batch["action"]) * policy.action_layer.scale
            errors.append(error.abs().mean().item())
    return {"validation_loss": float(np.mean(losses)), "validation_action_error": float(np.mean(errors))}


def _log_validation(writer: SummaryWriter, step: int, summary: Mapping[str, Any]) -> None:
    for name in ("validation_loss", "validation_action_error"):
        writer.add_scalar(name.replace("_", "/", 1), summary[name], step)


def _is_due(step: int, every: int, end: int) -> bool:
    return step % every == 0 or step == end


def _save(config: TrainConfig, data: TrainData, state: TrainingState, origin: Mapping[str, Any]) -> None:
    state.save(config.out / "training_state", to_plain(config), data.fingerprint)
    save_checkpoint(config.out / "checkpoint", state.average, origin, config.save_dtype)


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event that is looked at between steps; a second Ctrl-C acts at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def note(_number: int, _frame: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True))
