"""How fast the robot moved: the yardstick by which still pictures, lags and idle times are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, unknown
from armature.spec import AGENT_POSITION, JOINT_POSITION, TCP_POSE, RobotSpec
from data_collection.audit.traces import VectorTrace

GRID_NS = 50_000_000
RANGE_MIN = 1e-3
PREFERRED = (JOINT_POSITION, AGENT_POSITION, TCP_POSE, "robot0_joint_pos", "robot0_eef_pos", "state")
"""Ours first, then what robomimic, LeRobot and diffusion_policy call the robot's own state."""


def motion_stream(spec: RobotSpec, wanted: str) -> str | None:
    """Choose the vector that tells how the robot moves; None where the robot has no vector at all."""
    vectors = [array.name for array in spec.observation.vectors]
    if wanted and wanted not in vectors:
        raise ConfigError(unknown("motion_stream", wanted, vectors))
    candidates = (wanted,) if wanted else (*PREFERRED, *vectors)
    return next((name for name in candidates if name in vectors), None)


@dataclass(frozen=True)
class Motion:
    """The path of the robot, every element scaled by its range in the episode."""

    stamps_ns: NDArray[np.int64]
    path: NDArray[np.float64]
    """(N, D)"""
    fast: float
    """95th percentile of the speed; 0 where the robot stood still throughout."""

    @classmethod
    def of(cls, trace: VectorTrace) -> Motion:
        """Build it from the samples of the motion stream; those that are not finite are left out."""
        finite = np.isfinite(trace.values).all(axis=1)
        stamps_ns, values = trace.stamps_ns[finite], trace.values[finite].astype(np.float64)
        spread = np.ptp(values, axis=0) if len(values) else np.zeros(values.shape[1])
        # An element that hardly moves next to the others shall not turn its noise into motion.
        scale = np.maximum(spread, max(0.05 * spread.max(initial=0.0), RANGE_MIN))
        motion = cls(stamps_ns, values / scale, 0.0)
        if len(values) < 2 or spread.max() < RANGE_MIN:
            return motion
        speed = motion.speed_between(motion.grid_ns())
        typical = float(np.percentile(speed, 95)) if len(speed) else 0.0
        return cls(stamps_ns, motion.path, typical or float(speed.max(initial=0.0)))

    def grid_ns(self) -> NDArray[np.int64]:
        """Return evenly spaced times over the episode."""
        return np.arange(self.stamps_ns[0], self.stamps_ns[-1] + 1, GRID_NS)

    def at(self, times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Interpolate the path at T times, (T, D); before its begin and after its end it stands still."""
        begin_ns = self.stamps_ns[0]
        times, stamps = (times_ns - begin_ns) / 1e9, (self.stamps_ns - begin_ns) / 1e9
        return np.stack([np.interp(times, stamps, column) for column in self.path.T], axis=1)

    def speed_between(self, times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean speed between each of T times and the next, in ranges per second, (T - 1,)."""
        step = np.linalg.norm(np.diff(self.at(times_ns), axis=0), axis=1)
        return step / np.maximum(np.diff(times_ns) / 1e9, 1e-9)

    def is_moving(self, times_ns: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
        """Tell for each of T times whether the robot moved since the time before, (T,); False for the first."""
        moving = np.zeros(len(times_ns), bool)
        if self.fast > 0 and len(times_ns) > 1:
            moving[1:] = self.speed_between(times_ns) > fraction * self.fast
        return moving
