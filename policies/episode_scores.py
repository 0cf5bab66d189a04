"""Rewards failures by how near they came to the successes, for a learner to which records come step by step.

Records of an episode are held back until it has ended: only then is it known what its last step earns. Until they are
handed on they do not count as taken, so that a learner that is killed in between is sent all of them again.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from armature.filesystem import Fs, replace_file
from armature.normalizer import FieldStats, Normalizer
from policies.progress_reward import ProgressReward, StateEmbedding
from policies.step_log import CUT, ENDED, TERMINATED, Records

SEEN = "observation"
SCORED = 1 << 31
"""Bit of `flags`, in no log: the last of a failed episode, with what that has earned; nothing of value follows."""


class EpisodeScores:
    """Judges episodes by what the residual saw, which is normalised; used by one thread."""

    def __init__(self, path: Path, observation_dim: int, window: int = 200) -> None:
        """`path` is the file for the newest `window` successes and failures, which later ones are compared with."""
        unchanged = Normalizer({SEEN: FieldStats.of(np.zeros((1, observation_dim)))}, {SEEN: "identity"})
        self._reward = ProgressReward(StateEmbedding(unchanged, [SEEN]), window)
        self._path = path
        self._held: dict[str, list[Records]] = {}
        self.broken: dict[str, int] = {}
        """By log, the newest episode of which a piece was broken off: what follows of it is no attempt at the task."""
        self._known = {success: deque[tuple[int, NDArray[np.float64]]](maxlen=window) for success in (True, False)}
        self._is_saved = True

    def take(self, log_id: str, records: Sequence[Records], rows: int) -> list[Records]:
        """Return the records that are decided now, in order; `rows` have been made of those before."""
        decided: list[Records] = []
        for record in records:
            piece = self._held.setdefault(log_id, [])
            piece.append(record)
            if record["flags"] & (TERMINATED | CUT):
                del self._held[log_id]
                decided += self._judged(log_id, piece, rows + len(decided) + len(piece))
        return decided

    def save(self) -> None:
        """Keep what later episodes are compared with."""
        if self._is_saved:
            return
        kept = [(rows, success, point) for success, known in self._known.items() for rows, point in known]
        rows, successes, points = zip(*kept, strict=True)
        content = io.BytesIO()
        np.savez(content, rows=rows, successes=successes, points=np.stack(points))
        replace_file(Fs(), self._path, content.getvalue())
        self._is_saved = True

    def restore(self, rows: int, broken: Mapping[str, int]) -> None:
        """Go on with what was kept of the first `rows` rows: later episodes are going to be sent again."""
        self.broken = dict(broken)
        if not self._path.exists():
            return
        with np.load(self._path, allow_pickle=False) as kept:
            for of_rows, success, point in zip(kept["rows"], kept["successes"], kept["points"], strict=True):
                if of_rows <= rows:
                    self._reward.remember(point, success=bool(success))
                    self._known[bool(success)].append((int(of_rows), point))

    def _judged(self, log_id: str, piece: list[Records], rows: int) -> list[Records]:
        """Return the records of what was seen in one piece; of an episode that was broken off nothing is judged."""
        last = piece[-1].copy()
        episode, flags = int(last["episode"]), int(last["flags"])
        is_whole = self.broken.get(log_id) != episode
        if not flags & ENDED:
            self.broken[log_id] = episode
        elif is_whole:
            success = bool(flags & TERMINATED)
            earned = self._reward.judge({SEEN: np.stack([record[SEEN] for record in piece])}, success=success)
            self._known[success].append((rows, self._reward.newest))
            self._is_saved = False
            if not success:
                last["reward"] += earned
                last["flags"] = flags & ~CUT | SCORED
        return [*piece[:-1], last]
