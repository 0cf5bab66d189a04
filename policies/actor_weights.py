"""The weights of a residual actor on their way from the learner to the robot: versioned, hashed, used without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from armature.errors import CheckpointError

Vector = NDArray[np.float32]
EPSILON = 1e-5
"""Of the layer normalisation, as torch has it."""


@dataclass(frozen=True)
class ActorWeights:
    """What the learner gives out: networks of hidden layers, layer normalisation and ReLU, and tanh at the end."""

    version: int
    share: float
    """To which share of its bound the residual is cut, 0 to 1; the guard of the learner sets it."""
    noise_std: float
    """Of the exploration, as a share of the bound; it is not scaled by `share`."""
    base_id: str
    """The policy whose actions this corrects."""
    arrays: Mapping[str, NDArray[np.float32]]
    """As in `ResidualActor.state_dict()`: linear layers and their norms by turns."""

    def to_bytes(self) -> bytes:
        """Return everything with its sha256 before it; inverse of `from_bytes`."""
        told = {"version": str(self.version), "share": repr(self.share), "noise_std": repr(self.noise_std),
                "base_id": self.base_id}  # fmt: skip
        content = save(dict(self.arrays), metadata=told)
        return hashlib.sha256(content).digest() + content

    @classmethod
    def from_bytes(cls, data: bytes) -> ActorWeights:
        """Read what `to_bytes` wrote; raise CheckpointError where it is damaged, incomplete or not finite."""
        told_hash, content = data[:32], data[32:]
        if hashlib.sha256(content).digest() != told_hash:
            raise CheckpointError(f"weights of an actor: damaged ({len(data)} bytes): their sha256 differs")
        try:
            arrays, told = load(content), _metadata(content)
            weights = cls(int(told["version"]), float(told["share"]), float(told["noise_std"]), told["base_id"], arrays)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"weights of an actor cannot be read: {error}") from error
        for name in ("share", "noise_std"):
            if not 0 <= getattr(weights, name) <= 1:
                raise CheckpointError(f"weights of an actor: {name} is {getattr(weights, name)}, must be 0 to 1")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise CheckpointError(f"weights of an actor, version {weights.version}: {name} is not finite")
        return weights

    @property
    def input_dim(self) -> int:
        """Return the size of an observation and a base action together."""
        return self.arrays["layers.0.weight"].shape[1]

    @property
    def action_dim(self) -> int:
        """Return the size of a residual."""
        return self.arrays[f"layers.{self._last}.weight"].shape[0]

    @property
    def _last(self) -> int:
        return max(int(name.split(".")[1]) for name in self.arrays)

    def residual(self, observation: Vector, base: Vector) -> Vector:
        """Return the residual (D,) within +-share for one observation (O,) and base action (D,), both normalised."""
        x = np.concatenate((observation, base))
        for i in range(0, self._last, 3):
            x = self._linear(i, x)
            x = (x - x.mean()) / np.sqrt(x.var() + EPSILON)
            x = np.maximum(x * self.arrays[f"layers.{i + 1}.weight"] + self.arrays[f"layers.{i + 1}.bias"], 0.0)
        return np.tanh(self._linear(self._last, x)).clip(-self.share, self.share)

    def _linear(self, i: int, x: Vector) -> Vector:
        return self.arrays[f"layers.{i}.weight"] @ x + self.arrays[f"layers.{i}.bias"]


def _metadata(content: bytes) -> dict[str, Any]:
    # Only the reader of files tells it: the head of the file is a JSON object behind its length.
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]
