"""A folder of one safetensors file and one JSON document: written whole or not at all, verified before use.

Checkpoints and training states are such folders. Nothing here can run code that a file brings along.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from armature.errors import CheckpointError, beside, unknown
from policies.signed_folder import SHA256, digest, read_file, replace_folder


@dataclass(frozen=True)
class TensorFolder:
    """The names of the two files, the name and version of the format, and the keys that the document has to have."""

    tensors_name: str
    document_name: str
    format: str
    format_version: int
    keys: tuple[str, ...]
    is_finite: bool = True
    """Refuse tensors that are not finite when reading."""

    def write(self, path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Write the folder at `path`, in place of one that is there; a crash leaves the old one or the new one."""
        document = {**self._head, **document}
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        sums = {self.tensors_name: hashlib.sha256(content).hexdigest(), self.document_name: digest(document)}
        text = json.dumps({**document, SHA256: sums}, indent=1, allow_nan=False) + "\n"
        replace_folder(path, {self.tensors_name: content, self.document_name: text.encode()})

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return document and tensors; raise CheckpointError naming what is absent, damaged or not known."""
        document = self._read_document(path)
        content = read_file(path / self.tensors_name)
        found, expected = hashlib.sha256(content).hexdigest(), document[SHA256][self.tensors_name]
        if found != expected:
            sums = f"sha256 {found[:12]}…, expected {expected[:12]}…"
            raise CheckpointError(f"{path / self.tensors_name}: damaged ({len(content)} bytes): {sums}")
        try:
            tensors = load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path / self.tensors_name}: cannot be read: {error}") from error
        for name, tensor in tensors.items():
            if self.is_finite and not torch.isfinite(tensor).all():
                raise CheckpointError(f"{path / self.tensors_name}: {name} is not finite")
        return document, tensors

    @property
    def _head(self) -> dict[str, Any]:
        return {"format": self.format, "format_version": self.format_version}

    def _read_document(self, path: Path) -> dict[str, Any]:
        if not path.is_dir():
            raise CheckpointError(f"{path}: there is no such folder. {beside(path, self.document_name)}")
        file = path / self.document_name
        try:
            document = json.loads(read_file(file))
        except ValueError as error:
            raise CheckpointError(f"{file}: is not JSON: {error}") from error
        self._check_keys(file, document)
        sums = document[SHA256]
        if not isinstance(sums, dict) or set(sums) != {self.tensors_name, self.document_name}:
            raise CheckpointError(f"{file}: '{SHA256}' must name {self.tensors_name} and {self.document_name}")
        if digest(document) != sums[self.document_name]:
            raise CheckpointError(f"{file}: was changed after it was saved (its sha256 differs)")
        return document

    def _check_keys(self, file: Path, document: Any) -> None:
        if not isinstance(document, dict):
            raise CheckpointError(f"{file}: expected a JSON object, got {type(document).__name__}")
        if (found := {key: document.get(key) for key in self._head}) != self._head:
            words = f"format {found['format']} {found['format_version']}"
            raise CheckpointError(f"{file}: {words}, this version reads {self.format} {self.format_version}")
        expected = {*self._head, *self.keys, SHA256}
        for key in document:
            if key not in expected:
                raise CheckpointError(f"{file}: {unknown('key', key, expected)}")
        if missing := sorted(expected - set(document)):
            raise CheckpointError(f"{file}: lacks {', '.join(missing)}")
