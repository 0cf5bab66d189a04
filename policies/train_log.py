"""What a training tells while it runs: a progress bar, tensorboard, and on Ctrl-C that it was heard."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

_LOSS_SMOOTHING = 0.98


class TrainLog:
    """Progress bar and tensorboard of the first process; the others say nothing."""

    def __init__(self, path: Path, step: int, steps: int, is_main: bool) -> None:
        """Continue at `step` of `steps`: what an earlier run logged beyond it must not stay."""
        self._writer = SummaryWriter(str(path), purge_step=step + 1 if step else None) if is_main else None
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(TextColumn("{task.description}"), *columns, console=console, disable=not is_main)
        self._bar = self._progress.add_task("training", total=steps, completed=step, loss=float("nan"))
        self._smooth: float | None = None

    def __enter__(self) -> TrainLog:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """Log a step, counted from 1."""
        smooth = loss if self._smooth is None else _LOSS_SMOOTHING * self._smooth + (1 - _LOSS_SMOOTHING) * loss
        self._smooth = smooth
        self._progress.update(self._bar, completed=step, loss=smooth)
        self.scalars(step, {"train/loss": loss, "train/learning_rate": learning_rate})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log named figures."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._writer is not None:
            self._progress.console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def interruption() -> Iterator[threading.Event]:
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
