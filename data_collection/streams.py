"""Which streams an episode holds: the robot's observations, what was asked for and what was sent,
who drove, and the reward."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from armature.errors import DatasetError
from armature.spec import ActionSpec, ArraySpec, RobotSpec

ACTION_EXECUTED = "action/executed"
ACTION_REQUESTED = "action/requested"
"""NaN wherever nothing was asked for."""
TAKEOVER = "control/takeover"
"""1 while a person drives, 0 while the policy does; empty where nobody says."""
REWARD = "reward"
"""Empty where nobody gives one."""
OPTIONAL = (ACTION_REQUESTED, TAKEOVER, REWARD)
"""Streams that need not have a sample at every command, nor any at all."""

_TAKEOVER_ARRAY = ArraySpec(TAKEOVER, (1,), "uint8", "1", labels=("engaged",))
_REWARD_ARRAY = ArraySpec(REWARD, (1,), "float64", "1", labels=("reward",))

SAMPLE_BYTES_MAX = 256 << 20

# A stream's name is its folder in the dataset: nothing that could lead out of it.
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")


@lru_cache(maxsize=64)
def stream_specs(spec: RobotSpec) -> Mapping[str, ArraySpec]:
    """Return the streams recorded of a robot by name; raise DatasetError on a name that cannot be a folder."""
    actions = [_action_array(name, spec.action) for name in (ACTION_EXECUTED, ACTION_REQUESTED)]
    arrays = [*spec.observation, *actions, _TAKEOVER_ARRAY, _REWARD_ARRAY]
    for array in arrays:
        size_bytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
        if not 0 < size_bytes <= SAMPLE_BYTES_MAX or np.dtype(array.dtype).kind not in "biuf":
            raise DatasetError(
                f"stream {array.name}: {array.dtype} {array.shape} is no sample of 1 to {SAMPLE_BYTES_MAX} bytes"
            )
        if not _NAME.fullmatch(array.name):
            raise DatasetError(f"stream name {array.name!r}: allowed are a-z, 0-9, _ and single slashes")
    return MappingProxyType({array.name: array for array in arrays})


def _action_array(name: str, action: ActionSpec) -> ArraySpec:
    # float64: commands are kept exactly as the safety gate gave them.
    return ArraySpec(name, (action.dim,), "float64", unit="per part", labels=action.labels)
