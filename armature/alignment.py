"""Alignment of streams by stamps: one pure function, used live and offline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def newest_not_after(stamps_ns: NDArray[np.int64], ticks_ns: NDArray[np.int64], max_age_ns: int) -> NDArray[np.int64]:
    """Return for every tick the index of the newest sample not after it, or -1 where there is none young enough.

    `stamps_ns` (N,) ascending, `ticks_ns` (T,); a sample exactly at the tick or exactly `max_age_ns` old counts.
    """
    index = np.searchsorted(stamps_ns, ticks_ns, side="right") - 1
    if len(stamps_ns) == 0:
        return index
    age_ns = ticks_ns - stamps_ns[np.maximum(index, 0)]
    return np.where((index >= 0) & (age_ns <= max_age_ns), index, -1)
