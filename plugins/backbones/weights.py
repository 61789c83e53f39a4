"""Weights of an image encoder from a safetensors file, and error messages for files that do not fit."""

from __future__ import annotations

import os

from torch import Tensor

from core.files import paths, read_safetensors


def read_weights(file: str) -> dict[str, Tensor]:
    """Read a file, or model.safetensors in an import folder, in full precision: tensors of any shape by name.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    if paths.isdir(file):
        file = os.path.join(file, "model.safetensors")
    return {name: tensor.float() for name, tensor in read_safetensors(file).items()}


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
