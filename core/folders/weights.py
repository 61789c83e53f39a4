"""Weights in a folder: loaded into the model that they belong to, or into another one as its start."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from core.compat.tensor_names import with_new_names
from core.files import WEIGHTS, paths, read_safetensors

logger = logging.getLogger("patchbay")


def load_weights(model: nn.Module, folder: str, overrides: Sequence[str] = ()) -> None:
    """Load ``model.safetensors`` of a folder by ``fitting_weights``."""
    fill(model, fitting_weights(model, folder, overrides))


def fitting_weights(model: nn.Module, folder: str, overrides: Sequence[str] = ()) -> dict[str, Tensor]:
    """Read ``model.safetensors`` of a folder, for its model with ``overrides``, which may remove parts but add none.

    Raises:
        ValueError: the file is missing or damaged, or does not fit the model; names file, tensor and override.
    """
    file = os.path.join(folder, WEIGHTS)
    if not paths.isfile(file):
        raise ValueError(f"{file}: no such file; has this run ended?")
    tensors = read_tensors(file, model)
    new, left, other = _differences(model, tensors)
    slots = {name.partition(".")[0] for name in (*new, *left)}
    causes = [override for override in overrides if slots & {*re.split(r"[.=\[]", override)[1:2]}] or overrides
    by = f" with the override {' '.join(map(repr, causes))}" if overrides else ""
    misfit = f"{file}: does not fit this recipe's model{by}"
    if other:
        raise ValueError(f"{misfit}: {next(iter(other.values()))}; its weights cannot change their shapes")
    if new:
        advice = f", which must be trained first: by a run with train.init_from={folder}" if overrides else ""
        raise ValueError(f"{misfit}: it has no weights for {_counted(new)}{advice}")
    if left and not overrides:
        raise ValueError(f"{misfit}: it has weights for parts that the model lacks: {_counted(left)}")
    if left:
        logger.warning("%s: not used%s: %s", file, by, _counted(left))
    return {name: tensor for name, tensor in tensors.items() if name not in left}


def _differences(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str], dict[str, str]]:
    """Compare a module with the tensors of a file: names without a tensor that fits, unknown names, other shapes."""
    state = module.state_dict(keep_vars=True)
    shapes = {
        n: [" x ".join(map(str, t.shape)) or "a scalar" for t in (x, state[n])]
        for n, x in tensors.items()
        if n in state
    }
    other = {name: f"{name} is {there} there, {here} here" for name, (there, here) in shapes.items() if there != here}
    loaded = {id(state[name]) for name in shapes if name not in other}  # of tied tensors, the file has one name
    new = [name for name, tensor in state.items() if id(tensor) not in loaded]
    return new, [name for name in tensors if name not in state], other


def read_tensors(file: str, module: nn.Module) -> dict[str, Tensor]:
    """Read the tensors of a file under the names that they have in a module today."""
    return with_new_names(read_safetensors(file), module.state_dict(), file)


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly; of tied tensors, one name is enough."""
    state = module.state_dict(keep_vars=True)
    tied = {id(tensor): tensors[name] for name, tensor in state.items() if name in tensors}
    module.load_state_dict({**{name: tied[id(state[name])] for name in state if id(state[name]) in tied}, **tensors})


def weights_file(folder: str) -> str:
    """Path of the weights in the folder ``train.init_from``.

    Raises:
        ValueError: the folder has none.
    """
    file = os.path.join(folder, WEIGHTS)
    if not paths.isfile(file):
        raise ValueError(f"train.init_from: {file}: no such file; name the folder of a finished run or an import")
    return file


@torch.no_grad()
def warm_start(model: nn.Module, folder: str) -> str:
    """Copy the tensors of equal name and shape from a folder, and describe the others; nothing is resized.

    Raises:
        ValueError: the folder has no weights, or they are damaged, or none fits.
    """
    file = weights_file(folder)
    tensors, state = read_tensors(file, model), model.state_dict()
    new, left, other = _differences(model, tensors)
    same = [name for name in tensors if name in state and name not in other]
    if not any(tensors[name].ndim for name in same):  # a scalar fits anywhere
        problem = f"none of its {len(tensors)} tensors has a name and shape of this model's"
        raise ValueError(f"train.init_from: {file}: {problem}")
    for name in same:
        state[name].copy_(tensors[name])
    lines = [f"Started from {folder}: {len(state) - len(new)} of {len(state)} tensors taken over; new: {_counted(new)}"]
    if left:
        lines.append(f"  in that folder, not in this model: {_counted(left)}")
    if other:
        first = next(iter(other.values()))
        lines.append(f"  of another shape, so new, for nothing is resized: {_counted(other)}; {first}")
    return "\n".join(lines)


def _counted(names: Iterable[str]) -> str:
    """Count names by their first two components: ``decoder.multimodal 12, heads.match 2``."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
