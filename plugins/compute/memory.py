"""Memory of a training step, estimated from shapes, on fake or real tensors."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from core.training.optimizer import hidden_maps

MIN_FACTORED_SIDE = 16  # smallest matrix side for which Adafactor factors the second moment into row and column


def training_memory(module: nn.Module, saved: int, optimizer: str = "adamw") -> dict[str, int]:
    """Bytes by kind: ``{parameters, gradients, optimizer, teacher, activations, total}``.

    ``optimizer``: two moments for each parameter; Adafactor's second one is factored, and Muon has one for hidden
    linear layers. ``teacher``: frozen parameters and all buffers, queues included. ``activations``: the bytes ``saved``
    for the backward pass. Not counted: temporaries, the allocator's reserve, the batch and the data workers.
    """
    trainable = sum(_bytes(p) for p in module.parameters() if p.requires_grad)
    frozen = num_bytes(module) - trainable
    single = hidden_maps(module) if optimizer == "muon" else set()
    twice = [p for p in module.parameters() if p not in single]
    parts = {
        "parameters": trainable,
        "gradients": trainable,
        "optimizer": trainable + sum(_second_moment(p, optimizer) for p in twice if p.requires_grad),
        "teacher": frozen,
        "activations": saved,
    }
    return {**parts, "total": sum(parts.values())}


def parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters by slot, with pruners and poolers as slots of their own; tied weights count once."""
    pruners = {id(p) for pruner in getattr(model, "pruners", ()) for p in pruner.parameters()}
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        path = name.split(".")
        part = "pruner" if id(parameter) in pruners else "poolers" if "pooler" in path else path[0]
        part = "moments" if part == "frame_embedding" else part  # the key that scripts rely on
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def num_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(map(_bytes, (*module.parameters(), *module.buffers())))


class SavedTensors:
    """Distinct storages that autograd keeps for the backward pass, other than a module's parameters and buffers."""

    def __init__(self, module: nn.Module):
        self.excluded = {_key(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self.storages: dict[int, Any] = {}  # kept alive, so that no key is reused

    def hooks(self) -> AbstractContextManager[Any]:
        """Context in which saved tensors are recorded."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for key, storage in self.storages.items() if key not in self.excluded)

    def _keep(self, tensor: Tensor) -> Tensor:
        """Record a tensor of any shape, and return it."""
        self.storages.setdefault(_key(tensor), tensor.untyped_storage())
        return tensor


def _second_moment(parameter: Tensor, optimizer: str) -> int:
    """Bytes of the second moment of a parameter of any shape."""
    if optimizer != "adafactor" or parameter.ndim < 2:
        return _bytes(parameter)
    *rest, short, long = sorted(parameter.shape)
    if short < MIN_FACTORED_SIDE:
        return _bytes(parameter)
    return math.prod(rest) * (short + long) * parameter.element_size()


def _key(tensor: Tensor) -> int:
    """Address of the storage of a tensor of any shape."""
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    """Size of a tensor of any shape."""
    return tensor.numel() * tensor.element_size()
