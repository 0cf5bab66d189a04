"""What a training of a robot in simulation is gone on from: networks, moments, transitions and counts.

It is written whole after every evaluation, and where a training is interrupted. Episodes under way are not part of it:
others begin in their place. With cameras nothing is written: what they showed takes gigabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from armature.errors import CheckpointError, ConfigError
from policies.dsrl import Dsrl
from policies.learner_tensors import load_tensors, to_tensors
from policies.online_learner import OnlineLearner
from policies.replay import Replay
from policies.residual_td3 import ResidualTd3
from policies.tensor_folder import TensorFolder

FOLDER = "state"
_FOLDER = TensorFolder(
    "state.safetensors", "state.json", "armature-online-training", 1, ("base_id", "config", "counts", "learner")
)
_FREE = ("resume", "steps", "out", "processes", "threads", "base")
"""May be others when it goes on."""


class OnlineState:
    """The state of one training, in a folder of what it makes."""

    def __init__(
        self, out: Path, config: Mapping[str, Any], base_id: str, networks: ResidualTd3 | Dsrl, online: Replay
    ) -> None:
        """`config` is the plain form of the training's, `online` what the robot has done."""
        self._path, self._base_id, self._networks, self._online = out / FOLDER, base_id, networks, online
        self._config = {name: value for name, value in config.items() if name not in _FREE}

    def save(self, learner: OnlineLearner, begun: int, evaluations: int) -> None:
        """Write all of it; `begun` episodes and `evaluations` there were so far."""
        tensors: dict[str, Tensor] = {
            **to_tensors(self._networks, self._networks.optimizers),
            "generator": self._networks.generator.get_state(),
            "rows": self._online.rows,
        }
        counts = {"begun": begun, "evaluations": evaluations, "rows": self._online.total}
        told = {"base_id": self._base_id, "config": self._config, "counts": counts, "learner": learner.state()}
        _FOLDER.write(self._path, tensors, told)

    def load(self, learner: OnlineLearner) -> tuple[int, int]:
        """Go on from what was written; return how many episodes and evaluations there were.

        Raises ConfigError naming what was configured otherwise, CheckpointError where the state cannot be read.
        """
        document, tensors = _FOLDER.read(self._path)
        self._require_same(document)
        try:
            load_tensors(self._networks, self._networks.optimizers, tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{self._path}: does not fit what is learned: {error}") from error
        self._networks.generator.set_state(tensors["generator"])
        counts = document["counts"]
        self._online.restore(tensors["rows"], counts["rows"])
        learner.restore(document["learner"])
        return counts["begun"], counts["evaluations"]

    def _require_same(self, document: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps({"base policy": self._base_id, **self._config}))
        for name, before in {"base policy": document["base_id"], **document["config"]}.items():
            if now.get(name) != before:
                raise ConfigError(f"--resume: {name} is {now.get(name)}, the training began with {before}")


def require_state(out: Path) -> None:
    """Raise ConfigError where there is no training in `out` that could be gone on with."""
    if not (out / FOLDER).is_dir():
        raise ConfigError(f"--resume: {out} holds no {FOLDER}, which a training writes after its first evaluation")
