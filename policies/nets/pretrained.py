"""Folders of pretrained weights: found, checked and fingerprinted here, then built by `transformers`.

Nothing is downloaded and nothing that a folder brings along is executed: the class of the network comes from a table of
ours, weights only from safetensors. `transformers` is imported when a config names a folder, not before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from armature.errors import ConfigError, beside, unknown

MODELS = "ARMATURE_MODELS"
"""Environment variable: where folders given by a relative path lie; unset: in the working directory."""

CONFIG, TOKENIZER, IMAGES = "config.json", "tokenizer.json", "preprocessor_config.json"
_WEIGHTS = "*.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Everything that changes what an encoder gives; a README may change.
_HASHED = (CONFIG, TOKENIZER, IMAGES, _WEIGHTS)


@dataclass(frozen=True)
class PretrainedFolder:
    """A folder that holds what is needed: `config` is its config.json, `fingerprint` changes with any weight."""

    path: Path
    config: Mapping[str, Any]
    fingerprint: str

    @property
    def model_type(self) -> str:
        """Return the architecture as transformers names it."""
        return str(self.config.get("model_type"))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in one of its files, empty where there is no such file."""
        return _read_json(self.path / name) if (self.path / name).is_file() else {}


def open_folder(name: str, what: str, known: Mapping[str, Any], fingerprint: str = "") -> PretrainedFolder:
    """Check the folder `name` for an encoder of the architectures in `known`; `what` names the option it came from.

    Raises ConfigError for a folder that is absent, of another architecture, without or with damaged safetensors, or,
    where a `fingerprint` is given, with another one.
    """
    path = _find(name, what)
    config = _read_json(path / CONFIG)
    if str(config.get("model_type")) not in known:
        raise ConfigError(f"{what} {path}: {unknown('model_type', str(config.get('model_type')), known)}")
    _check_weights(path, what)
    found = _fingerprint(path, _state(path))
    if fingerprint not in ("", found):
        raise ConfigError(f"{what} {path}: its fingerprint is {found}, the policy was trained with {fingerprint}")
    return PretrainedFolder(path, config, found)


def load_network(folder: PretrainedFolder, class_name: str) -> nn.Module:
    """Build the class of `transformers` with the folder's weights in float32, in evaluation mode.

    Raises ConfigError where the folder lacks weights that the network has.
    """
    import transformers

    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    with _quiet(transformers):
        try:
            model, found = getattr(transformers, class_name).from_pretrained(
                folder.path, dtype=torch.float32, output_loading_info=True, **options
            )
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
            raise ConfigError(f"{folder.path}: is no {class_name}: {error}") from error
    # transformers would fill them with random numbers.
    if missing := sorted(found["missing_keys"]):
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ConfigError(f"{folder.path}: lacks weights of a {class_name}: {shown}")
    return model.eval()


def _find(name: str, what: str) -> Path:
    if not name:
        raise ConfigError(f"{what} is empty: name the folder of a pretrained encoder")
    path = Path(os.environ.get(MODELS, ""), name)
    if not path.is_dir():
        hint = "" if Path(name).is_absolute() else f" (relative folders are looked for in ${MODELS})"
        raise ConfigError(f"{what} {path}: there is no such folder{hint}. {beside(path, CONFIG)}")
    return path


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: expected a JSON object, got {type(document).__name__}")
    return document


def _check_weights(path: Path, what: str) -> None:
    files = sorted(path.glob(_WEIGHTS))
    pickles = [file.name for pattern in _PICKLES for file in path.glob(pattern)]
    if not files and pickles:
        raise ConfigError(
            f"{what} {path}: holds pickled weights only ({pickles[0]}), which can run code when they are loaded; "
            "docs/adr/011-pretrained-encoders.md says how to convert them"
        )
    if not files:
        raise ConfigError(f"{what} {path}: holds no safetensors")
    for file in files:
        try:
            # Opening compares the header with the size of the file.
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file}: damaged ({file.stat().st_size} bytes): {error}") from error


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of change of the files that count."""
    files = sorted({file for pattern in _HASHED for file in path.glob(pattern)})
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


# Large weights take seconds to hash; a process asks for the same ones again and again.
@lru_cache(maxsize=16)
def _fingerprint(path: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for name, _, _ in state:
        with (path / name).open("rb") as file:
            total.update(f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep its progress bars and warnings off the terminal; what matters of them is an error here."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
