"""Begin a training with the weights of a checkpoint: of the same robot (fine-tuning), or of another one.

Another robot has other states and actions. A family whose method names its `embodiment_modules` keeps its trunk and
makes those anew; the networks of the cameras stay where both robots have the same cameras.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from armature.config import from_plain, to_plain
from armature.errors import CheckpointError, ConfigError, SpecMismatch
from armature.normalizer import Normalizer
from armature.spec import RobotSpec, differences
from policies.checkpoint import WEIGHTS, read_checkpoint, read_document
from policies.chunk_policy import ACTION, ChunkPolicy
from policies.policy_config import PolicyConfig
from policies.registry import METHODS, method_class
from policies.sampler import changes, leaves
from policies.signed_folder import SHA256
from policies.train_config import TrainConfig

INIT_FROM = "init_from"
RANGE_MAX = 1.1
"""How far actions may lead beyond the range of those that were learned before, which is -1 to 1."""
_EQUAL_FOR_ANY_ROBOT = ("obs_steps", "chunk_steps")
_EQUAL_FOR_THE_SAME_ROBOT = (*_EQUAL_FOR_ANY_ROBOT, "relative_actions")


def initialised(policy: ChunkPolicy, config: TrainConfig) -> ChunkPolicy:
    """Return `policy`, new for this training, with what `config.init_from` brings; unchanged where that is None.

    Fine-tuning for the same robot also takes over the normaliser, without which the weights would mean something else;
    actions that are far out of its range, which no sample would reach, are refused.
    A resumed training takes its normaliser from its own checkpoint, and afterwards its weights from its state.

    Raises ConfigError or SpecMismatch naming every field that differs, CheckpointError on a checkpoint that cannot be
    read, is of another family or has other tensors.
    """
    if config.init_from is None:
        if config.new_embodiment:
            raise ConfigError("new_embodiment is true, but init_from is not set: name the checkpoint of the trunk")
        return policy
    if _is_under_way(config):
        return _normalized_as(policy, read_document(config.out / "checkpoint"))
    document, weights = read_checkpoint(config.init_from)
    _require_method(config.init_from, document, policy)
    if config.new_embodiment:
        _load_trunk(config.init_from, document, weights, policy)
        return policy
    _require_same_robot(config.init_from, document, policy)
    found, policy = policy.normalizer, _normalized_as(policy, document)
    _require_range(config, found, policy)
    _load(config.init_from, policy, weights, ())
    return policy


def origin_of(config: TrainConfig) -> dict[str, Any]:
    """Describe for the provenance with which checkpoint the training began; empty where with none."""
    if config.init_from is None:
        return {}
    if _is_under_way(config):
        return {INIT_FROM: read_document(config.out / "checkpoint")["provenance"][INIT_FROM]}
    document = read_document(config.init_from)
    return {
        INIT_FROM: {
            "checkpoint": str(config.init_from),
            "sha256": document[SHA256][WEIGHTS],
            "dataset_fingerprint": document["provenance"].get("dataset_fingerprint"),
            "new_embodiment": config.new_embodiment,
        }
    }


def _is_under_way(config: TrainConfig) -> bool:
    """Tell whether a training is continued whose own checkpoint says it all: the first one may be gone by now."""
    return config.resume and (config.out / "checkpoint").exists()


def _require_method(path: Path, document: dict[str, Any], policy: ChunkPolicy) -> None:
    if document["family"] != policy.family:
        raise CheckpointError(f"{path}: is of the family {document['family']}, this training is of {policy.family}")
    # Through the config, so that a field that is younger than the checkpoint has its default.
    before = from_plain(type(policy.method_config), document["method"])
    free = (*policy.method.loss_fields, *policy.method.sampling_fields)
    found = changes(before, policy.method_config)
    if differing := {name: pair for name, pair in found.items() if name not in free}:
        _differ(path, "method", differing)


def _require_same_robot(path: Path, document: dict[str, Any], policy: ChunkPolicy) -> None:
    before, now = _policy_of(document), to_plain(policy.config)
    seen = RobotSpec.from_json(document["spec"])
    if found := differences(seen, policy.spec) or differences(policy.spec, seen):
        hint = "another robot needs --new-embodiment"
        raise SpecMismatch(f"{path} does not fit the dataset's robot ({hint}): {'; '.join(found)}")
    sees = bool(policy.spec.observation.images)
    _require_equal(path, "policy", *(_shaping(part, _EQUAL_FOR_THE_SAME_ROBOT, sees) for part in (before, now)))
    if before["observations"] != now["observations"]:
        _differ(path, "policy", {"observations": (before["observations"], now["observations"])})


def _policy_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a checkpoint's policy; fields that are younger than it have their defaults."""
    return to_plain(from_plain(PolicyConfig, document["policy"]))


def _load_trunk(path: Path, document: dict[str, Any], weights: dict[str, Tensor], policy: ChunkPolicy) -> None:
    method = method_class(policy.family)
    if not hasattr(method, "embodiment_modules"):
        able = [family for family in METHODS if hasattr(method_class(family), "embodiment_modules")]
        raise ConfigError(
            f"new_embodiment: a policy of the family {policy.family} has no trunk. Valid: {', '.join(able)}"
        )
    before, now = _policy_of(document), to_plain(policy.config)
    images, renewed = policy.spec.observation.images, [f"method.{name}" for name in method.embodiment_modules]
    has_same_eyes = RobotSpec.from_json(document["spec"]).observation.images == images
    if not has_same_eyes:
        renewed += ["encoder", *(f"method.{name}" for name in method.camera_modules)]
    sees = has_same_eyes and bool(images)
    _require_equal(path, "policy", *(_shaping(part, _EQUAL_FOR_ANY_ROBOT, sees) for part in (before, now)))
    if images and not has_same_eyes:
        # The trunk has learned what the tokens of a pretrained tower mean, whoever's cameras it looks through.
        _require_equal(path, "policy", *(_tower(part["vision"]) for part in (before, now)))
    _load(path, policy, weights, tuple(renewed))


def _shaping(policy: dict[str, Any], names: tuple[str, ...], sees: bool) -> dict[str, Any]:
    """Return by dotted names what shapes the networks of a policy's config, the image networks' where it `sees`."""
    parts = {name: policy[name] for name in names}
    if policy["text"]["folder"]:
        parts["text"] = _named(policy["text"], "folder", "fingerprint")
    if sees:
        pretrained = _named(policy["vision"]["pretrained"], "folders", "fingerprints")
        parts["vision"] = {**policy["vision"], "pretrained": pretrained}
    return dict(leaves(parts))


def _tower(vision: dict[str, Any]) -> dict[str, Any]:
    """Return by dotted names what makes the tokens of pretrained towers; nothing of images that are learned to see."""
    if vision["network"] != "pretrained":
        return {}
    pretrained = _named(vision["pretrained"], "folders", "fingerprints")
    parts = {"network": vision["network"], "pooling": vision["pooling"], "pretrained": pretrained}
    return dict(leaves({"vision": parts}))


def _named(tower: dict[str, Any], place: str, fingerprint: str) -> dict[str, Any]:
    """Leave out where a pretrained tower lies, once its fingerprint says which it is."""
    return {name: value for name, value in tower.items() if name != place or not tower[fingerprint]}


def _load(path: Path, policy: ChunkPolicy, weights: dict[str, Tensor], renewed: tuple[str, ...]) -> None:
    """Copy into the policy all weights but those of the modules `renewed`; the others have to fit exactly."""

    def kept(name: str) -> bool:
        return not any(name == module or name.startswith(f"{module}.") for module in renewed)

    brought = {name: tensor.float() for name, tensor in weights.items() if kept(name)}
    expected = {name: tensor for name, tensor in policy.state_dict().items() if kept(name)}
    shapes = [{name: tuple(tensor.shape) for name, tensor in part.items()} for part in (brought, expected)]
    _require_equal(path, "tensor", *shapes)
    policy.load_state_dict(brought, strict=False)


def _normalized_as(policy: ChunkPolicy, document: dict[str, Any]) -> ChunkPolicy:
    normalizer = Normalizer.from_json(document["normalizer"])
    made = ChunkPolicy(policy.family, policy.config, policy.method_config, policy.spec, normalizer)
    return made.to(policy.action_layer.scale.device)


def _require_range(config: TrainConfig, found: Normalizer, policy: ChunkPolicy) -> None:
    """Raise ConfigError where actions of the dataset, of statistics `found`, lead beyond those of the checkpoint's."""
    stats, known = found.fields[ACTION], policy.normalizer.fields[ACTION]
    low, high = (policy.normalizer.apply(ACTION, np.array(end)) for end in (stats.minimum, stats.maximum))
    for element, label in enumerate(policy.spec.action.labels):
        if max(-low[element], high[element]) > RANGE_MAX:
            now, before = (f"{each.minimum[element]:.4g} to {each.maximum[element]:.4g}" for each in (stats, known))
            raise ConfigError(
                f"{config.dataset}: action {label} goes from {now}, that of {config.init_from} from {before}, and what "
                "it samples no further. Leave out the episodes that do, or train without --init-from"
            )


def _require_equal(path: Path, what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    absent = "none"
    pairs = {key: (before.get(key, absent), now.get(key, absent)) for key in {**before, **now}}
    if differing := {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}:
        _differ(path, what, differing)


def _differ(path: Path, what: str, differing: dict[str, tuple[Any, Any]]) -> None:
    found = [f"{what}.{key}: has {before}, this training {now}" for key, (before, now) in differing.items()]
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    raise ConfigError(f"{path} does not fit this training: {'; '.join(found[:5])}{more}")
