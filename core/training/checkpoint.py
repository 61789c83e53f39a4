"""Checkpoints in safetensors and JSON, each written under another name, flushed, then renamed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.files import STATE, WEIGHTS, read_safetensors, read_text, sync, write_json
from core.folders.weights import fill, read_tensors

logger = logging.getLogger("patchbay")


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
        fill(trained, read_tensors(os.path.join(path, "objectives.safetensors"), trained))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in read_safetensors(os.path.join(path, "optimizer.safetensors")).items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(json.loads(read_text(os.path.join(path, STATE)))["step"])
    except Exception as err:
        raise ValueError(f"{path}: this checkpoint does not fit the recipe: {err}") from err
