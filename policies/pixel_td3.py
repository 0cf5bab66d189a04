"""Residual TD3 from pixels: the same updates, on what an encoder makes of vectors and images.

Only the critics teach the encoder: the gradient of their loss at what they saw goes on into it, and is clipped by
itself there. The actor sees its features and moves none of them.
"""

from __future__ import annotations

import torch

from policies.frame_replay import PixelBatch
from policies.residual_encoder import ResidualEncoder
from policies.residual_td3 import ResidualTd3


class PixelTd3:
    """A `ResidualTd3` behind an encoder, with its methods for batches with images."""

    keeps = False

    def __init__(self, td3: ResidualTd3, encoder: ResidualEncoder) -> None:
        """`td3` takes observations of as many numbers as the vectors and all features have together."""
        self.encoder = encoder
        # An average of actors would answer features of encoders that are no more: the newest acts.
        self.actor = self.acting = td3.actor
        self.reach, self.generator = td3.reach, td3.generator
        self._td3 = td3

    def update_critics(self, batch: PixelBatch, share: float = 1.0) -> dict[str, float]:
        """Take one step of critics and encoder; return figures for the log."""
        seen = self.encoder.augmented(batch.observation, batch.images)
        with torch.no_grad():
            next_seen = self.encoder.augmented(batch.next_observation, batch.next_images)
        # What goes back through the critics ends here, and from here on through the encoder.
        met = seen.detach().requires_grad_()
        figures = self._td3.update_critics(batch.seen_as(met, next_seen), share)
        return figures | {"encoder_norm": self.encoder.learn(seen, met.grad)}

    def update_actor(
        self, batch: PixelBatch, shown: int = 0, *, share: float = 1.0, belief: float = 1.0
    ) -> dict[str, float]:
        """Take one step of the actor alone; return figures for the log."""
        with torch.no_grad():
            seen = self.encoder.augmented(batch.observation, batch.images)
        # An actor's step looks at nothing that follows.
        return self._td3.update_actor(batch.seen_as(seen, seen), shown, share=share, belief=belief)

    def keep_actor(self) -> None:
        """Remember nothing: what an actor answers is lost with the encoder that it learned to see with."""

    def fall_back(self) -> None:
        """Return to the actor that corrects nothing, whatever the encoder makes of what it sees."""
        self._td3.fall_back()
