"""Old names of tensors in files, replaced where a module has the new name and lacks the old one."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection

import torch
from torch import Tensor

NAMES = {
    "poolers": "pooler",
    "moments": "frame_embedding",
    "up": "fc1",
    "down": "fc2",
    "own": "self_layer",
    "average": "ema_model",
}
WRAPPED = "ema_model.module"  # torch's AveragedModel holds its module under this name
COUNT = "ema_model.n_averaged"


def with_new_names(tensors: dict[str, Tensor], names: Collection[str], file: str) -> dict[str, Tensor]:
    """Return a file's tensors by the names of a module's tensors; a third party's ``up`` keeps its name."""
    renamed = {_new_name(name, names): tensor for name, tensor in tensors.items()}
    old = [name for name in tensors if name not in renamed]
    if old:
        sentence = f"{file}: {old[0]} is now {_new_name(old[0], names)}, and so on: {len(old)} tensors in all"
        warnings.warn(f"{sentence}; the old names work in this release only", FutureWarning, stacklevel=2)
        if COUNT in names and COUNT not in renamed:  # any count above 0: the mean was begun
            renamed[COUNT] = torch.tensor(1)
    return renamed


def _new_name(name: str, names: Collection[str]) -> str:
    if name in names:
        return name
    choices = [(piece, NAMES[piece]) if piece in NAMES else (piece,) for piece in name.split(".")]
    for pieces in itertools.product(*choices):
        new = ".".join(pieces)
        wrapped = new.replace("ema_model", WRAPPED, 1) if new.startswith("ema_model.") else new
        if new in names or wrapped in names:
            return new if new in names else wrapped
    return name
