"""From pixels to what actor and critics see: a small network for each camera, learned from the critics' loss alone.

Random shifts as in DrQ-v2 (Yarats et al. 2021, arXiv 2107.09645): the edge is repeated outwards and a window of the old
size cut out, elsewhere for every image, so that what is seen before and after a transition moves independently. From
there, too: layer normalisation and tanh, which keep features as large as the vectors beside them; and what follows a
transition is seen by the network itself, not by a slowly following copy (neither has Ankile et al. 2025 one).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from armature.errors import CheckpointError
from policies.device import compute_in_float32
from policies.nets.vision import ImageEncoder, crop, random_corners
from policies.residual_folder import ResidualFolder
from policies.residual_sight import EncoderConfig, Sight


def random_shift(images: Tensor, shift_px: int, generator: torch.Generator) -> Tensor:
    """Move each of the images (B, H, W, 3) by -shift_px to shift_px rows and columns; its edge fills what opens."""
    padded = _repeat_edge(_repeat_edge(images, 1, shift_px), 2, shift_px)
    corners = random_corners(len(images), 2 * shift_px, generator)
    return crop(padded[:, None], 2 * shift_px, corners)[:, 0]


def _repeat_edge(images: Tensor, axis: int, count: int) -> Tensor:
    before, after = images.narrow(axis, 0, 1), images.narrow(axis, images.shape[axis] - 1, 1)
    shape = list(images.shape)
    shape[axis] = count
    return torch.cat([before.expand(shape), images, after.expand(shape)], dim=axis)


class ResidualEncoder(nn.Module):
    """Makes features of the images of some cameras and puts them behind the vectors."""

    def __init__(self, sight: Sight, seed: int = 0) -> None:
        super().__init__()
        compute_in_float32()
        self.sight = sight
        config = sight.encoder
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cameras = nn.ModuleList(_camera(config) for _ in sight.cameras)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=config.lr, weight_decay=0.0, fused=True)

    def forward(self, observation: Tensor, images: Tensor) -> Tensor:
        """Return observations (B, O + features) of vectors (B, O) and images (B, cameras, P, P, 3) uint8, unmoved."""
        features = [camera(images[:, i]) for i, camera in enumerate(self.cameras)]
        return torch.cat([observation, *features], dim=-1)

    def augmented(self, observation: Tensor, images: Tensor) -> Tensor:
        """Return the same for images that are moved at random, each by itself."""
        moved = random_shift(images.flatten(0, 1), self.sight.encoder.shift_px, self.generator)
        return self(observation, moved.view(images.shape))

    def learn(self, seen: Tensor, gradient: Tensor | None) -> float:
        """Take one step down a loss whose gradient at what was `seen` is known; return the norm of its own gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        seen.backward(gradient)
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.sight.encoder.grad_norm_max)
        self.optimizer.step()
        return float(norm)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights as they are now, to be saved."""
        return {name: np.ascontiguousarray(t.detach().cpu().clone().numpy()) for name, t in self.state_dict().items()}

    @classmethod
    def of(cls, residual: ResidualFolder) -> ResidualEncoder:
        """Return the encoder of a saved residual; raise CheckpointError where there is none, or it does not fit."""
        if residual.sight is None:
            raise CheckpointError("the residual looks at no camera: it has no encoder")
        encoder = cls(residual.sight)
        try:
            encoder.load_state_dict({name: torch.from_numpy(array) for name, array in residual.encoder.items()})
        except RuntimeError as error:
            raise CheckpointError(f"the encoder of the residual does not fit its settings: {error}") from error
        return encoder


def _camera(config: EncoderConfig) -> nn.Module:
    network = ImageEncoder(config.channels, config.strides, config.features)
    return nn.Sequential(network, nn.LayerNorm(config.features), nn.Tanh())
