"""What a residual learned when, beside what else was tried: a table and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from sim.intervals import wilson_interval

mpl.use("Agg")

COLORS = {"residual": "tab:blue", "rlpd": "tab:gray", "dsrl": "tab:orange"}


@dataclass(frozen=True)
class Curve:
    """One training: what was evaluated when."""

    case: str
    method: str
    seed: int
    warmup_steps: int
    """Before learning begins."""
    points: list[dict[str, Any]]
    judged: tuple[int, int, int] | None = None
    """Successes of the base, and of the residual that did best in an evaluation, and of how many other starts."""
    commit: str = ""
    """By which it was learned; several, with spaces between, where it was gone on with by another."""

    @property
    def judged_intervals(self) -> list[tuple[float, float]]:
        """Return the 95 % intervals of what was judged: of the base's success and of the best residual's."""
        return [wilson_interval(k, self.judged[2]) for k in self.judged[:2]] if self.judged else []

    @property
    def rates(self) -> list[float]:
        """Return the success of every evaluation."""
        return [point["successes"] / point["episodes"] for point in self.points]

    def steps_to(self, rate: float) -> float:
        """Return after how many environment steps, the warm-up among them, a success was reached; NaN if never.

        The first point is the base alone: nothing was learned by then.
        """
        learned = list(zip(self.points, self.rates, strict=True))[1:]
        reached = [point["step"] for point, found in learned if found >= rate]
        return reached[0] + self.warmup_steps if reached else float("nan")


def table_of(curves: list[Curve]) -> Table:
    """Lay the curves side by side in figures."""
    table = Table(title="Success of 50 starts while learning", title_justify="left")
    for heading in ("case", "method", "seed", "base", "lowest", "last, 95 %", "to 90 %", "judged, 95 %", "commit"):
        table.add_column(heading, justify="left" if heading in ("case", "method") else "right")
    for curve in curves:
        last = curve.points[-1]
        steps = curve.steps_to(0.9)
        base, lowest, newest = (f"{rate:.2f}" for rate in (curve.rates[0], min(curve.rates), curve.rates[-1]))
        newest += f"\n{last['low']:.2f} to {last['high']:.2f}"
        shown = "never" if np.isnan(steps) else f"{steps:,.0f}"
        judged = "\n".join(_judged(curve))
        name = curve.case.replace("_", "\n")
        table.add_row(name, curve.method, str(curve.seed), base, lowest, newest, shown, judged, _short(curve.commit))
    return table


def _short(commits: str) -> str:
    """Shorten commits to what fits into a column."""
    return "\n".join(commit[:7] + ("-dirty" if commit.endswith("-dirty") else "") for commit in commits.split())


def _judged(curve: Curve) -> list[str]:
    """Word the base's and the best residual's successes of other starts."""
    found = zip(("base", "best"), curve.judged or (), curve.judged_intervals, strict=False)
    count = curve.judged[2] if curve.judged else 0
    return [f"{who} {k} of {count}, {low:.2f} to {high:.2f}" for who, k, (low, high) in found]


def plot(curves: list[Curve], path: Path) -> None:
    """Draw the curves, those of a case in one picture."""
    cases = list(dict.fromkeys(curve.case for curve in curves))
    columns = min(len(cases), 3)
    rows = -(-len(cases) // columns)
    size = 4.6 * columns, 3.6 * rows
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for axis in list(grid.flat)[len(cases) :]:
        axis.set_axis_off()
    for axis, case in zip(grid.flat, cases, strict=False):
        _plot_case(axis, case, [curve for curve in curves if curve.case == case])
    for axis in grid[:, 0]:
        axis.set_ylabel("success of the same 50 starts")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_case(axis: Axes, case: str, curves: list[Curve]) -> None:
    named: set[str] = set()
    for curve in curves:
        steps = [point["step"] + curve.warmup_steps for point in curve.points]
        label = None if curve.method in named else curve.method
        named.add(curve.method)
        axis.plot([0, *steps[1:]], curve.rates, color=COLORS[curve.method], alpha=0.8, label=label)
    if of_base := [curve for curve in curves if curve.method == "residual"]:
        first = of_base[0].points[0]
        axis.axhspan(first["low"], first["high"], color="k", alpha=0.07, lw=0, label="base, 95 %")
        axis.axvline(of_base[0].warmup_steps, color="k", alpha=0.4, lw=1, ls=":", label="learning begins")
    axis.set(title=case.replace("_", ", "), xlabel="environment steps", ylim=(0, 1.02))
    axis.locator_params(axis="x", nbins=6)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
