"""Which streams an episode holds: the robot's observations, the command that was sent and the one asked for."""

from __future__ import annotations

import re

from armature.errors import DatasetError
from armature.spec import ActionSpec, ArraySpec, RobotSpec

ACTION_EXECUTED = "action/executed"
ACTION_REQUESTED = "action/requested"
"""NaN wherever nothing was asked for."""

# A stream's name is its folder in the dataset: nothing that could lead out of it.
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")


def stream_specs(spec: RobotSpec) -> dict[str, ArraySpec]:
    """Return the streams recorded of a robot by name; raise DatasetError on a name that cannot be a folder."""
    actions = [_action_array(name, spec.action) for name in (ACTION_EXECUTED, ACTION_REQUESTED)]
    arrays = [*spec.observation, *actions]
    for array in arrays:
        if not _NAME.fullmatch(array.name):
            raise DatasetError(f"stream name {array.name!r}: allowed are a-z, 0-9, _ and single slashes")
    return {array.name: array for array in arrays}


def _action_array(name: str, action: ActionSpec) -> ArraySpec:
    # float64: commands are kept exactly as the safety gate gave them.
    return ArraySpec(name, (action.dim,), "float64", unit="per part", labels=action.labels)
