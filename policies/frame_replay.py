"""A replay of what cameras showed: every frame is kept once, as bytes, and rows say which are theirs.

An observation on its way into a row carries the number of its frame behind its vector. `NStep` needs not know: wherever
the row of an episode begins and ends, by success or by a time limit, the frames are those of its two observations.

Memory for one transition: cameras x image_px^2 x 3 bytes, 24,576 for two cameras of 64 px, and its row, 4 bytes for
each of 2 (O + 1) + 3 D + 2 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armature.errors import ConfigError, InvalidValue
from policies.replay import Batch, Layout, Vector

COUNTED = 2**24
"""Up to here float32 counts without a gap."""


@dataclass(frozen=True)
class PixelBatch(Batch):
    """Transitions with what the cameras showed before and after them, (B, cameras, image_px, image_px, 3) uint8."""

    images: Tensor
    next_images: Tensor

    def seen_as(self, observation: Tensor, next_observation: Tensor) -> Batch:
        """Return the transitions with what an encoder made of vectors and images in the place of both."""
        return Batch(observation, self.base, self.action, self.reward, self.discount, next_observation, self.next_base)


class FrameReplay:
    """Two rings, one of rows and one of frames; a row is forgotten with the first of its frames. Used by one thread."""

    def __init__(self, layout: Layout, capacity: int, frame_shape: tuple[int, ...]) -> None:
        """Keep the newest `capacity` frames, and at most as many rows; `layout` is that of the vectors alone.

        The last frame of an episode, after which no row begins, takes the place of a transition.
        """
        if not 1 <= capacity <= COUNTED // 2:
            raise ConfigError(f"capacity of a replay of frames is {capacity}, must be 1 to {COUNTED // 2}")
        self.layout = Layout(layout.observation_dim + 1, layout.action_dim)
        """Of the rows: an observation is a vector and the number of its frame."""
        self.capacity = capacity
        self.total = 0
        """Rows ever added."""
        self._oldest = 0
        """The first of them that can be drawn."""
        self._shown = 0
        """Frames ever kept."""
        self._numbers = COUNTED // capacity * capacity
        """Numbers begin anew after so many: a multiple of the capacity, so that they say the place as well."""
        self._rows = torch.zeros(capacity, sum(self.layout.sizes))
        # Not touched before there is something to keep: memory is taken as the ring fills.
        self._frames = torch.from_numpy(np.zeros((capacity, *frame_shape), dtype=np.uint8))
        self._newest_row = np.full(capacity, -1)
        """Of those that refer to the frame in this place."""

    def __len__(self) -> int:
        """Return how many rows can be drawn."""
        return self.total - self._oldest

    def show(self, observation: Vector, frame: NDArray[np.uint8]) -> Vector:
        """Keep a frame, over the oldest one where it is full; return the observation with the frame's number."""
        number = self._shown % self._numbers
        place = number % self.capacity
        self._oldest = max(self._oldest, int(self._newest_row[place]) + 1)
        self._newest_row[place] = -1
        self._frames[place] = torch.from_numpy(frame)
        self._shown += 1
        return np.append(observation, np.float32(number))

    def add(self, rows: list[Vector]) -> None:
        """Append rows of `layout`, over the oldest ones; raise InvalidValue where a frame of one is gone already."""
        for row in rows:
            transition = torch.from_numpy(row)
            places = [self._place(int(number)) for number in self._numbers_of(self.layout.split(transition[None]))]
            self._rows[self.total % self.capacity] = transition
            self._newest_row[places] = self.total
            self.total += 1
            self._oldest = max(self._oldest, self.total - self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> PixelBatch:
        """Draw `count` rows, uniformly and with replacement; raise InvalidValue while there is none."""
        if not len(self):
            raise InvalidValue("nothing to learn from: the replay buffer is empty")
        drawn = self._oldest + torch.randint(len(self), (count,), generator=generator)
        batch = self.layout.split(self._rows[drawn % self.capacity])
        images, next_images = (self._frames[number % self.capacity] for number in self._numbers_of(batch))
        found = {each.name: getattr(batch, each.name) for each in fields(batch)}
        for name in ("observation", "next_observation"):
            found[name] = found[name][:, :-1]
        return PixelBatch(**found, images=images, next_images=next_images)

    def _numbers_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.observation[:, -1].long(), batch.next_observation[:, -1].long()

    def _place(self, number: int) -> int:
        age = (self._shown - number) % self._numbers
        if not 1 <= age <= self.capacity:
            raise InvalidValue(
                f"a transition came after its frame was overwritten: a capacity of {self.capacity} is too small for so "
                "many robots at once"
            )
        return number % self.capacity
