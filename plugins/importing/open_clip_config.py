"""Sizes of an open_clip ``coca_*`` model, from its tensors and its configuration.

Letters: Dv width of the image encoder, D of the decoder and of the shared space, V vocabulary, Q queries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plugins.backbones.timm_options import CLIP_PIXELS
from plugins.importing.checkpoint_file import ForeignCheckpoint
from plugins.importing.config import HEAD_DIM, dividing, guess_heads, pixels, section


# arguments: one for each size that open_clip's configurations set
@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    width: int  # Dv
    patch: int
    grid: int  # patches across
    depth: int
    mlp: float  # width of the image encoder's MLPs / Dv
    dim: int  # D
    queries: int  # Q
    context: int  # tokens
    vocabulary: int  # V
    unimodal: int
    multimodal: int
    # not determined by tensors; defaults of the public configurations
    vision_head: int = HEAD_DIM
    pooler_heads: int = 8
    text_heads: int = 0
    correct_mask: bool = False
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = CLIP_PIXELS  # mean and deviation
    crop: bool = True  # images are cropped to a square, not squashed

    @property
    def image_size(self) -> int:
        return self.grid * self.patch


def read_shape(checkpoint: ForeignCheckpoint) -> Shape:
    """Derive the sizes from the tensors.

    Raises:
        ValueError: a tensor is missing, or the number of patch positions is not a square.
    """
    width, _, patch, _ = checkpoint.shape("visual.conv1.weight", 4)
    cells = checkpoint.shape("visual.positional_embedding", 2)[0] - 1
    queries, dim = checkpoint.shape("visual.attn_pool.query", 2)
    if math.isqrt(cells) ** 2 != cells:
        raise ValueError(f"{checkpoint.file}: 'visual.positional_embedding' has {cells} places for patches: no square")
    return Shape(
        width=width,
        patch=patch,
        grid=math.isqrt(cells),
        depth=checkpoint.layers("visual.transformer.resblocks"),
        mlp=checkpoint.shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0] / width,
        dim=dim,
        queries=queries,
        context=checkpoint.shape("text.positional_embedding", 2)[0] - 1,  # the last is [CLS]'s
        vocabulary=checkpoint.shape("text.token_embedding.weight", 2)[0],
        unimodal=checkpoint.layers("text.transformer.resblocks"),
        multimodal=checkpoint.layers("text_decoder.resblocks"),
        vision_head=width // guess_heads(width)[0],
        text_heads=guess_heads(dim)[0],
    )


def list_guesses(shape: Shape, settings: Mapping[str, Any]) -> list[str]:
    """List what neither tensors nor a configuration's flat settings determine, with the values taken."""
    towers = {
        "vision_cfg.head_width": f"image encoder: {guess_heads(shape.width)[1]}",
        "vision_cfg.attn_pooler_heads": f"pooler: {shape.pooler_heads} heads",
        "text_cfg.heads": f"text: {shape.text_heads} heads, width {shape.dim} / {shape.dim // shape.text_heads}",
    }
    sections = {name.partition(".")[0] for name in settings}  # with open_clip's defaults
    guesses = [guess for name, guess in towers.items() if name.partition(".")[0] not in sections]
    if not settings:
        guesses += [
            f"pixel mean {list(CLIP_PIXELS[0])}, std {list(CLIP_PIXELS[1])}",
            "exact GELU",
            "legacy mask of [CLS]",
        ]
    return guesses


def flat_settings(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the settings of the model by name, such as "text_cfg.heads"; those that are null are left out."""
    model = section(dict(config), "model_cfg", file) or config  # the hub's open_clip_config.json has it one level down
    flat = _flatten({name: value for name, value in model.items() if name != "preprocess_cfg"})
    return {name: value for name, value in flat if value is not None}


def configured(shape: Shape, file: str, config: dict[str, Any]) -> Shape:
    """Add heads, mask and pixels from an open_clip configuration, whose sizes must agree with the tensors.

    Raises:
        ValueError: a setting disagrees or is unknown; names the file and the setting.
    """
    preprocess = section(config, "preprocess_cfg", file)
    settings = flat_settings(config, file)
    mask = settings.get("text_cfg.correct_cls_mask", shape.correct_mask)
    if type(mask) is not bool:
        raise ValueError(f"{file}: text_cfg.correct_cls_mask is {mask!r}; expected true or false")
    sections = {name.partition(".")[0] for name in settings}
    vision_head = HEAD_DIM if "vision_cfg" in sections else shape.vision_head  # open_clip's defaults
    text_heads = 8 if "text_cfg" in sections else shape.text_heads
    heads = {
        "vision_head": dividing(settings, "vision_cfg.head_width", vision_head, shape.width, file),
        "pooler_heads": dividing(settings, "vision_cfg.attn_pooler_heads", shape.pooler_heads, shape.dim, file),
        "text_heads": dividing(settings, "text_cfg.heads", text_heads, shape.dim, file),
    }
    mean, std = (
        pixels(preprocess, f"preprocess_cfg.{name}", default, file)
        for name, default in zip(("mean", "std"), shape.pixels, strict=True)
    )
    crop = preprocess.get("resize_mode", "shortest") != "squash"
    shape = dataclasses.replace(shape, correct_mask=mask, pixels=(mean, std), crop=crop, **heads)
    permitted = _expected_settings(shape)
    for name, value in settings.items():
        if name not in permitted and name not in IGNORED_SETTINGS:
            raise ValueError(f"{file}: {name} is {value!r}; this import knows no such setting")
        if name in permitted and value != permitted[name]:
            raise ValueError(f"{file}: {name} is {value!r}; expected {permitted[name]!r} for this checkpoint")
    return shape


IGNORED_SETTINGS = {f"multimodal_cfg.{name}" for name in ("mlp_ratio", "dim_head", "n_queries", "attn_pooler_heads")}
IGNORED_SETTINGS |= {"vision_cfg.patch_dropout", "init_logit_scale", "pretrained"}  # of training


def original_config(shape: Shape) -> dict[str, Any]:
    """Return arguments of open_clip's constructor for this model."""
    return {"embed_dim": shape.dim, "quick_gelu": False, **_sections(shape)}


def _expected_settings(shape: Shape) -> dict[str, Any]:
    """List the settings and values that a configuration of this model may have."""
    mask = {"text_cfg.correct_cls_mask": shape.correct_mask}
    return {**dict(_flatten(original_config(shape))), **mask, "custom_text": True}


def _sections(shape: Shape) -> dict[str, dict[str, Any]]:
    """Return the sections of open_clip's configuration."""
    words = {"context_length": shape.context, "vocab_size": shape.vocabulary, "width": shape.dim}
    return {
        "vision_cfg": {
            "image_size": shape.image_size,
            "layers": shape.depth,
            "width": shape.width,
            "patch_size": shape.patch,
            "mlp_ratio": shape.mlp,
            "head_width": shape.vision_head,
            "attentional_pool": True,
            "attn_pooler_queries": shape.queries,
            "attn_pooler_heads": shape.pooler_heads,
            "output_tokens": True,
        },
        "text_cfg": {
            **words,
            "heads": shape.text_heads,
            "layers": shape.unimodal,
            "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {**words, "heads": shape.text_heads, "layers": shape.multimodal},
    }


def _flatten(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Flatten {"text_cfg": {"width": 512}} to ("text_cfg.width", 512)."""
    return [
        (f"{name}.{key}" if key else name, value)
        for name, inner in config.items()
        for key, value in (inner.items() if isinstance(inner, Mapping) else [("", inner)])
    ]
