"""Weights of an image encoder from a safetensors file, and error messages for files that do not fit."""

from __future__ import annotations

import math
import os
from typing import Any

from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from core.files import WEIGHTS, paths, read_safetensors
from plugins.backbones.timm_config import describe_original
from plugins.backbones.timm_options import TimmOptions
from plugins.importing.checkpoint_file import ForeignCheckpoint
from plugins.importing.config import find_config


def read_weights(file: str) -> dict[str, Tensor]:
    """Read a file, or model.safetensors in an import folder, in full precision: tensors of any shape by name.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    return {name: tensor.float() for name, tensor in read_safetensors(_path(file)).items()}


def _path(file: str) -> str:
    return os.path.join(file, WEIGHTS) if paths.isdir(file) else file


def check_fit(file: str, model: str, faults: dict[str, list[str]]) -> None:
    """Raise an error if there is any fault.

    Args:
        file: path, for the message.
        model: kind of model, for the message.
        faults: names of tensors by fault, such as "lacks"; the message has the first three of each.

    Raises:
        ValueError: there is a fault.
    """
    message = "; ".join(f"{fault} {', '.join(names[:3])}" for fault, names in faults.items() if names)
    if message:
        raise ValueError(f"{file}: does not fit this {model}: {message}")


def shape_mismatches(state: dict[str, Tensor], parameters: dict[str, Tensor]) -> list[str]:
    """List the tensors of ``state`` with another shape than in ``parameters``, with both shapes."""
    return [
        f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in parameters.items()
        if name in state and state[name].shape != tensor.shape
    ]


def check_settings(
    file: str, weights: dict[str, Tensor], num_heads: int, options: TimmOptions
) -> tuple[int, int] | None:
    """Compare a recipe's settings with the configuration beside weights; returns its grid of patches, if there is one.

    Args:
        file: of the weights, or their folder.
        weights: tensors of any shape, by name.
        num_heads: of the recipe, like ``options``.

    Raises:
        ValueError: a setting that tensors do not determine differs; names the configuration and the setting.
    """
    config_file, config = find_config(_path(file), "", ("config.json",), ("architecture",))
    if not config_file or "patch_embed.proj.weight" not in weights:
        return None
    original = describe_original(ForeignCheckpoint(file, weights), config_file, config)
    ours: dict[str, Any] = {"num_heads": num_heads}
    theirs: dict[str, Any] = {"num_heads": original.settings["num_heads"]}
    for name in ("mean", "std", "norm_eps", "act_layer", "no_embed_class"):
        ours[f"timm.{name}"], theirs[f"timm.{name}"] = getattr(options, name), getattr(original.options, name)
    for name, value in theirs.items():
        if not _equal(ours[name], value):
            raise ValueError(f"{config_file}: {name} is {_spell(value)}, this recipe has {_spell(ours[name])}")
    return original.grid


def resize_positions(weights: dict[str, Tensor], grid: tuple[int, int] | None, model: VisionTransformer) -> None:
    """Resize position embeddings (1, N, D) from ``grid``, in place, if it is no square; timm takes it for one."""
    if grid is None or grid[0] == grid[1] or "pos_embed" not in weights:
        return
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    weights["pos_embed"] = resample_abs_pos_embed(
        weights["pos_embed"], new_size=list(model.patch_embed.grid_size), old_size=list(grid), num_prefix_tokens=prefix
    )  # (1, N', D)


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, tuple):
        return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def _spell(value: Any) -> str:
    return "timm's default" if value is None else str(list(value) if isinstance(value, tuple) else value)
