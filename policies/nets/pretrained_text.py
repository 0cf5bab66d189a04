"""Pretrained text towers (T5, CLIP): a prompt in, the embeddings of its tokens out.

Each prompt is embedded alone and without padding, so that its embedding depends on nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from armature.errors import ConfigError
from policies.nets.pretrained import TOKENIZER, PretrainedFolder, load_network
from policies.nets.prompts import PromptShape

CLASSES = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
_CONFIGS = {"clip": "CLIPTextConfig", "clip_text_model": "CLIPTextConfig", "t5": "T5Config"}
_POOLED = "CLIPTextModelWithProjection"


def prompt_shape(folder: PretrainedFolder, max_tokens: int, pooled: bool) -> PromptShape:
    """Return the shape of an embedded prompt; raise ConfigError for a length that the tower cannot take."""
    sizes = _sizes(folder)
    if pooled and folder.model_type == "t5":
        raise ConfigError(f"text.pooled: {folder.path} is a t5, which has no pooled output; CLIP has one")
    limit = getattr(sizes, "max_position_embeddings", max_tokens)
    if not 1 <= max_tokens <= limit:
        raise ConfigError(f"text.max_tokens {max_tokens}: {folder.path} allows 1..{limit}")
    if pooled:
        return PromptShape(1, sizes.projection_dim)
    return PromptShape(max_tokens, sizes.hidden_size)


class TextTower:
    """Embeds prompts; `pooled` gives the one projected embedding of CLIP, the one that images are compared with."""

    def __init__(self, folder: PretrainedFolder, max_tokens: int, pooled: bool) -> None:
        self.folder, self.max_tokens, self.pooled = folder, max_tokens, pooled
        self.tokenizer = _tokenizer(folder)
        self.network = load_network(folder, _POOLED if pooled else CLASSES[folder.model_type])

    @torch.no_grad()
    def embed(self, prompt: str) -> Tensor:
        """Return the embedding (tokens, dim) of one prompt; raise ConfigError for one of too many tokens."""
        ids = self.tokenizer.encode(prompt).ids
        if not 1 <= len(ids) <= self.max_tokens:
            raise ConfigError(f"prompt '{prompt}': {len(ids)} tokens, text.max_tokens allows 1..{self.max_tokens}")
        if (largest := max(ids)) >= self.network.config.vocab_size:
            known = self.network.config.vocab_size
            raise ConfigError(f"{self.folder.path / TOKENIZER}: gives token {largest}, the network knows {known}")
        found = self.network(input_ids=torch.tensor([ids]))
        return found.text_embeds if self.pooled else found.last_hidden_state[0]


def _sizes(folder: PretrainedFolder) -> Any:
    import transformers

    return getattr(transformers, _CONFIGS[folder.model_type]).from_pretrained(folder.path, local_files_only=True)


def _tokenizer(folder: PretrainedFolder) -> Tokenizer:
    file = folder.path / TOKENIZER
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file; docs/adr/011-pretrained-encoders.md says how to make it")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    # The library raises nothing more specific.
    except Exception as error:
        raise ConfigError(f"{file}: is no tokenizer: {error}") from error
    # Some come with truncation and padding switched on.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
