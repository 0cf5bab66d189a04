"""The one interface of everything that decides: networks, scripted experts, operators."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from armature.spec import RobotSpec
from armature.types import ActionChunk, CommittedActions, Observation


@runtime_checkable
class Policy(Protocol):
    """A policy answers an observation with a chunk of actions; chunking, safety and recording wrap this interface."""

    spec: RobotSpec
    """The observations it needs (a subset of what the robot offers) and the action it gives."""
    obs_steps: int
    """How many aligned steps of history an observation must hold."""
    policy_id: str

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: forget history; `seed` fixes every random draw until the next reset."""
        ...

    def infer(self, observation: Observation, committed: CommittedActions | None = None) -> ActionChunk:
        """Answer one observation; the chunk carries the observation's stamp and starts at it.

        Where `committed` says what is executed meanwhile, the chunk goes on from that (real-time chunking); a policy
        that cannot raises ConfigError.
        """
        ...
