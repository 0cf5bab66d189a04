"""Makes folders of pretrained encoders as `transformers` saves them: the real formats, small random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = ("lift", "the", "cube", "can", "push", "it")


def make_folder(path: Path, kind: str) -> Path:
    """Save a tiny encoder: dinov2, registers, siglip, clip, clip_vision, clip_text or t5."""
    torch.manual_seed(sum(map(ord, kind)))
    model = _MODELS[kind]()
    model.save_pretrained(path)
    if kind in ("clip", "clip_text", "t5"):
        _save_tokenizer(path, kind)
    if kind not in ("clip_text", "t5"):
        format_ = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
        is_cropped = kind in ("dinov2", "registers", "clip")
        side = model.config.vision_config.image_size if kind in ("clip", "siglip") else model.config.image_size
        sizes = (
            {"do_center_crop": True, "crop_size": {"height": side, "width": side}, "size": {"shortest_edge": 99}}
            if is_cropped
            else {"size": {"height": side, "width": side}}
        )
        (path / "preprocessor_config.json").write_text(json.dumps({**format_, **sizes}))
    return path


def _vit(hidden: int, image: int, patch: int) -> dict[str, int]:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 2 * hidden}
    return {"hidden_size": hidden, "image_size": image, "patch_size": patch, **sizes}


def _dinov2():
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**_vit(8, 28, 7)))


def _registers():
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**_vit(8, 28, 7), num_register_tokens=4))


def _siglip():
    from transformers import SiglipConfig, SiglipModel

    text = {"vocab_size": 20, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 12, "projection_size": 12}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=_vit(12, 28, 7)))


def _clip():
    from transformers import CLIPConfig, CLIPModel

    text, vision = _clip_text_sizes(), {**_vit(8, 28, 7), "projection_dim": 6}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6))


def _clip_vision():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**_vit(8, 28, 7), projection_dim=6))


def _clip_text():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(CLIPTextConfig(**_clip_text_sizes()))


def _t5():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 10, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 2, "vocab_size": 20}
    return T5ForConditionalGeneration(T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False))


_MODELS = {
    "dinov2": _dinov2,
    "registers": _registers,
    "siglip": _siglip,
    "clip": _clip,
    "clip_vision": _clip_vision,
    "clip_text": _clip_text,
    "t5": _t5,
}


def _clip_text_sizes() -> dict[str, int]:
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": 2 + len(WORDS)}
    return {**sizes, "intermediate_size": 16, "max_position_embeddings": 9, "projection_dim": 6, **ends}


def _save_tokenizer(path: Path, kind: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    begin, end = ("<|startoftext|> ", "<|endoftext|>") if kind.startswith("clip") else ("", "</s>")
    vocabulary = {word: place for place, word in enumerate(("<unk>", begin.strip() or "<pad>", *WORDS, end))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    special = [(token, vocabulary[token]) for token in (begin.strip(), end) if token]
    tokenizer.post_processor = TemplateProcessing(single=f"{begin}$A {end}", special_tokens=special)
    # As many of the published files: made to pad and to truncate.
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path / "tokenizer.json"))
