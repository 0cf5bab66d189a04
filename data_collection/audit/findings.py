"""What an audit can find, and how bad each kind is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["fault", "note"]

KINDS: dict[str, tuple[Severity, str]] = {
    "damaged": ("fault", "files are not what was committed"),
    "missing": ("fault", "an observation or the executed commands have no sample"),
    "not_finite": ("fault", "NaN or infinity in an observation, an executed command or a reward"),
    "gap": ("fault", "no sample for too long, also at the begin and at the end"),
    "rate": ("fault", "commands not at the spec's rate, or an observation slower than it"),
    "drops": ("fault", "the recorder counted samples that it could not keep"),
    "repeated": ("fault", "a frame with the bytes of the one before while the robot moved"),
    "frozen": ("fault", "a stream that stood still for long while the robot moved"),
    "stamp_skew": ("fault", "by their stamps, camera frames are too old when commands are sent"),
    "content_skew": ("fault", "what a camera shows is shifted in time against the joints"),
    "jump": ("fault", "the robot's position leapt from one sample to the next"),
    "step": ("note", "the same in a stream of unknown unit, which may be coarse rather than wrong"),
    "wrap": ("note", "an angle went through its end by one full turn"),
    "jitter": ("note", "uneven distances between stamps"),
    "saturated": ("note", "commands at the bounds of the action for a large part of the episode"),
    "idle": ("note", "the robot stood still"),
    "outcome": ("note", "nobody said whether an episode succeeded"),
    "incomplete": ("note", "the recorder died before the episode ended; what it committed is kept"),
    "still": ("note", "a vector that stood still between motion and a leap while the robot moved"),
    "twin": ("note", "the same commands as in an earlier episode"),
}
"""Kind to severity and meaning. Faults say that a recording is not what happened; notes describe what happened."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing."""

    episode: int | None
    """Number of the episode's folder; None for the dataset as a whole."""
    stream: str
    """Empty where it concerns the whole episode."""
    kind: str
    at_s: float | None
    """Time since the first executed command; None where it has no moment."""
    value: float
    limit: float
    message: str

    @property
    def severity(self) -> Severity:
        """Tell how bad this kind is."""
        return KINDS[self.kind][0]

    @property
    def where(self) -> str:
        """Word episode, stream and time."""
        parts = ["dataset" if self.episode is None else f"episode {self.episode}", self.stream]
        at = "" if self.at_s is None else f"at {self.at_s:.2f} s"
        return " ".join(part for part in (*parts, at) if part)


def worst(found: Sequence[Finding], limit: int) -> list[Finding]:
    """Keep the `limit` findings with the largest values, in order of time; the last one says how many were left out."""
    kept = sorted(sorted(found, key=lambda f: -f.value)[:limit], key=lambda f: (f.at_s is None, f.at_s))
    left_out = len(found) - len(kept)
    if left_out:
        kept[-1] = replace(kept[-1], message=f"{kept[-1].message}; and {left_out} smaller of this kind in the episode")
    return kept
