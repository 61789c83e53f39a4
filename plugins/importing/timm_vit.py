"""Import of a timm Vision Transformer as a folder for ``model.backbone.weights``."""

from __future__ import annotations

import math
from typing import Any

import torch

from plugins.backbones.vit import STYLES, ViT
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.config import HEAD_DIM, check_pixels, dividing, read_config, section
from plugins.importing.folder import new_folder, write_recipe, write_weights

UNUSED_TENSORS = (r"head\..*", r"head_drop\..*")  # the classifier, which no part uses


def import_timm(file: str, out: str, vocabulary: str, config: str, command: str) -> str:
    """Import a checkpoint into a folder; returns a message for the user.

    Args:
        file: the checkpoint.
        out: the folder.
        vocabulary: must be "".
        config: the model's config.json on the hub, with activation, heads and pixel mean; may be "".
        command: the command line, for the recipe's first line.

    Raises:
        ValueError: a tensor or setting does not fit; names the file, the tensor and the expected shape.
    """
    if vocabulary:
        raise ValueError(f"--vocabulary {vocabulary}: an image encoder has none")
    checkpoint = read_tensors(file)
    settings, size = _settings(checkpoint)
    if config:
        settings |= _configured(settings, config)
    with torch.device("meta"):
        expected = ViT(**settings, image_size=size).vit.state_dict()
    tensors = {name: checkpoint.take(name, *tensor.shape) for name, tensor in expected.items()}
    checkpoint.refuse_left("a ViT here", *UNUSED_TENSORS)
    note = f"{command}\nuse it in a recipe with extends: {out}/recipe.yaml; its images are {size} pixels wide"
    with new_folder(out) as folder:
        write_weights(folder, tensors)
        write_recipe(folder, {"model": {"backbone": {"name": "vit", **settings, "weights": out}}}, note)
    return f"{out}: for model.backbone.weights; {', '.join(f'{k} {v}' for k, v in settings.items())}"


def _settings(checkpoint: ForeignCheckpoint) -> tuple[dict[str, Any], int]:
    """Derive the part's settings and the side of its images from the tensors."""
    dim, _, patch, _ = checkpoint.shape("patch_embed.proj.weight", 4)
    cls = "cls_token" in checkpoint.tensors
    cells = checkpoint.shape("pos_embed", 3)[1] - cls
    if math.isqrt(cells) ** 2 != cells:
        raise ValueError(f"{checkpoint.file}: 'pos_embed' has {cells} places for patches: no square")
    depth, mlp = checkpoint.layers("blocks"), checkpoint.shape("blocks.0.mlp.fc1.weight", 2)[0] / dim
    style = "openclip" if "norm_pre.weight" in checkpoint.tensors else "plain"
    sizes = {"embed_dim": dim, "depth": depth, "num_heads": max(1, dim // HEAD_DIM), "patch_size": patch, "mlp": mlp}
    return {**sizes, "cls": cls, "style": style}, patch * math.isqrt(cells)


def _configured(settings: dict[str, Any], file: str) -> dict[str, Any]:
    """Read the settings in a timm config.json that tensors do not determine.

    Raises:
        ValueError: a setting is of another type, or the pixel mean is not the style's.
    """
    config = read_config(file)
    arguments = {**config, **section(config, "model_args", file)}
    changes: dict[str, Any] = {}
    if settings["style"] == "openclip" and "quickgelu" in str(config.get("architecture", "")):
        changes["style"] = "clip"
    if "num_heads" in arguments:
        changes["num_heads"] = dividing(arguments, "num_heads", 1, settings["embed_dim"], file)
    mean = STYLES[changes.get("style", settings["style"])][0]
    check_pixels(section(config, "pretrained_cfg", file), "pretrained_cfg.mean", mean, file)
    return changes
