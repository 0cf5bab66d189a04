"""The residual at work: which weights act, in which episodes, and what they answer. No torch.

Weights are swapped between episodes only and never go back in version; those in use are kept on disk, so that a process
that is started again goes on with them, whoever else is dead.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from armature.errors import CheckpointError
from armature.filesystem import Fs, replace_file
from policies.actor_weights import ActorWeights
from policies.exploration import CorrelatedNoise, is_judged
from policies.residual_folder import ResidualFolder
from policies.residual_view import ResidualView
from policies.step_log import CONTROL, EXPLORING, Vector


class ResidualActing:
    """Answers base actions with motions away from them. Used by one thread."""

    def __init__(
        self,
        residual: ResidualFolder,
        view: ResidualView,
        kept: Path,
        *,
        explore: bool,
        control_every: int,
        seed: int = 0,
    ) -> None:
        """`kept` is where the weights in use are kept; every `control_every`-th episode is the base's alone, 0: none.

        Raises CheckpointError where what is kept is damaged, or of another residual.
        """
        self.refused: Counter[str] = Counter()
        """Weights that were not taken, by reason."""
        self.fault = ""
        """Why the weights in use could not be kept."""
        self._residual, self._kept = residual, kept
        self._reach = residual.reach(view)
        self._explore, self._control_every, self._seed = explore, control_every, seed
        self._weights = self._newest_kept(residual.weights)
        self._next: ActorWeights | None = None
        self._noise: CorrelatedNoise | None = None
        self._is_control = True

    @property
    def version(self) -> int:
        """Return the version of the weights in use."""
        return self._weights.version

    @property
    def waiting_version(self) -> int | None:
        """Return the version of the weights that the next episode begins with, where they are others."""
        return None if self._next is None else self._next.version

    @property
    def share(self) -> float:
        """Return to which share of its reach the residual is cut in this episode; 0: the base acts alone."""
        return 0.0 if self._is_control else self._weights.share

    @property
    def flags(self) -> int:
        """Return the marks of this episode's records."""
        return (CONTROL if self._is_control else 0) | (EXPLORING if self._noise is not None else 0)

    @property
    def source(self) -> str:
        """Return the name under which corrections go out."""
        return f"residual-v{self.version}"

    def offer(self, data: bytes) -> None:
        """Take weights for the episodes to come; raise CheckpointError, and count it, where they cannot be used."""
        try:
            weights = ActorWeights.from_bytes(data)
            self._residual.require_weights(weights)
        except CheckpointError:
            self.refused["damaged or of another residual"] += 1
            raise
        newest = self.version if self._next is None else self._next.version
        if weights.version < newest:
            self.refused["older"] += 1
            raise CheckpointError(f"weights of version {weights.version}: those of version {newest} are here already")
        if weights.version > newest:
            self._next = weights

    def begin_episode(self, number: int) -> None:
        """Begin an episode with the newest weights; by the base alone if it is its turn, every third has no noise."""
        if self._next is not None:
            self._weights, self._next = self._next, None
            self._keep()
        every = self._control_every
        self._is_control = every > 0 and number % every == every - 1
        explores = self._explore and not (self._is_control or is_judged(number)) and self._weights.noise_std > 0
        rng = np.random.default_rng((self._seed, number))
        memory_steps = self._residual.settings.noise_memory_steps
        self._noise = CorrelatedNoise(len(self._reach), memory_steps, rng) if explores else None

    def motion(self, observation: Vector, base: Vector) -> NDArray[np.float64]:
        """Return how far aside to go in this step (D,), in physical units; see `Detour`.

        It answers what is seen (O,) and the base action (D,), normalised.
        """
        if self._is_control:
            return np.zeros_like(self._reach)
        residual = self._weights.residual(observation, base).astype(np.float64)
        if self._noise is not None:
            residual += self._weights.noise_std * self._noise.next()
        return residual.clip(-1.0, 1.0) * self._reach

    def _newest_kept(self, first: ActorWeights) -> ActorWeights:
        if not self._kept.exists():
            return first
        try:
            kept = ActorWeights.from_bytes(self._kept.read_bytes())
            self._residual.require_weights(kept)
        except CheckpointError as error:
            raise CheckpointError(f"{self._kept}: {error}") from error
        return max(first, kept, key=lambda weights: weights.version)

    def _keep(self) -> None:
        """Keep the weights in use; where the disk refuses, they act all the same."""
        try:
            replace_file(Fs(), self._kept, self._weights.to_bytes())
            self.fault = ""
        except OSError as error:
            self.fault = f"{self._kept}: {error.strerror}"
