"""A Vision Transformer of timm's as a folder that ``model.backbone.weights`` reads."""

from __future__ import annotations

import math
from typing import Any

import torch

from plugins.backbones.vit import STYLES, ViT
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.config import HEAD, check_pixels, dividing, read_config, section
from plugins.importing.folder import new_folder, write_recipe, write_weights

HARMLESS = (r"head\..*", r"head_drop\..*")  # classes, of which no part makes use


def import_timm(file: str, out: str, vocabulary: str, config: str, command: str) -> str:
    """Make a folder of a checkpoint; returns what to tell the user.

    Args:
        file: the checkpoint.
        out: the folder.
        vocabulary: none is wanted.
        config: the model's config.json on the hub, which tells QuickGELU from GELU, heads and pixel mean; may be "".
        command: what made it, for the recipe's first line.

    Raises:
        ValueError: whatever does not fit, by file, tensor and wanted shape.
    """
    if vocabulary:
        raise ValueError(f"--vocabulary {vocabulary}: a picture encoder has none")
    held = read_tensors(file)
    settings, size = _settings(held)
    if config:
        settings |= _configured(settings, config)
    with torch.device("meta"):
        own = ViT(**settings, image_size=size).vit.state_dict()
    tensors = {name: held.take(name, *tensor.shape) for name, tensor in own.items()}
    held.refuse_left("a ViT here", *HARMLESS)
    note = f"{command}\nto be built upon: extends: {out}/recipe.yaml; its pictures were {size} pixels wide"
    with new_folder(out) as folder:
        write_weights(folder, tensors)
        write_recipe(folder, {"model": {"backbone": {"name": "vit", **settings, "weights": out}}}, note)
    return f"{out}: for model.backbone.weights; {', '.join(f'{k} {v}' for k, v in settings.items())}"


def _settings(held: ForeignCheckpoint) -> tuple[dict[str, Any], int]:
    """The part's settings as the tensors tell them, and the pictures' side."""
    dim, _, patch, _ = held.shape("patch_embed.proj.weight", 4)
    cls = "cls_token" in held.tensors
    cells = held.shape("pos_embed", 3)[1] - cls
    if math.isqrt(cells) ** 2 != cells:
        raise ValueError(f"{held.file}: 'pos_embed' has {cells} places for patches: no square")
    depth, mlp = held.layers("blocks"), held.shape("blocks.0.mlp.fc1.weight", 2)[0] / dim
    style = "openclip" if "norm_pre.weight" in held.tensors else "plain"
    sizes = {"embed_dim": dim, "depth": depth, "num_heads": max(1, dim // HEAD), "patch_size": patch, "mlp": mlp}
    return {**sizes, "cls": cls, "style": style}, patch * math.isqrt(cells)


def _configured(settings: dict[str, Any], file: str) -> dict[str, Any]:
    """What a timm config.json says beyond the tensors.

    Raises:
        ValueError: a setting of another type, or other pixels than the style's.
    """
    said = read_config(file)
    arguments = {**said, **section(said, "model_args", file)}
    told: dict[str, Any] = {}
    if settings["style"] == "openclip" and "quickgelu" in str(said.get("architecture", "")):
        told["style"] = "clip"
    if "num_heads" in arguments:
        told["num_heads"] = dividing(arguments, "num_heads", 1, settings["embed_dim"], file)
    mean = STYLES[told.get("style", settings["style"])][0]
    check_pixels(section(said, "pretrained_cfg", file), "pretrained_cfg.mean", mean, file)
    return told
