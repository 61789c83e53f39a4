"""Outputs of an open_clip CoCa and of its import for one image and text, by open_clip where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.loading import load_model
from core.types import Text
from plugins.importing.comparison import normalise, random_ids, random_image
from plugins.importing.open_clip_config import Shape, original_config


def run_original(shape: Shape, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Run open_clip's model with tensors of any shape.

    Returns:
        Name and version of the library, and its outputs: image and text features (1, D), logits (1, L, V). The outputs
        are empty where the library is missing; the text then states why.

    Raises:
        ValueError: open_clip's model has other tensors.
    """
    try:
        library = importlib.import_module("open_clip")
        build = importlib.import_module("open_clip.coca_model").CoCa
    except ImportError as err:
        missing = isinstance(err, ModuleNotFoundError) and err.name == "open_clip"
        return "open_clip is not installed" if missing else f"open_clip cannot be imported: {err}", {}
    model = build(**original_config(shape)).eval()
    model.text.correct_cls_mask = shape.correct_mask
    missing_names, more = model.load_state_dict(dict(tensors), strict=False)
    others = [name for name in (*missing_names, *more) if not name.endswith("attn_mask")]
    if others:
        raise ValueError(f"refused: open_clip's model with these sizes has other tensors: {', '.join(others[:3])}")
    ids, length = _random_text(shape)
    with torch.no_grad():
        image = normalise(random_image(shape.image_size, shape.image_size), *shape.pixels)  # (1, 3, H, W)
        out = model(image, ids, output_labels=False)
    outputs = {"image feature": out["image_features"], "text feature": out["text_features"]}
    return f"open_clip {library.__version__}", {**outputs, "logits": out["logits"][:, :length]}


def run_import(shape: Shape, folder: str) -> dict[str, Tensor]:
    """Run the model in a folder: image and text features (1, D), logits (1, L, V)."""
    model: Any = load_model(folder)[0].eval()
    ids, length = _random_text(shape)
    text = Text(ids[:, :length], torch.ones(1, length, dtype=torch.bool))
    with torch.no_grad():
        image = model.encode_image(model.trunk(random_image(shape.image_size, shape.image_size)))
        words = model.encode_text(text)
        outputs = {
            "image feature": model.heads["image"](image.pooled),
            "text feature": model.heads["text"](words.pooled),
        }
        outputs = {name: F.normalize(value, dim=-1) for name, value in outputs.items()}  # (1, D)
        return {**outputs, "logits": model.heads["words"](model.decoder(words, image).x)}


def _random_text(shape: Shape) -> tuple[Tensor, int]:
    """Return ids (1, L), padded with 0 from two thirds on, and the number of words."""
    length = max(1, 2 * shape.context // 3)
    ids = random_ids(shape.vocabulary, shape.context)
    ids[:, length:] = 0
    return ids, length
