"""What a policy sees and how many actions it predicts, whatever its method."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from armature.errors import ConfigError
from armature.spec import AGENT_POSITION, JOINT_POSITION, RobotSpec
from policies import language
from policies.language import TextConfig
from policies.nets import pretrained_vision
from policies.nets.observation import VisionConfig


@dataclass(frozen=True)
class PolicyConfig:
    """Inputs and outputs of a policy."""

    observations: tuple[str, ...] = ()
    """Names of the arrays it sees, of those that the robot's spec offers; none named: all of them."""
    obs_steps: int = 1
    """Aligned steps of history, the present one included."""
    chunk_steps: int = 16
    """Actions predicted per chunk; the first is due at the latest observation."""
    relative_actions: bool = False
    """Predict joint or planar targets relative to the positions of the latest observation [rad or px]."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    goal_steps: int = 0
    """Later steps of the vector observations given as the goal, of a family that takes one; 0 for a policy without."""
    vector_noise: float = 0.0
    """Deviation of the noise added to vector observations in training, in normalised units (their range is 2)."""
    text: TextConfig = field(default_factory=TextConfig)
    """What embeds prompts, for a policy that is told what to do."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("obs_steps", "chunk_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.goal_steps < 0:
            raise ConfigError(f"goal_steps is {self.goal_steps}, must not be negative")
        if not 0 <= self.vector_noise < math.inf:
            raise ConfigError(f"vector_noise is {self.vector_noise}, must be finite and not negative")
        if twice := [name for name, count in Counter(self.observations).items() if count > 1]:
            raise ConfigError(f"observations names {', '.join(twice)} more than once")

    def seen(self, offered: RobotSpec) -> RobotSpec:
        """Narrow the spec of a robot to what the policy sees of it; raise SpecMismatch on an array it does not have."""
        return offered.select(self.observations or offered.observation.names)

    @property
    def takes_prompt(self) -> bool:
        """Tell whether the policy is told what to do."""
        return bool(self.text.folder)

    def pinned(self) -> PolicyConfig:
        """Fill in the fingerprints of pretrained folders; raise ConfigError naming one that is not as it was."""
        vision = self.vision
        if vision.network == "pretrained":
            vision = replace(vision, pretrained=pretrained_vision.pin(vision.pretrained))
        return replace(self, vision=vision, text=language.pin(self.text))


_POSITION_OF = {"joint_position": JOINT_POSITION, "planar_position": AGENT_POSITION}


class RelativePart(NamedTuple):
    """The elements of the action that are predicted relative to an observed position, and its name."""

    position: str
    elements: slice


def relative_part(config: PolicyConfig, spec: RobotSpec) -> RelativePart | None:
    """Return what is predicted relative to the latest observed position; None for nothing."""
    if not config.relative_actions:
        return None
    position = _POSITION_OF.get(spec.action.kind)
    if position not in spec.observation.names:
        observed, kinds = ", ".join(spec.observation.names), " or ".join(_POSITION_OF)
        raise ConfigError(
            f"relative_actions needs a {kinds} action and that position among the observations, "
            f"got {spec.action.kind} and {observed}"
        )
    return RelativePart(position, spec.action.slice_of(position))
