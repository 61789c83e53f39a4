"""Saving and loading: safetensors and JSON, each written aside, flushed and renamed when whole."""

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
    """Read ``model.safetensors``.

    Raises:
        ValueError: the file is missing or damaged, or does not fit the model; names it.
    """
    file = os.path.join(folder, WEIGHTS)
    if not paths.isfile(file):
        raise ValueError(f"{file}: no such file; has this run ended?")
    tensors = with_new_names(read_safetensors(file), model.state_dict(), file)
    try:
        _fill(model, tensors)
    except Exception as err:
        raise ValueError(f"{file}: does not fit this recipe's model: {err}") from err


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module, all of whose names must be there, of tied tensors at least one."""
    own = module.state_dict(keep_vars=True)
    tied = {id(tensor): tensors[name] for name, tensor in own.items() if name in tensors}
    module.load_state_dict({**{name: tied[id(own[name])] for name in own if id(own[name]) in tied}, **tensors})


def save(
    trained: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer, folder: str, step: int, keep: str | None
) -> str:
    """Write ``model.safetensors``, and ``checkpoints/step-N`` with all that training needs to go on.

    Of what lies in ``checkpoints`` only ``keep`` stays, the one before: it serves where this one is damaged later.

    Args:
        trained: what is restored, the model, buffers and teachers of the objectives included.

    Returns:
        The checkpoint's path.
    """
    root = os.path.join(folder, "checkpoints")
    final, aside = os.path.join(root, f"step-{step:08d}"), os.path.join(root, f"writing-{step:08d}")
    os.makedirs(root, exist_ok=True)
    for old in os.listdir(root):  # first, so that whatever a kill leaves goes with the next save
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
    # the weights first: whoever goes on from the last step's checkpoint has nothing left to write
    os.replace(os.path.join(aside, WEIGHTS), os.path.join(folder, WEIGHTS))
    os.rename(aside, final)
    for place in (final, root, folder):
        sync(place)
    return final


def _write(module: nn.Module, path: str) -> None:
    """Tied tensors under the first of their names. safetensors' own ``save_model`` lists the others in the file, in
    an order that changes from run to run, and equal weights should make equal files."""
    tensors = {id(tensor): (name, tensor) for name, tensor in reversed(module.state_dict(keep_vars=True).items())}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.values()}, path)


def _sha256(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def newest(folder: str) -> str | None:
    """The newest whole checkpoint of a run, or None before the first; warns of newer ones that are damaged.

    Raises:
        ValueError: there are checkpoints and all are damaged; names them.
    """
    root = os.path.join(folder, "checkpoints")
    found = sorted(n for n in os.listdir(root) if re.fullmatch(r"step-\d+", n)) if os.path.isdir(root) else []
    damaged: list[str] = []
    for path in (os.path.join(root, name) for name in reversed(found)):
        fault = _damage(path)
        if not fault:
            if damaged:
                logger.warning("%s\ngoing back to %s", "\n".join(damaged), path)
            return path
        damaged.append(f"{path}: damaged: {fault}")
    if damaged:
        raise ValueError("\n".join([*damaged, f"no whole checkpoint is left; remove {root} to start from step 0"]))
    return None


def _damage(path: str) -> str:
    """What is wrong with a checkpoint's files, or the empty string."""
    try:
        state = json.loads(read_text(os.path.join(path, STATE)))
        sums: dict[str, str] = dict(state["sha256"])
        changed = [name for name, held in sums.items() if _sha256(os.path.join(path, name)) != held]
        if _step(path) != state["step"]:
            changed.append("step")
    except (OSError, ValueError, LookupError, TypeError) as err:
        return f"{STATE} or a file that it lists cannot be read: {err}"
    return f"{', '.join(changed)} does not match {STATE}" if changed else ""


def load(path: str, trained: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Fill module and optimizer from a checkpoint; returns its step.

    Raises:
        ValueError: the checkpoint does not fit; names it.
    """
    try:
        file = os.path.join(path, "objectives.safetensors")
        _fill(trained, with_new_names(read_safetensors(file), trained.state_dict(), file))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in read_safetensors(os.path.join(path, "optimizer.safetensors")).items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return _step(path)
    except Exception as err:
        raise ValueError(f"{path}: this checkpoint does not fit the recipe: {err}") from err


def _step(path: str) -> int:
    return int(path.rpartition("-")[2])


def weights_file(folder: str) -> str:
    """The path of the weights in a folder to start from.

    Raises:
        ValueError: there are none.
    """
    file = os.path.join(folder, WEIGHTS)
    if not paths.isfile(file):
        raise ValueError(f"train.init_from: {file}: no such file; name the folder of a finished run or an import")
    return file


@torch.no_grad()
def warm_start(model: Model, folder: str) -> str:
    """Take over a folder's tensors of equal name and shape; nothing is resized. Says in words what was not.

    Raises:
        ValueError: there are no weights, or none that fits.
    """
    file = weights_file(folder)
    try:
        held = with_new_names(read_safetensors(file), model.state_dict(), file)
    except ValueError as err:
        raise ValueError(f"train.init_from: {err}") from err
    own, names = model.state_dict(), list(held)
    same = [name for name in names if name in own and held[name].shape == own[name].shape]
    for name in same:
        own[name].copy_(held[name])
    taken = {own[name].data_ptr() for name in same}  # tied tensors are in the file under one of their names
    if not any(held[name].ndim for name in same):  # a scalar fits anywhere
        raise ValueError(
            f"train.init_from: {file}: none of its {len(names)} tensors has a name and shape of this model's"
        )
    new = [name for name, tensor in own.items() if tensor.data_ptr() not in taken]
    lines = [f"Started from {folder}: {len(own) - len(new)} of {len(own)} tensors taken over; new: {_counted(new)}"]
    if left := [name for name in names if name not in own]:
        lines.append(f"  in that folder, not in this model: {_counted(left)}")
    if other := [name for name in names if name in own and name not in same]:
        first = f"{other[0]} is {_shape(held[other[0]])} there, {_shape(own[other[0]])} here"
        lines.append(f"  of another shape, so new, for nothing is resized: {_counted(other)}; {first}")
    return "\n".join(lines)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _counted(names: Iterable[str]) -> str:
    """By their first two components: ``decoder.multimodal 12, heads.match 2``."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
