"""From the images of a robot to those that a residual sees: the same for demonstrations and for what happens now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue
from policies.residual_sight import Sight

Frame = NDArray[np.uint8]
"""What all cameras show at one moment, (cameras, image_px, image_px, 3)."""


def frame_of(sight: Sight, values: Mapping[str, NDArray[Any]]) -> Frame:
    """Return the frame of one moment; images that are larger are shrunk by area.

    Raises InvalidValue naming a camera whose image is smaller, or no square.
    """
    return np.stack([_shrunk(name, values[name], sight) for name in sight.cameras])


def can_show(sight: Sight, shape: tuple[int, ...]) -> bool:
    """Tell whether images (H, W, 3) of a `shape` can become those of `sight`."""
    height, width = shape[:2]
    return height == width >= sight.image_px


def _shrunk(name: str, image: NDArray[Any], sight: Sight) -> NDArray[np.uint8]:
    if not can_show(sight, image.shape):
        wanted = f"a square of at least {sight.image_px} px"
        raise InvalidValue(f"{name}: image of {image.shape[0]} x {image.shape[1]}, expected {wanted}")
    if len(image) == sight.image_px:
        return image
    return np.asarray(cv2.resize(image, (sight.image_px,) * 2, interpolation=cv2.INTER_AREA), np.uint8)
