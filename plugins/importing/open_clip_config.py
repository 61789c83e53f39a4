"""The sizes of an open_clip ``coca_*`` model: from its tensors, and what no tensor tells from its configuration.

Letters: Dv width of the picture's encoder, D of the decoder and of the shared space, V vocabulary, Q queries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plugins.backbones.vit import CLIP_PIXELS
from plugins.importing.checkpoint_file import ForeignCheckpoint
from plugins.importing.config import HEAD, check_pixels, dividing, read_config, section


@dataclass(frozen=True)
class Shape:
    """Sizes."""

    width: int  # Dv
    patch: int
    grid: int  # patches across
    depth: int
    mlp: float  # width of the picture encoder's MLPs over Dv
    dim: int  # D
    queries: int  # Q
    context: int  # words
    vocabulary: int  # V
    unimodal: int
    multimodal: int
    # what no tensor tells, as in the public configurations
    vision_head: int = HEAD
    pooler_heads: int = 8
    text_heads: int = 0
    correct_mask: bool = False

    @property
    def image_size(self) -> int:
        return self.grid * self.patch


def read_shape(held: ForeignCheckpoint) -> Shape:
    """What the tensors tell.

    Raises:
        ValueError: a tensor that tells a size is absent, or the places for patches make no square.
    """
    width, _, patch, _ = held.shape("visual.conv1.weight", 4)
    cells = held.shape("visual.positional_embedding", 2)[0] - 1
    queries, dim = held.shape("visual.attn_pool.query", 2)
    if math.isqrt(cells) ** 2 != cells:
        raise ValueError(f"{held.file}: 'visual.positional_embedding' has {cells} places for patches: no square")
    return Shape(
        width=width,
        patch=patch,
        grid=math.isqrt(cells),
        depth=held.layers("visual.transformer.resblocks"),
        mlp=held.shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0] / width,
        dim=dim,
        queries=queries,
        context=held.shape("text.positional_embedding", 2)[0] - 1,  # the last is [CLS]'s
        vocabulary=held.shape("text.token_embedding.weight", 2)[0],
        unimodal=held.layers("text.transformer.resblocks"),
        multimodal=held.layers("text_decoder.resblocks"),
        text_heads=dim // HEAD,
    )


def configured(shape: Shape, file: str) -> Shape:
    """The shape with what an open_clip configuration says of heads and mask; its sizes must be the tensors'.

    Raises:
        ValueError: it says otherwise, or what this import does not know; names the file and the setting.
    """
    config = read_config(file)
    model = section(config, "model_cfg", file) or config  # the hub's open_clip_config.json has it one level down
    pixels = section(config, "preprocess_cfg", file)
    for name, expected in zip(("mean", "std"), CLIP_PIXELS, strict=True):
        check_pixels(pixels, f"preprocess_cfg.{name}", expected, file)
    said = dict(_flat({name: value for name, value in model.items() if name != "preprocess_cfg"}))
    mask = said.get("text_cfg.correct_cls_mask", shape.correct_mask)
    if type(mask) is not bool:
        raise ValueError(f"{file}: text_cfg.correct_cls_mask is {mask!r}; expected true or false")
    told = {
        "vision_head": dividing(said, "vision_cfg.head_width", shape.vision_head, shape.width, file),
        "pooler_heads": dividing(said, "vision_cfg.attn_pooler_heads", shape.pooler_heads, shape.dim, file),
        "text_heads": dividing(said, "text_cfg.heads", shape.text_heads, shape.dim, file),
    }
    shape = dataclasses.replace(shape, correct_mask=mask, **told)
    wanted = _wanted(shape)
    for name, value in said.items():
        if name not in wanted and name not in UNREAD:
            raise ValueError(f"{file}: {name} is {value!r}; this import knows no such setting")
        if name in wanted and value != wanted[name]:
            raise ValueError(f"{file}: {name} is {value!r}; expected {wanted[name]!r} for this checkpoint")
    return shape


UNREAD = {f"multimodal_cfg.{name}" for name in ("mlp_ratio", "dim_head", "n_queries", "attn_pooler_heads")}


def _wanted(shape: Shape) -> dict[str, Any]:
    """All that a configuration may say of a model of this shape."""
    words = {"context_length": shape.context, "vocab_size": shape.vocabulary, "width": shape.dim}
    sections = {
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
            "correct_cls_mask": shape.correct_mask,
        },
        "multimodal_cfg": {**words, "heads": shape.text_heads, "layers": shape.multimodal},
    }
    return {"embed_dim": shape.dim, "quick_gelu": False, "custom_text": True, **dict(_flat(sections))}


def _flat(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """{"text_cfg": {"width": 512}} -> ("text_cfg.width", 512)."""
    return [
        (f"{name}.{key}" if key else name, value)
        for name, inner in config.items()
        for key, value in (inner.items() if isinstance(inner, Mapping) else [("", inner)])
    ]
