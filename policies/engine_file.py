"""The file of an engine, a folder in that of its checkpoint: derived from the weights, and refused beside any others.

engine.json     what the graph takes and returns; sha256 of the checkpoint it was made from and of the files beside it
model.xml, .bin the graph and its constants

Saving the checkpoint again removes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from armature.config import from_plain, to_plain
from armature.errors import CheckpointError, ConfigError
from policies.openvino_runtime import MODEL, WEIGHTS
from policies.sampling_graph import Signature
from policies.signed_folder import SHA256, digest, read_file, replace_folder

ENGINE, DOCUMENT = "engine", "engine.json"
_HEAD = {"format": "armature-engine", "format_version": 1}
_KEYS = {*_HEAD, "signature", "checkpoint", "provenance", SHA256}
_AGAIN = "make it again: armature export"


def write_engine(
    path: Path, sums: Mapping[str, str], signature: Signature, model: Mapping[str, bytes], provenance: Mapping[str, Any]
) -> Path:
    """Write the engine of the checkpoint at `path`, whose files have the sha256 `sums`; replace one that is there."""
    document = {
        **_HEAD,
        "signature": to_plain(signature),
        "checkpoint": dict(sums),
        "provenance": dict(provenance),
    }
    files = {name: hashlib.sha256(content).hexdigest() for name, content in model.items()}
    text = json.dumps({**document, SHA256: {**files, DOCUMENT: digest(document)}}, indent=1) + "\n"
    replace_folder(path / ENGINE, {**model, DOCUMENT: text.encode()})
    return path / ENGINE


def read_engine(path: Path, sums: Mapping[str, str]) -> Signature:
    """Check the engine of the checkpoint at `path` and return what it takes and returns.

    Raises CheckpointError when it is absent, damaged, or made from other files than those with the sha256 `sums`.
    """
    folder = path / ENGINE
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such engine; make it: armature export {path}")
    document = _read_document(folder / DOCUMENT, path)
    for name in (MODEL, WEIGHTS):
        if hashlib.sha256(read_file(folder / name)).hexdigest() != document[SHA256].get(name):
            raise CheckpointError(f"{folder / name}: damaged; {_AGAIN} {path}")
    if document["checkpoint"] != dict(sums):
        raise CheckpointError(f"{folder}: was made from another checkpoint than the one it lies in; {_AGAIN} {path}")
    try:
        return from_plain(Signature, document["signature"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / DOCUMENT}: {error}") from error


def _read_document(file: Path, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_file(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: is not JSON: {error}; {_AGAIN} {path}") from error
    if not isinstance(document, dict) or {key: document.get(key) for key in _HEAD} != _HEAD:
        raise CheckpointError(
            f"{file}: this version reads {_HEAD['format']} {_HEAD['format_version']}; {_AGAIN} {path}"
        )
    is_whole = document.keys() == _KEYS and isinstance(document[SHA256], dict)
    if not is_whole or digest(document) != document[SHA256].get(DOCUMENT):
        raise CheckpointError(f"{file}: was changed after it was saved (its sha256 differs); {_AGAIN} {path}")
    return document
