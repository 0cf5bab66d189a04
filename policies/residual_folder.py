"""A residual as it goes to a robot: whose actions it corrects, what it sees, what the gate lets pass, and its weights.

A folder of `residual.json` and `actor.bin`, written whole, verified before use. Read without torch. One that looks at
cameras is of version 4 of the format and has `encoder.bin` beside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from armature.config import from_plain, to_plain
from armature.control.limits import SafetyLimits
from armature.errors import CheckpointError, ConfigError, beside, unknown
from armature.normalizer import Normalizer
from armature.spec import RobotSpec, require_compatible
from policies.actor_weights import ActorWeights
from policies.residual_sight import Sight
from policies.residual_view import ResidualView, observation_dim
from policies.signed_folder import SHA256, digest, read_file, replace_folder

DOCUMENT, WEIGHTS, ENCODER = "residual.json", "actor.bin", "encoder.bin"
DEMONSTRATIONS = "demonstrations"
"""Folder beside, where the learner has any: a replay of them."""
SIGHT = "sight"
_HEAD = {"format": "armature residual", "format_version": 3}
_HEAD_WITH_CAMERAS = {**_HEAD, "format_version": 4}
_KEYS = ("task", "spec", "base_id", "normalizer", "settings", "unit", "residual_max", "learner")


@dataclass(frozen=True)
class ResidualSettings:
    """What actor, log and learner have to agree on."""

    scale: float
    """The largest motion of an element in one step, as a share of what the safety gate lets pass in all."""
    steps: int
    """Steps whose rewards are summed before the critic's estimate."""
    discount: float
    noise_memory_steps: float = 0.0
    """How long the noise of the exploration stays on one side."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if not 0 < self.scale <= 1:
            raise ConfigError(f"settings.scale is {self.scale}, must be in (0, 1]")
        if not (self.steps >= 1 and 0 < self.discount <= 1):
            raise ConfigError(f"settings.steps {self.steps} and discount {self.discount}: must be >= 1 and in (0, 1]")
        if not self.noise_memory_steps >= 0:
            raise ConfigError(f"settings.noise_memory_steps is {self.noise_memory_steps}, must not be negative")


@dataclass(frozen=True)
class ResidualFolder:
    """The content of a folder."""

    task: str
    spec: RobotSpec
    """The robot, with the cameras and the vectors that the residual sees."""
    base_id: str
    """The policy whose actions it corrects."""
    normalizer: Normalizer
    settings: ResidualSettings
    unit: tuple[float, ...]
    """Of each element of a normalised action (D,), by the limits that it was made for."""
    residual_max: tuple[float, ...]
    """How far off the policy's action the gate lets corrections lead, normalised, (D,)."""
    weights: ActorWeights
    learner: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the learner wants to know again; nobody else reads it."""
    sight: Sight | None = None
    """How it looks at cameras; None where it sees vectors alone."""
    encoder: Mapping[str, NDArray[np.float32]] = field(default_factory=dict[str, NDArray[np.float32]])
    """As in `ResidualEncoder.state_dict()`."""

    @classmethod
    def of(
        cls,
        task: str,
        view: ResidualView,
        normalizer: Normalizer,
        settings: ResidualSettings,
        weights: ActorWeights,
        learner: Mapping[str, Any] | None = None,
        sight: Sight | None = None,
        encoder: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> ResidualFolder:
        """Put together what is to be saved of a `view` and its weights, and of the encoder where there is a `sight`."""
        unit, residual_max = (tuple(values.tolist()) for values in (view.frame.unit, view.frame.residual_max))
        names = (*sight.cameras, *view.names) if sight else view.names
        return cls(task, view.spec.select(names), weights.base_id, normalizer, settings, unit, residual_max,
                   weights, learner or {}, sight, encoder or {})  # fmt: skip

    def view(self, offered: RobotSpec, limits: SafetyLimits) -> ResidualView:
        """Return how the residual sees a robot.

        Raises SpecMismatch naming the fields in which it is another robot, ConfigError where its gate has other limits.
        """
        require_compatible(self.spec, offered, "the residual")
        view = ResidualView(self.spec, limits, self.normalizer)
        for name, expected in (("unit", self.unit), ("residual_max", self.residual_max)):
            found = getattr(view.frame, name)
            if not np.allclose(found, expected, rtol=1e-9, atol=0.0):
                made_for, has = f"a gate with {name} {list(expected)}", f"this robot's has {found.tolist()}"
                raise ConfigError(f"the residual was made for {made_for}, {has}: its limits or their profile differ")
        self.require_weights(self.weights)
        return view

    def require_weights(self, weights: ActorWeights) -> None:
        """Raise CheckpointError where weights are of another base policy or of another size."""
        who = f"weights of version {weights.version}"
        if weights.base_id != self.base_id:
            raise CheckpointError(f"{who}: correct policy '{weights.base_id}', expected '{self.base_id}'")
        dim = self.spec.action.dim
        features = self.sight.features if self.sight else 0
        expected = observation_dim(self.spec) + features + dim, dim
        found = _sizes(weights, who)
        if found != expected:
            raise CheckpointError(f"{who}: take {found[0]} numbers and give {found[1]}, expected {expected}")

    def require_no_cameras(self, who: str) -> None:
        """Raise ConfigError where the residual looks at cameras: `who` has vectors alone."""
        if self.sight is not None:
            raise ConfigError(
                f"the residual looks at {', '.join(self.sight.cameras)}, which {who} cannot yet: "
                "learn one from vectors, by `armature train-residual` without --cameras"
            )

    def reach(self, view: ResidualView) -> NDArray[np.float64]:
        """Return the largest motion in one step (D,), in physical units."""
        return self.settings.scale * view.frame.residual_max * view.frame.unit


def _sizes(weights: ActorWeights, who: str) -> tuple[int, int]:
    try:
        return weights.input_dim, weights.action_dim
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{who}: are those of no actor: {error!r} in {sorted(weights.arrays)}") from error


def save_residual(path: Path, residual: ResidualFolder, demonstrations: Mapping[str, bytes] | None = None) -> None:
    """Write a residual at `path`; raise ConfigError where there is something else.

    `demonstrations` are the files of a replay, which lie in a folder of it.
    """
    if path.exists() and not (path / DOCUMENT).is_file():
        raise ConfigError(f"{path}: exists and is no residual")
    files = {WEIGHTS: residual.weights.to_bytes()}
    read = {field.name: getattr(residual, field.name) for field in fields(_Plain)}
    document = {**_HEAD, **to_plain(_Plain(**read)), "learner": dict(residual.learner)}
    if residual.sight is not None:
        files[ENCODER] = save(dict(residual.encoder))
        document |= {**_HEAD_WITH_CAMERAS, SIGHT: to_plain(residual.sight)}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} | {DOCUMENT: digest(document)}
    text = json.dumps({**document, SHA256: sums}, indent=1, allow_nan=False) + "\n"
    shown = {f"{DEMONSTRATIONS}/{name}": content for name, content in (demonstrations or {}).items()}
    replace_folder(path, {DOCUMENT: text.encode(), **files, **shown})


def load_residual(path: Path) -> ResidualFolder:
    """Read a residual; raise CheckpointError naming what is absent, damaged or not known."""
    document = _read_document(path)
    weights = ActorWeights.from_bytes(_content(path / WEIGHTS, document))
    try:
        read = from_plain(_Plain, {name: document[name] for name in _KEYS if name != "learner"})
        sight = from_plain(Sight, document[SIGHT]) if SIGHT in document else None
    except ConfigError as error:
        raise CheckpointError(f"{path / DOCUMENT}: {error}") from error
    if weights.base_id != read.base_id:
        raise CheckpointError(f"{path}: weights correct policy '{weights.base_id}', the document '{read.base_id}'")
    if (seen := tuple(image.name for image in read.spec.observation.images)) != (sight.cameras if sight else ()):
        raise CheckpointError(
            f"{path}: the robot shows cameras {seen}, the residual looks at {sight and sight.cameras}"
        )
    encoder = _arrays(path / ENCODER, document) if sight else {}
    return ResidualFolder(**vars(read), weights=weights, learner=document["learner"], sight=sight, encoder=encoder)


def _content(file: Path, document: dict[str, Any]) -> bytes:
    content = read_file(file)
    if hashlib.sha256(content).hexdigest() != document[SHA256][file.name]:
        raise CheckpointError(f"{file}: damaged ({len(content)} bytes): its sha256 differs")
    return content


def _arrays(file: Path, document: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    try:
        arrays = load(_content(file, document))
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{file}: {name} is not finite")
    return arrays


@dataclass(frozen=True)
class _Plain:
    """What of the document is read by type."""

    task: str
    spec: RobotSpec
    base_id: str
    normalizer: Normalizer
    settings: ResidualSettings
    unit: tuple[float, ...]
    residual_max: tuple[float, ...]


def _read_document(path: Path) -> dict[str, Any]:
    file = path / DOCUMENT
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such folder. {beside(path, DOCUMENT)}")
    try:
        document = json.loads(read_file(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: is not JSON: {error}") from error
    head = {key: document.get(key) for key in _HEAD} if isinstance(document, dict) else {}
    if head not in (_HEAD, _HEAD_WITH_CAMERAS):
        raise CheckpointError(f"{file}: is no residual of the format '{_HEAD['format']}' 3 or 4")
    with_cameras = head == _HEAD_WITH_CAMERAS
    expected = {*_HEAD, *_KEYS, SHA256, *([SIGHT] if with_cameras else [])}
    for key in document:
        if key not in expected:
            raise CheckpointError(f"{file}: {unknown('key', key, expected)}")
    if missing := sorted(expected - set(document)):
        raise CheckpointError(f"{file}: lacks {', '.join(missing)}")
    files = [WEIGHTS, DOCUMENT, *([ENCODER] if with_cameras else [])]
    if not isinstance(document[SHA256], dict) or set(document[SHA256]) != set(files):
        raise CheckpointError(f"{file}: '{SHA256}' must name {', '.join(files)}")
    if digest(document) != document[SHA256][DOCUMENT]:
        raise CheckpointError(f"{file}: was changed after it was saved (its sha256 differs)")
    return document
