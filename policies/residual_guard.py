"""Watches the success of the base policy, the floor, while a residual is learned.

Published curves of residual learning fall from 76-89 % to 1-55 % at first: a young critic sends the actor anywhere.
Here the residual may act by a small share of its reach to begin with. Episodes with it are compared with those of the
base alone, one by one; the share grows while they are likely no worse, and falls as soon as they likely are. Where it
falls, the learner goes back to the actor with which it had last grown.

What was gained is guarded likewise: where episodes are likely worse than those of the actor that was kept when the
share last grew, the learner goes back to that one, at the same share. With all the share, an actor is kept where it is
likely no worse than the one before. That may have been lucky: each time that it is gone back to, its episodes count for
half as many.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np

from armature.errors import ConfigError

_GRID = (np.arange(2000) + 0.5) / 2000


@dataclass(frozen=True)
class GuardConfig:
    """How quickly the share of the residual grows, and what takes it back."""

    share_first: float = 0.2
    growth: float = 1.5
    cut: float = 0.5
    share_min: float = 0.05
    episodes_min: int = 10
    """Episodes at a share before it may grow."""
    window: int = 40
    """So many of the newest episodes at a share are judged."""
    trust: float = 0.5
    """The share grows when the probability of being worse than the base is below this."""
    doubt: float = 0.95
    """It falls when it is likelier than this that the base is better, which is asked after every episode: over 40 that
    are no worse, one in six such series is cut."""
    lost: float = 0.98
    """What was kept is gone back to when it is likelier better than this: for an actor that falls from 0.9 to 0.5 that
    takes 12 episodes, one that stays as it is is given up once in 200 (0.95: 9, and once in 130)."""
    doubt_episodes_min: int = 5
    """Episodes at a share before it may fall: the first failure tells nothing yet."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if not 0 < self.share_min <= self.share_first <= 1:
            raise ConfigError(
                f"guard: share_min {self.share_min} and share_first {self.share_first} must be in this order in (0, 1]"
            )
        if not (self.growth > 1 > self.cut > 0):
            raise ConfigError(f"guard: growth is {self.growth}, must be above 1; cut is {self.cut}, must be in (0, 1)")
        for name in ("doubt", "lost"):
            if not 0 < self.trust < getattr(self, name) < 1:
                raise ConfigError(
                    f"guard: trust {self.trust} and {name} {getattr(self, name)} must be in this order in (0, 1)"
                )
        for name in ("episodes_min", "doubt_episodes_min"):
            if not 1 <= getattr(self, name) <= self.window:
                raise ConfigError(f"guard: {name} {getattr(self, name)} must be 1 to window {self.window}")


class Verdict(Enum):
    """What an episode did to the share."""

    STAYS = "stays"
    GROWS = "grows"
    FALLS = "falls"
    RETURNS = "returns"
    """To the actor that was kept, at the same share."""


class Guard:
    """Decides the share from the outcomes of episodes."""

    def __init__(self, config: GuardConfig, *, keeps: bool = True) -> None:
        """`keeps`: whether the learner can keep an actor; where it cannot, only the base is compared with."""
        self.config, self._keeps = config, keeps
        self.share = config.share_first
        self.cuts = 0
        """How often the share fell."""
        self.base = [0, 0]
        """Successes and episodes of the base alone."""
        self.kept = [0.0, 0.0]
        """Those of the actor that was kept."""
        self.returns = 0
        """How often it was gone back to at the same share."""
        self._recent: deque[bool] = deque(maxlen=config.window)
        self._at_share = 0

    def record_base(self, *, success: bool) -> None:
        """Count an episode of the base alone."""
        self.base[0] += success
        self.base[1] += 1

    def record(self, share: float, *, success: bool) -> Verdict:
        """Count an episode with the residual at `share`; one that began at another share says nothing of this one."""
        if share != self.share:
            return Verdict.STAYS
        self._recent.append(success)
        self._at_share += 1
        doubt, loss = self.worse_probability, self._lost_probability
        if len(self._recent) >= self.config.doubt_episodes_min:
            if doubt > self.config.doubt:
                return self._fall()
            if loss > self.config.lost:
                return self._return()
        is_kept = self.share < 1.0 or loss < self.config.trust
        if self._at_share >= self.config.episodes_min and doubt < self.config.trust and is_kept:
            return self._grow()
        return Verdict.STAYS

    def _grow(self) -> Verdict:
        if self._keeps:
            self.kept = [float(sum(self._recent)), float(len(self._recent))]
        share = min(1.0, self.share * self.config.growth)
        # At the largest share nothing begins anew: the newest episodes go on being judged.
        if share != self.share:
            self._recent.clear()
        self.share, self._at_share = share, 0
        return Verdict.GROWS

    def _fall(self) -> Verdict:
        self.share = max(self.config.share_min, self.share * self.config.cut)
        self.cuts += 1
        self._begin_anew()
        return Verdict.FALLS

    def _return(self) -> Verdict:
        self.returns += 1
        self._begin_anew()
        return Verdict.RETURNS

    def _begin_anew(self) -> None:
        """Judge the actor that was kept by what it does from now on, and believe half of what it did."""
        self.kept = [count / 2.0 for count in self.kept]
        if self.kept[1] < self.config.doubt_episodes_min:
            # So few tell nothing: what comes is compared with the base alone, and the next good one is kept anew.
            self.kept = [0.0, 0.0]
        self._recent.clear()
        self._at_share = 0

    @property
    def worse_probability(self) -> float:
        """Return how likely the residual, at this share, is worse than the base, both rates unknown before."""
        return probability_below(self._newest, (self.base[0], self.base[1]))

    @property
    def _lost_probability(self) -> float:
        """Return how likely the residual is worse than the actor that was kept; while there is none, 0."""
        return probability_below(self._newest, (self.kept[0], self.kept[1])) if self.kept[1] else 0.0

    @property
    def _newest(self) -> tuple[int, int]:
        return sum(self._recent), len(self._recent)

    def state(self) -> dict[str, Any]:
        """Return what a learner that is started again goes on from."""
        return {"share": self.share, "cuts": self.cuts, "returns": self.returns, "base": self.base, "kept": self.kept,
                "recent": list(self._recent), "at_share": self._at_share, "config": asdict(self.config)}  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.share, self.cuts, self.returns = state["share"], state["cuts"], state["returns"]
        self.base, self.kept = list(state["base"]), list(state["kept"])
        self._recent.extend(state["recent"])
        self._at_share = state["at_share"]


def probability_below(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the probability that one success rate is below another, given successes and episodes of each.

    Both are unknown before, uniform in 0 to 1: after k of n they are Beta(k + 1, n - k + 1).
    """
    density, other_density = _beta(*one), _beta(*other)
    above = 1.0 - np.cumsum(other_density) + other_density / 2.0
    return float(density @ above)


def _beta(successes: float, episodes: float) -> np.ndarray:
    """Return Beta(k + 1, n - k + 1) as shares of a grid over 0 to 1, which sum to 1."""
    logarithm = successes * np.log(_GRID) + (episodes - successes) * np.log1p(-_GRID)
    density = np.exp(logarithm - logarithm.max())
    return density / math.fsum(density)
