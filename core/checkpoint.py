"""Saving and loading: safetensors and JSON, each checkpoint written aside and renamed when whole."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

WEIGHTS = "model.safetensors"


def save_weights(model: nn.Module, folder: str) -> None:
    """Write ``model.safetensors``, tied weights once."""
    target = os.path.join(folder, WEIGHTS)
    save_model(model, target + ".part")
    os.replace(target + ".part", target)


def load_weights(model: nn.Module, folder: str) -> None:
    """Read ``model.safetensors``.

    Raises:
        ValueError: the file is missing or does not fit the model; names it.
    """
    file = os.path.join(folder, WEIGHTS)
    try:
        load_model(model, file)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; has this run ended?") from None
    except Exception as err:
        raise ValueError(f"{file}: does not fit this recipe's model: {err}") from err


def save_state(
    folder: str, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, meta: dict[str, Any]
) -> str:
    """Write ``checkpoints/step-N`` with all that training needs to go on; drops the older ones. Returns its path."""
    root = os.path.join(folder, "checkpoints")
    final, aside = os.path.join(root, f"step-{step:08d}"), os.path.join(root, f"writing-{step:08d}")
    shutil.rmtree(aside, ignore_errors=True)
    os.makedirs(aside)
    save_model(module, os.path.join(aside, "objectives.safetensors"))
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    for index, state in packed["state"].items():
        tensors.update({f"{index}.{key}": value for key, value in state.items() if isinstance(value, Tensor)})
    save_file(tensors, os.path.join(aside, "optimizer.safetensors"))
    with open(os.path.join(aside, "state.json"), "w", encoding="utf-8") as file:
        json.dump({"step": step, **meta}, file)
    for name in os.listdir(aside):
        with open(os.path.join(aside, name), "rb") as file_:
            os.fsync(file_.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.rename(aside, final)
    for name in os.listdir(root):
        if os.path.join(root, name) != final:
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    return final


def newest(folder: str) -> str | None:
    """The newest whole checkpoint of a run, or None."""
    root = os.path.join(folder, "checkpoints")
    found = sorted(n for n in os.listdir(root) if re.fullmatch(r"step-\d+", n)) if os.path.isdir(root) else []
    return os.path.join(root, found[-1]) if found else None


def load_state(path: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill module and optimizer from a checkpoint; returns its state.json.

    Raises:
        ValueError: the checkpoint does not fit; names it.
    """
    try:
        load_model(module, os.path.join(path, "objectives.safetensors"))
        packed = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(os.path.join(path, "optimizer.safetensors")).items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": packed["param_groups"]})
        with open(os.path.join(path, "state.json"), encoding="utf-8") as file:
            meta: dict[str, Any] = json.load(file)
    except Exception as err:
        raise ValueError(f"{path}: this checkpoint does not fit the recipe: {err}") from err
    return meta
