"""Arguments of timm's ViT that the shapes of its tensors determine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plugins.importing.checkpoint_file import ForeignCheckpoint

Shapes = Mapping[str, Sequence[int]]  # of tensors, by name


def sizes_of(checkpoint: ForeignCheckpoint) -> dict[str, int]:
    """Return the sizes that tensors determine.

    Raises:
        ValueError: a tensor is missing or has other axes, or patches are no squares; names the file.
    """
    dim, channels, patch, across = checkpoint.shape("patch_embed.proj.weight", 4)
    checkpoint.shape("blocks.0.mlp.fc1.weight", 2)
    if channels != 3 or patch != across:
        raise ValueError(
            f"{checkpoint.file}: patches of {patch} x {across} pixels and {channels} channels; read are squares of 3 "
            "channels"
        )
    return {"embed_dim": dim, "depth": checkpoint.layers("blocks"), "patch_size": patch}


def arguments_of(shapes: Shapes, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return arguments of timm's ViT that tensors determine; ``pre_norm`` and ``swiglu`` choose its architecture."""
    hidden, dim = int(shapes["blocks.0.mlp.fc1.weight"][0]), sizes["embed_dim"]
    cls = "cls_token" in shapes
    registers = int(shapes["reg_token"][1]) if "reg_token" in shapes else 0
    pool = "map" if "attn_pool.latent" in shapes else "avg" if "fc_norm.weight" in shapes else "token" if cls else ""
    arguments: dict[str, Any] = {**sizes, "mlp_ratio": mlp_ratio(hidden, dim), "class_token": cls, "global_pool": pool}
    rows = int(shapes["pos_embed"][1]) if "pos_embed" in shapes else 0
    embedded = not _is_square(rows) or _is_square(rows - cls - registers)
    arguments |= {"reg_tokens": registers, "no_embed_class": bool(rows and cls + registers and not embedded)}
    arguments |= {"pos_embed": "learn" if rows else "none", "qkv_bias": "blocks.0.attn.qkv.bias" in shapes}
    arguments |= {"proj_bias": "blocks.0.attn.proj.bias" in shapes, "qk_norm": "blocks.0.attn.q_norm.weight" in shapes}
    arguments |= {"init_values": 1e-5 if "blocks.0.ls1.gamma" in shapes else None}
    arguments |= {"final_norm": "norm.weight" in shapes or "fc_norm.weight" in shapes}
    second = shapes.get("blocks.0.mlp.fc2.weight", (0, hidden))
    return arguments | {"pre_norm": "norm_pre.weight" in shapes, "swiglu": 2 * second[1] == hidden}


def mlp_ratio(hidden: int, dim: int) -> float:
    """Return a ratio by which timm's int(dim * ratio) is ``hidden`` exactly."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number
