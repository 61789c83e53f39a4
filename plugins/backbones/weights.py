"""Reading a safetensors file of a picture's encoder."""

from __future__ import annotations

import os

from torch import Tensor

from core.files import paths, read_safetensors


def read_weights(file: str) -> dict[str, Tensor]:
    """The tensors in full precision of a file, or of model.safetensors in a folder as an import leaves it.

    Raises:
        ValueError: it cannot be read; names it.
    """
    if paths.isdir(file):
        file = os.path.join(file, "model.safetensors")
    return {name: tensor.float() for name, tensor in read_safetensors(file).items()}


def refuse(file: str, what: str, faults: dict[str, list[str]]) -> None:
    """Raise a ValueError that names the first few of each kind of fault, where there are any."""
    said = "; ".join(f"{fault} {', '.join(names[:3])}" for fault, names in faults.items() if names)
    if said:
        raise ValueError(f"{file}: does not fit this {what}: {said}")


def misshapen(state: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """The tensors of ``state`` whose shape is another than in ``own``, with both shapes."""
    return [
        f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
