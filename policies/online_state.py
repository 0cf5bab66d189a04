"""What a training of a robot in simulation is gone on from: networks, moments, transitions, counts and the curve.

It is written whole after every evaluation, and where a training is interrupted. Episodes under way are not part of it:
others begin in their place. With cameras nothing is written: what they showed takes gigabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from armature.errors import CheckpointError, ConfigError
from policies.dsrl import Dsrl
from policies.learner_tensors import load_tensors, to_tensors
from policies.online_learner import OnlineLearner
from policies.replay import Replay
from policies.residual_td3 import ResidualTd3
from policies.sampler import leaves
from policies.tensor_folder import TensorFolder

FOLDER = "state"
_KEYS = ("origins", "config", "counts", "curve", "learner")
_FOLDER = TensorFolder("state.safetensors", "state.json", "armature-online-training", 1, _KEYS)
_FREE = ("resume", "steps", "out", "processes", "threads", "base", "dataset", "learner.device", "learner.td3.compiled")
"""May be others when it goes on; what base and demonstrations hold may not."""


@dataclass(frozen=True)
class Before:
    """How far a training had come."""

    begun: int = 0
    """Episodes to learn from."""
    curve: tuple[Mapping[str, Any], ...] = ()
    """One point for each evaluation."""


class OnlineState:
    """The state of one training, in a folder of what it makes."""

    def __init__(
        self,
        out: Path,
        config: Mapping[str, Any],
        origins: Mapping[str, str | None],
        networks: ResidualTd3 | Dsrl,
        online: Replay,
    ) -> None:
        """`config` is the plain form of the training's, `origins` what it begins with, `online` what the robot did."""
        self._path, self._networks, self._online = out / FOLDER, networks, online
        self._origins = dict(origins)
        told = dict(leaves(json.loads(json.dumps(config))))
        self._config = {name: value for name, value in told.items() if name not in _FREE}

    def save(self, learner: OnlineLearner, before: Before) -> None:
        """Write all of it."""
        tensors: dict[str, Tensor] = {
            **to_tensors(self._networks, self._networks.optimizers),
            "generator": self._networks.generator.get_state(),
            "rows": self._online.rows,
        }
        counts = {"begun": before.begun, "rows": self._online.total}
        told = {"origins": self._origins, "config": self._config, "counts": counts, "learner": learner.state()}
        _FOLDER.write(self._path, tensors, {**told, "curve": list(before.curve)})

    def load(self, learner: OnlineLearner) -> Before:
        """Go on from what was written.

        Raises ConfigError naming what is otherwise than it was, CheckpointError where the state cannot be read.
        """
        document, tensors = _FOLDER.read(self._path)
        _require_same(document["origins"], self._origins)
        _require_same(document["config"], self._config)
        try:
            load_tensors(self._networks, self._networks.optimizers, tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{self._path}: does not fit what is learned: {error}") from error
        self._networks.generator.set_state(tensors["generator"])
        self._online.restore(tensors["rows"], document["counts"]["rows"])
        learner.restore(document["learner"])
        return Before(document["counts"]["begun"], tuple(document["curve"]))


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in before.items():
        if now.get(name) != value:
            raise ConfigError(f"--resume: {name} is {now.get(name)}, the training began with {value}")


def require_state(out: Path) -> None:
    """Raise ConfigError where there is no training in `out` that could be gone on with."""
    if not (out / FOLDER).is_dir():
        raise ConfigError(f"--resume: {out} holds no {FOLDER}, which a training writes after its first evaluation")
