"""Prompts: which text tower embeds them, and their embeddings, computed once in the life of a process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from policies.nets.prompts import PromptShape

if TYPE_CHECKING:
    from policies.nets.pretrained import PretrainedFolder

_WHAT = "text.folder"
_KEPT = 1000

_Key = tuple[str, int, bool, str]
_embedded: OrderedDict[_Key, Tensor] = OrderedDict()
"""Embeddings by fingerprint of the folder, options and prompt, the latest used last."""


@dataclass(frozen=True)
class TextConfig:
    """The pretrained text tower that embeds prompts."""

    folder: str = ""
    """Folder of a transformers checkpoint (T5, CLIP); empty: the policy takes no prompt."""
    max_tokens: int = 32
    """Most tokens of a prompt, begin and end marks included."""
    pooled: bool = False
    """CLIP only: one embedding for the whole prompt, the one that is compared with images."""
    fingerprint: str = ""
    """What the folder must be; training fills it in, empty accepts any."""


def pin(config: TextConfig) -> TextConfig:
    """Check the folder and fill in its fingerprint; raise ConfigError where it is not as it was."""
    return replace(config, fingerprint=_open(config).fingerprint) if config.folder else config


def shape_of(config: TextConfig) -> PromptShape | None:
    """Return the shape of an embedded prompt, None for a policy that takes none."""
    if not config.folder:
        return None
    from policies.nets.pretrained_text import prompt_shape

    return prompt_shape(_open(config), config.max_tokens, config.pooled)


def embed_prompts(config: TextConfig, prompts: Sequence[str]) -> list[Tensor]:
    """Return the embedding (tokens, dim) of each prompt; the tower is in memory only while there are new ones."""
    folder = _open(config)
    keys = [(folder.fingerprint, config.max_tokens, config.pooled, prompt) for prompt in prompts]
    known = {key: _embedded[key] for key in keys if key in _embedded}
    if new := [key for key in dict.fromkeys(keys) if key not in known]:
        from policies.nets.pretrained_text import TextTower

        tower = TextTower(folder, config.max_tokens, config.pooled)
        known |= {key: tower.embed(key[-1]) for key in new}
    _remember(known)
    return [known[key] for key in keys]


def _remember(known: Mapping[_Key, Tensor]) -> None:
    for key, tokens in known.items():
        _embedded[key] = tokens
        _embedded.move_to_end(key)
    while len(_embedded) > _KEPT:
        _embedded.popitem(last=False)


def _open(config: TextConfig) -> PretrainedFolder:
    from policies.nets.pretrained import open_folder
    from policies.nets.pretrained_text import CLASSES

    return open_folder(config.folder, _WHAT, CLASSES, config.fingerprint)
