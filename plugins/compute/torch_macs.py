"""Multiply-adds (MACs) by torch's counter, forward and backward, on real or fake tensors.

The operations counted are those of plugins.compute.fvcore_macs, and tests compare the two. torch's counter lacks fused
attention on a CPU, and for other devices assumes that values are as wide as keys; the handles here correct both. The
backward pass of fused attention recomputes the weights, as FlashAttention does: five products, two in the forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from plugins.compute.fvcore_macs import MacCount, counting_mode

Shape = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *rest: Any, **more: Any) -> int:
    """QK^T and the weighted sum of values, in operations: 2 B H N M (d + e)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *rest: Any, **more: Any) -> int:
    """Recomputed weights, then gradients of weights, values, queries and keys: 2 B H N M (3 d + 2 e)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


_FUSED = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
HANDLES: dict[Any, Callable[..., int]] = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kind}{suffix}"): handle
    for kind in _FUSED
    for suffix, handle in (("", _attention), ("_backward", _attention_backward))
}


class NoModuleTracker:
    """Replaces torch's module tracker, whose gradient hooks fail for a loss that calls autograd.grad itself."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def counter() -> FlopCounterMode:
    """Build torch's counter with HANDLES, without modules; it counts two operations for each MAC."""
    mode = FlopCounterMode(display=False, custom_mapping=HANDLES)
    mode.mod_tracker = NoModuleTracker()  # type: ignore[assignment]
    return mode


def macs(counter: FlopCounterMode) -> int:
    return counter.get_total_flops() // 2


def count(module: nn.Module, inputs: tuple[Tensor, ...], parts: Mapping[str, Sequence[nn.Module]]) -> MacCount:
    """MACs of ``module(*inputs)``, tensors of any shape, in eval mode, by part, the rest as ``other``."""
    with counting_mode(module), _frozen(module), counter() as running, _by_part(running, parts) as sums:
        module(*inputs)
    rest = sums.pop("other")
    return MacCount(macs(running), {**sums, "other": rest} if rest else sums)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Context without trainable parameters, of whose views torch's counter would need the gradient function."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _by_part(running: FlopCounterMode, parts: Mapping[str, Sequence[nn.Module]]) -> Iterator[dict[str, int]]:
    """Context that sums MACs by the part of the innermost running module; complete at its end."""
    sums = {**dict.fromkeys(parts, 0), "other": 0}
    owners = [(child, part) for part, modules in parts.items() for child in modules]
    owners.sort(key=lambda pair: -len(list(pair[0].modules())))
    part_of = {inner: part for owner, part in owners for inner in owner.modules()}  # an inner owner overwrites
    stack, charged = ["other"], 0

    def charge() -> None:
        nonlocal charged
        sums[stack[-1]] += macs(running) - charged
        charged = macs(running)

    def enter(part: str, *_: Any) -> None:
        charge()
        stack.append(part)

    def leave(*_: Any) -> None:
        charge()
        stack.pop()

    hooks = [module.register_forward_pre_hook(partial(enter, part)) for module, part in part_of.items()]
    hooks += [module.register_forward_hook(leave) for module in part_of]
    try:
        yield sums
        charge()
    finally:
        for hook in hooks:
            hook.remove()


def amount(count: float) -> str:
    """Format a count with four digits: ``17.56 G``, ``124.0 M``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.4g} {unit}"
    return f"{count:.0f}"


def ratio(more: float, less: float) -> str:
    return f"{more / less:.2f}x" if less else "-"
