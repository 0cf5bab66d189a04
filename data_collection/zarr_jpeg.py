"""The Zarr codec `armature.jpeg`: lets zarr-python read (and write) image streams that are stored as JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec as ZarrArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from data_collection.blocks import decode_jpeg, encode_jpeg


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One RGB image (1, H, W, 3) uint8 per chunk."""

    quality: int = 95
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JpegCodec:
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "armature.jpeg", "configuration": {"quality": self.quality}}

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: ZarrArraySpec) -> int:
        raise ValueError("the size of a JPEG is not known beforehand")

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ZarrArraySpec) -> Buffer | None:
        image = np.asarray(chunk_data.as_numpy_array())[0]
        return chunk_spec.prototype.buffer.from_bytes(encode_jpeg(image, self.quality))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ZarrArraySpec) -> NDBuffer:
        image = decode_jpeg(chunk_data.to_bytes(), chunk_spec.shape[1:])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(image[None])
