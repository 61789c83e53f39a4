"""Old names of tensors in files."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection

import torch
from torch import Tensor

NAMES = {"poolers": "pooler", "moments": "frame_embedding", "up": "fc1", "down": "fc2", "own": "self_layer"}
NAMES |= {"average": "ema_model"}
COUNT = "ema_model.n_averaged"  # of torch's AveragedModel


def with_new_names(tensors: dict[str, Tensor], names: Collection[str], file: str) -> dict[str, Tensor]:
    """Rename tensors where ``names``, those of a module, have the new name and not the old one."""
    new = {name: _new_name(name, names) for name in tensors}
    renamed = {new[name]: tensor for name, tensor in tensors.items()}
    if old := [name for name in new if name != new[name]]:
        first = f"{file}: tensor {old[0]} is now {new[old[0]]}, and {len(old) - 1} more have old names"
        warnings.warn(f"{first}; they work in this release only", FutureWarning, stacklevel=2)
        if COUNT in names:  # any count above 0: the mean is not started anew
            renamed.setdefault(COUNT, torch.tensor(1))
    return renamed


def _new_name(name: str, names: Collection[str]) -> str:
    choices = [(piece, NAMES[piece]) if piece in NAMES else (piece,) for piece in name.split(".")]
    for new in map(".".join, itertools.product(*choices)):  # the unchanged name first
        for candidate in (new, new.replace("ema_model.", "ema_model.module.", 1)):
            if candidate in names:
                return candidate
    return name
