"""Lag of a camera's content behind the joints, which no stamp shows: motion in the pictures against that of the arm.

For a lag L the joints move by d_k(L) between t_k - L and t_(k+1) - L, where t are the camera's stamps. The change of
the picture (its root: pictures change less than in proportion) is fitted by the roots of |d_k| per joint and per main
direction of the path, for joints that turn together, and by these times where the arm was, since the same motion
changes the picture more when it is near the camera. The L that leaves least unexplained is the lag. On simulated arms
(64 px at 20 Hz, 43-200 frames) a fixed camera's lag came out right within 15 ms wherever it was trusted; a camera on
the wrist sees too little that is fixed, and was never trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_collection.audit.config import AuditConfig
from data_collection.audit.motion import Motion
from data_collection.audit.traces import ImageTrace

LAG_MAX_S = 0.15
LAG_STEP_S = 0.01
LAGS_S = np.arange(-round(LAG_MAX_S / LAG_STEP_S), round(LAG_MAX_S / LAG_STEP_S) + 1) * LAG_STEP_S
AWAY_S = 0.06
INTERVALS_MIN = 30
INTERVALS_MAX = 3000
STILL_GREY = 1e-3
RIDGE = 3e-2
DIRECTIONS = 3
PLACE_DIRECTIONS = 2
INTERVAL_PERIODS = 2.5
RESTING = 0.25
"""An arm slower than this part of its fast speed rests at the end of its stream."""


@dataclass(frozen=True)
class Lag:
    """How far a camera's content is behind its stamps' joints; negative: ahead."""

    lag_s: float
    fit: float
    """Part of the pictures' motion that the joints explain at this lag."""
    prominence: float
    """How many times more is left unexplained by lags 60 ms away."""

    def is_trustworthy(self, config: AuditConfig) -> bool:
        """Tell whether the lag stands out."""
        return self.fit >= config.skew_fit_min and self.prominence >= config.skew_prominence_min


def content_lag(camera: ImageTrace, motion: Motion) -> Lag | None:
    """Estimate the lag; None where the robot stood still or too few frames can be used."""
    if motion.fast == 0:
        return None
    chosen = _usable(camera)[:INTERVALS_MAX]
    if len(chosen) < INTERVALS_MIN or camera.motion[chosen].max() - camera.motion[chosen].min() < STILL_GREY:
        return None
    model = _ArmModel(motion, camera.stamps_ns[chosen - 1], camera.stamps_ns[chosen])
    picture = np.sqrt(camera.motion[chosen].astype(np.float64))
    unexplained = np.array([_unexplained(model, picture, lag_s) for lag_s in LAGS_S])
    if not np.isfinite(unexplained).all():
        return None
    lag_s, least = _minimum(unexplained)
    away = unexplained[np.abs(LAGS_S - lag_s) >= AWAY_S].min()
    return Lag(lag_s, 1 - least, float(away / max(least, 1e-9)))


def _usable(camera: ImageTrace) -> NDArray[np.int64]:
    """List the frames whose change since the one before can be trusted: no repeats, nothing across a gap."""
    step_ns = np.diff(camera.stamps_ns)
    if len(step_ns) == 0:
        return np.empty(0, np.int64)
    good = (step_ns < INTERVAL_PERIODS * np.median(step_ns)) & ~camera.repeats[1:]
    # The frame after a repeat shows the motion of several periods at once.
    good[1:] &= ~camera.repeats[1:-1]
    return np.flatnonzero(good) + 1


def _known_span(motion: Motion) -> tuple[float, float]:
    """Return from when until when it is known where the arm was [ns].

    One that rests at the begin or at the end of its stream is taken to rest beyond it, too.
    """
    speed = motion.speed_between(motion.grid_ns())
    begin_ns, end_ns = -np.inf, np.inf
    if len(speed) > 1 and _speed_at_edge(speed[0], speed[1]) > RESTING * motion.fast:
        begin_ns = float(motion.stamps_ns[0])
    if len(speed) > 1 and _speed_at_edge(speed[-1], speed[-2]) > RESTING * motion.fast:
        end_ns = float(motion.stamps_ns[-1])
    return begin_ns, end_ns


def _speed_at_edge(outer: float, inner: float) -> float:
    """Extrapolate the mean speeds of the outermost two steps to the very end: setting out from rest gives none."""
    return 1.5 * outer - 0.5 * inner


class _ArmModel:
    """The joints' side of the fit, for the frame intervals `before`..`after`."""

    def __init__(self, motion: Motion, before_ns: NDArray[np.int64], after_ns: NDArray[np.int64]) -> None:
        self._motion, self._before_ns, self._after_ns = motion, before_ns, after_ns
        self._begin_ns, self._end_ns = _known_span(motion)
        self._centre = motion.path.mean(axis=0)
        main = np.linalg.svd(np.cov(motion.path.T).reshape(motion.path.shape[1], -1))[0]
        self._directions, place = main[:, :DIRECTIONS], main[:, :PLACE_DIRECTIONS]
        self._place = place / max(float(((motion.path - self._centre) @ place).std(axis=0).max()), 1e-9)
        # A jump of the joints is a finding of its own; as one huge motion it would outweigh all others here.
        self._size_max = 3 * np.percentile(self._sizes_and_places(0)[0], 95, axis=0)

    def known(self, lag_s: float) -> NDArray[np.bool_]:
        """Tell for which intervals it is known how the arm moved at this lag."""
        lag_ns = 1e9 * lag_s
        return (self._before_ns - lag_ns >= self._begin_ns) & (self._after_ns - lag_ns <= self._end_ns)

    def features(self, lag_s: float) -> NDArray[np.float64]:
        """Return what the picture's change is fitted by, (intervals, features)."""
        sizes, places = self._sizes_and_places(round(1e9 * lag_s))
        sizes = np.minimum(sizes, self._size_max)
        crossed = (sizes[:, :, None] * places[:, None, :]).reshape(len(sizes), -1)
        roots = [np.sign(x) * np.sqrt(np.abs(x)) for x in (sizes, crossed)]
        return np.concatenate((*roots, np.full((len(sizes), 1), np.sqrt(sizes).mean())), axis=1)

    def _sizes_and_places(self, lag_ns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        before, after = self._motion.at(self._before_ns - lag_ns), self._motion.at(self._after_ns - lag_ns)
        steps = after - before
        sizes = np.abs(np.concatenate((steps, steps @ self._directions), axis=1))
        return sizes, ((after + before) / 2 - self._centre) @ self._place


def _unexplained(model: _ArmModel, picture: NDArray[np.float64], lag_s: float) -> float:
    """Return the part of the picture motion's variance that the joints do not explain; NaN with too few intervals."""
    known = model.known(lag_s)
    features, picture = model.features(lag_s)[known], picture[known]
    total = float(((picture - picture.mean()) ** 2).sum()) if len(picture) else 0.0
    if len(picture) < INTERVALS_MIN or total == 0:
        return float("nan")
    square = features.T @ features
    square += (RIDGE * np.trace(square) / len(square) + 1e-12) * np.eye(len(square))
    residual = picture - features @ np.linalg.solve(square, features.T @ picture)
    return float((residual**2).sum()) / total


def _minimum(curve: NDArray[np.float64]) -> tuple[float, float]:
    """Return where the curve over LAGS_S is least, between its points by a parabola, and how much it is there."""
    k = int(curve.argmin())
    if not 0 < k < len(curve) - 1:
        return float(LAGS_S[k]), float(curve[k])
    left, here, right = curve[k - 1 : k + 2]
    bend = left - 2 * here + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(LAGS_S[k] + shift * LAG_STEP_S), float(here)
