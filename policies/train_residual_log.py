"""What a training of a residual tells and keeps: a progress bar, tensorboard, the newest actor and the best."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from armature.errors import ConfigError

if TYPE_CHECKING:
    from policies.online_learner import OnlineLearner
    from policies.train_online import Evaluation
    from policies.train_residual_robots import Style

CURVE = "curve.jsonl"
LOG_EVERY_STEPS = 100


def require_new(out: Path) -> None:
    """Raise ConfigError where there is something in the folder, or it is none."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another --out, or remove it")


class ResidualLog:
    """Use it in a `with` block."""

    def __init__(
        self,
        out: Path,
        steps: int,
        config: Mapping[str, Any],
        keep: Callable[[Path], None],
        curve: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Make the folder, or go on after a `curve`; raise ConfigError where there is something in it.

        `keep` writes what is learned to a path, in place of what is there.
        """
        if not curve:
            require_new(out)
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._keep, self.curve = out, keep, list(curve)
        self._best = self._best_so_far()
        self._write_curve()
        (out / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
        purged = curve[-1]["step"] + 1 if curve else None
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=purged)
        self._console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
        self._progress = Progress(TextColumn("{task.description}"), *columns, console=self._console)
        self._bar = self._progress.add_task("learning", total=steps, said="warm-up")
        self._logged = -1
        self._outcomes: list[bool] = []

    def _best_so_far(self) -> int:
        """Return how often the best succeeded: it may be of a point after which nothing was saved any more."""
        file = self._out / CURVE
        lost = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return max((point["successes"] for point in (*lost, *self.curve)), default=-1)

    def _write_curve(self) -> None:
        draft = self._out / f".{CURVE}.draft"
        draft.write_text("".join(json.dumps(point) + "\n" for point in self.curve))
        draft.replace(self._out / CURVE)

    def __enter__(self) -> ResidualLog:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._writer.close()

    def step(self, step: int, figures: Mapping[str, float], learner: OnlineLearner) -> None:
        """Show where the training is; `figures` are those of its last update."""
        recent = self._outcomes[-20:]
        rate = f"{sum(recent)}/{len(recent)}" if recent else "-"
        said = f"share {learner.share:.2f}, newest episodes {rate}" if learner.is_warm else "warm-up"
        self._progress.update(self._bar, completed=step, said=said)
        if figures and step // LOG_EVERY_STEPS > self._logged:
            self._logged = step // LOG_EVERY_STEPS
            told = {**figures, "share": learner.share, "worse_probability": learner.guard.worse_probability}
            for name, value in told.items():
                self._writer.add_scalar(f"learner/{name}", value, step)

    def episode(self, step: int, style: Style, *, success: bool, steps: int) -> None:
        """Log how an episode ended."""
        if style.share > 0:
            self._outcomes.append(success)
        kind = "residual" if style.share > 0 else "base_with_noise" if style.noise_std > 0 else "base"
        self._writer.add_scalar(f"episodes/{kind}", float(success), step)
        self._writer.add_scalar(f"episodes/{kind}_steps", steps, step)

    def keep_newest(self) -> None:
        """Keep the actor as it is, judged or not."""
        self._keep(self._out / "actor")

    def evaluation(self, found: Evaluation, learner: OnlineLearner) -> None:
        """Log an evaluation, print it, and keep the actor that it judged."""
        self._writer.add_scalar("evaluation/success", found.successes / found.episodes, found.step)
        self._progress.console.print(
            f"step {found.step}: {found.successes} of {found.episodes} ({found.low:.0%} to {found.high:.0%}), "
            f"{found.mean_steps:.0f} steps, share {found.share:.2f}, guard cut {learner.guard.cuts} times, "
            f"went back {learner.guard.returns} times",
            highlight=False,
            soft_wrap=True,
        )
        self.keep_newest()
        # Of equals the later one: it has seen more.
        if found.successes >= self._best:
            self._best = found.successes
            self._keep(self._out / "best")
        self.curve.append({**asdict(found), "cuts": learner.guard.cuts, "returns": learner.guard.returns})
        self._write_curve()
