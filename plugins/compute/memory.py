"""What a training step holds in memory: an estimate from shapes, on fake or real tensors."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from core.training.optimizer import hidden_maps

MIN_FACTORED_SIDE = 16  # least side of a matrix whose second moment Adafactor keeps as a row and a column


def of_training(module: nn.Module, saved: int, optimizer: str = "adamw") -> dict[str, int]:
    """Bytes by what holds them: ``{parameters, gradients, optimizer, teacher, activations, total}``.

    ``optimizer``: its two moments, Adafactor's second one factored, Muon's of hidden maps left out. ``teacher``:
    parameters that do not learn, and all buffers, queues among them. ``activations`` are the bytes ``saved`` for the
    backward pass. Left out: temporaries, what the allocator holds back, the batch itself and the workers that draw it.
    """
    learnt = sum(_bytes(p) for p in module.parameters() if p.requires_grad)
    fixed = num_bytes(module) - learnt
    single = hidden_maps(module) if optimizer == "muon" else set()
    twice = [p for p in module.parameters() if p not in single]
    parts = {
        "parameters": learnt,
        "gradients": learnt,
        "optimizer": learnt + sum(_second_moment(p, optimizer) for p in twice if p.requires_grad),
        "teacher": fixed,
        "activations": saved,
    }
    return {**parts, "total": sum(parts.values())}


def parameters(model: nn.Module) -> dict[str, int]:
    """Numbers by slot, those of pruners and poolers apart from their owner; tied weights once, where first met."""
    pruners = {id(p) for pruner in getattr(model, "pruners", ()) for p in pruner.parameters()}
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        path = name.split(".")
        part = "pruner" if id(parameter) in pruners else "poolers" if "pooler" in path else path[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def num_bytes(module: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(map(_bytes, (*module.parameters(), *module.buffers())))


class SavedTensors:
    """The distinct storages that autograd keeps, other than a module's own."""

    def __init__(self, module: nn.Module):
        self.own = {_key(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self.held: dict[int, Any] = {}  # held on to, so that no number is used twice

    def watch(self) -> AbstractContextManager[Any]:
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for key, storage in self.held.items() if key not in self.own)

    def _keep(self, tensor: Tensor) -> Tensor:
        self.held.setdefault(_key(tensor), tensor.untyped_storage())
        return tensor


def _second_moment(parameter: Tensor, optimizer: str) -> int:
    if optimizer != "adafactor" or parameter.ndim < 2:
        return _bytes(parameter)
    *rest, short, long = sorted(parameter.shape)
    if short < MIN_FACTORED_SIDE:
        return _bytes(parameter)
    return math.prod(rest) * (short + long) * parameter.element_size()


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
