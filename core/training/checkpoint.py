"""Checkpoints in safetensors and JSON, each written under another name, flushed, then renamed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.compat.tensor_names import with_new_names
from core.files import STATE, WEIGHTS, paths, read_safetensors, read_text, sync, write_json
from core.model import Model

logger = logging.getLogger("patchbay")


def load_weights(model: nn.Module, folder: str) -> None:
    """Load ``model.safetensors`` of a folder; a warning lists weights of parts that the model lacks.

    Raises:
        ValueError: the file is missing or damaged, or does not fit the model; names it.
    """
    file = os.path.join(folder, WEIGHTS)
    if not paths.isfile(file):
        raise ValueError(f"{file}: no such file; has this run ended?")
    tensors, names = _read_tensors(file, model), model.state_dict().keys()
    if rest := [name for name in tensors if name not in names]:
        logger.warning("%s: not used, because the model lacks these parts: %s", file, _count(rest))
    try:
        _fill(model, {name: tensor for name, tensor in tensors.items() if name in names})
    except Exception as err:
        raise ValueError(f"{file}: does not fit this recipe's model; new parts need training: {err}") from err


def _read_tensors(file: str, module: nn.Module) -> dict[str, Tensor]:
    """Read the tensors of a file under the names that they have in a module today."""
    return with_new_names(read_safetensors(file), module.state_dict(), file)


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly; of tied tensors, one name is enough."""
    state = module.state_dict(keep_vars=True)
    aliases = {id(tensor): tensors[name] for name, tensor in state.items() if name in tensors}
    module.load_state_dict({**{name: aliases[id(x)] for name, x in state.items() if id(x) in aliases}, **tensors})


def save(
    trained: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer, folder: str, step: int, keep: str | None
) -> str:
    """Write ``model.safetensors``, and ``checkpoints/step-N`` with everything that resuming needs.

    Args:
        trained: the objectives, with the model, their buffers and their teachers.
        model: the weights to evaluate.
        keep: path of the previous checkpoint, in case the new one is damaged later; all others are deleted.

    Returns:
        path of the checkpoint.
    """
    root = os.path.join(folder, "checkpoints")
    final, aside = os.path.join(root, f"step-{step:08d}"), os.path.join(root, f"writing-{step:08d}")
    os.makedirs(root, exist_ok=True)
    for old in os.listdir(root):  # first, so that the next save removes what a killed process left
        if os.path.join(root, old) != keep:
            shutil.rmtree(os.path.join(root, old), ignore_errors=True)
    os.mkdir(aside)
    _write(trained, os.path.join(aside, "objectives.safetensors"))
    tensors: dict[str, Tensor] = {}
    for index, state in optimizer.state_dict()["state"].items():
        tensors.update({f"{index}.{key}": value for key, value in state.items() if isinstance(value, Tensor)})
    save_file(tensors, os.path.join(aside, "optimizer.safetensors"))
    sums = {name: _sha256(os.path.join(aside, name)) for name in sorted(os.listdir(aside))}
    write_json(os.path.join(aside, STATE), {"step": step, "sha256": sums})
    _write(model, os.path.join(aside, WEIGHTS))
    for name in os.listdir(aside):
        sync(os.path.join(aside, name))
    # the weights first: a run resumed from the checkpoint of the last step does not write them again
    os.replace(os.path.join(aside, WEIGHTS), os.path.join(folder, WEIGHTS))
    os.rename(aside, final)
    for place in (final, root, folder):
        sync(place)
    return final


def _write(module: nn.Module, path: str) -> None:
    """Write a state dict with tied tensors under their first name.

    ``save_model`` of safetensors lists the other names in an order that changes from run to run; equal weights should
    make equal files.
    """
    tensors = {id(tensor): (name, tensor) for name, tensor in reversed(module.state_dict(keep_vars=True).items())}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.values()}, path)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def newest(folder: str) -> str | None:
    """Find a run's newest undamaged checkpoint, None before the first; newer damaged ones give a warning.

    Raises:
        ValueError: all checkpoints are damaged; names them.
    """
    root = os.path.join(folder, "checkpoints")
    names = sorted(n for n in os.listdir(root) if re.fullmatch(r"step-\d+", n)) if os.path.isdir(root) else []
    damaged: list[str] = []
    for path in (os.path.join(root, name) for name in reversed(names)):
        if not (problem := _damage(path)):
            if damaged:
                logger.warning("%s\ngoing back to %s", "\n".join(damaged), path)
            return path
        damaged.append(f"{path}: damaged: {problem}")
    if damaged:
        raise ValueError("\n".join([*damaged, f"no whole checkpoint is left; remove {root} to start from step 0"]))
    return None


def _damage(path: str) -> str:
    """Describe the damage to a checkpoint's files; empty if there is none."""
    try:
        state = json.loads(read_text(os.path.join(path, STATE)))
        sums = dict(state["sha256"])
        changed = [name for name, digest in sums.items() if _sha256(os.path.join(path, name)) != digest]
        if int(path.rpartition("-")[2]) != state["step"]:
            changed.append("step")
    except (OSError, ValueError, LookupError, TypeError) as err:
        return f"{STATE} or a file that it lists cannot be read: {err}"
    return f"{', '.join(changed)} does not match {STATE}" if changed else ""


def load(path: str, trained: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint into module and optimizer; returns its step.

    Raises:
        ValueError: the checkpoint does not fit; names it.
    """
    try:
        _fill(trained, _read_tensors(os.path.join(path, "objectives.safetensors"), trained))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in read_safetensors(os.path.join(path, "optimizer.safetensors")).items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(json.loads(read_text(os.path.join(path, STATE)))["step"])
    except Exception as err:
        raise ValueError(f"{path}: this checkpoint does not fit the recipe: {err}") from err


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
def warm_start(model: Model, folder: str) -> str:
    """Copy the tensors of equal name and shape from a folder, and describe the others; nothing is resized.

    Raises:
        ValueError: the folder has no weights, or they are damaged, or none fits.
    """
    file = weights_file(folder)
    tensors, state = _read_tensors(file, model), model.state_dict()
    same = [name for name, tensor in tensors.items() if name in state and tensor.shape == state[name].shape]
    if not any(tensors[name].ndim for name in same):  # a scalar fits anywhere
        problem = f"none of its {len(tensors)} tensors has a name and shape of this model's"
        raise ValueError(f"train.init_from: {file}: {problem}")
    for name in same:
        state[name].copy_(tensors[name])
    addresses = {state[name].data_ptr() for name in same}  # tied tensors are in the file under one of their names
    new = [name for name, tensor in state.items() if tensor.data_ptr() not in addresses]
    lines = [f"Started from {folder}: {len(state) - len(new)} of {len(state)} tensors taken over; new: {_count(new)}"]
    if rest := [name for name in tensors if name not in state]:
        lines.append(f"  in that folder, not in this model: {_count(rest)}")
    if other := [name for name in tensors if name in state and name not in same]:
        there, here = (" x ".join(map(str, source[other[0]].shape)) or "a scalar" for source in (tensors, state))
        first = f"{other[0]} is {there} there, {here} here"
        lines.append(f"  of another shape, so new, for nothing is resized: {_count(other)}; {first}")
    return "\n".join(lines)


def _count(names: Iterable[str]) -> str:
    """Count names by their first two components: ``decoder.multimodal 12, heads.match 2``."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
