"""Does a killed recorder lose anything? SIGKILL at random moments, in a real process, at full speed.

Two cameras of 128x96, one lossless and one as JPEG, and joints, in short episodes that are begun, committed, ended and
discarded. After each kill the dataset is read as the dead process has left it, and again when the next writer has taken
it up: everything that was acknowledged has to be there, byte for byte, and nothing that was never handed in.

    python benchmarks/recorder_kill.py [--kills N] [--quick] [--soak-s S] --json FILE
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from harness import ROOT, Arguments, Criterion, at_least, exactly, main

sys.path.insert(0, str(ROOT / "tests/faults"))

from kills import Tally, kill_many
from soak import soak

QUICK_KILLS = 30
ACKNOWLEDGED_PER_KILL_MIN = 20


@dataclass(frozen=True)
class KillArguments(Arguments):
    kills: int = 500
    """How many processes are killed; 30 with --quick."""
    seed: int = 1
    soak_s: float = 0.0
    """Record for so long besides, and say how memory and open files have grown [s]."""


def measure(arguments: KillArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Kill, look, count."""
    begin_s = time.monotonic()
    kills = QUICK_KILLS if quick else arguments.kills
    with tempfile.TemporaryDirectory(prefix="recorder_kill.") as folder:
        tally = kill_many(Path(folder), kills, arguments.seed)
        details = _details(tally, time.monotonic() - begin_s)
        if arguments.soak_s:
            details["soak"] = asdict(soak(Path(folder), arguments.soak_s))
    return _criteria(tally, kills), details


def _criteria(tally: Tally, kills: int) -> list[Criterion]:
    found = tally.findings
    return [
        exactly("processes killed", tally.kills, "", kills),
        at_least("acknowledged", tally.acknowledged, "samples", ACKNOWLEDGED_PER_KILL_MIN * kills),
        exactly("acknowledged and lost", found.lost, "samples", 0),
        exactly("wrong bytes, stamps or outcomes", found.wrong, "samples", 0),
        exactly("phantoms", found.phantom, "samples", 0),
        exactly("unreadable", found.unreadable, "stores", 0),
        exactly("left behind by the dead", found.leftovers, "files", 0),
        exactly("wrong episode numbers", tally.wrong_numbers, "", 0),
    ]


def _details(tally: Tally, wall_s: float) -> dict[str, Any]:
    return {
        "wall_s": round(wall_s, 1),
        "episodes": tally.episodes,
        "samples_compared": tally.findings.checked,
        "killed_in": dict(tally.killed_in.most_common()),
        "findings": tally.findings.messages[:50],
    }


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(KillArguments, prog=f"benchmarks/{name}.py")
    sys.exit(main(name, partial(measure, arguments), arguments))
