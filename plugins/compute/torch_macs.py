"""Multiply-adds (MACs) by torch's own counter: forwards and backwards, on real or fake tensors.

The same is counted as in plugins.compute.fvcore_macs, which it is held against: torch's counter has no formula for
the fused attention
of a CPU, and its own for other devices takes values to be as wide as keys. Fused attention's backward computes the
weights anew, as FlashAttention does: five products for the forward's two.
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
    """Weights anew, then the gradients of weights, queries, keys (d each but the weights') and values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


_FUSED = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
HANDLES: dict[Any, Callable[..., int]] = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kind}{suffix}"): handle
    for kind in _FUSED
    for suffix, handle in (("", _attention), ("_backward", _attention_backward))
}


class NoModuleTracker:
    """In the place of torch's tracker of modules, whose hooks on gradients forbid a loss to make its own."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def counter() -> FlopCounterMode:
    """Torch's counter with these handles, all modules together; it counts two operations to a MAC."""
    made = FlopCounterMode(display=False, custom_mapping=HANDLES)
    made.mod_tracker = NoModuleTracker()  # type: ignore[assignment]
    return made


def macs(counter: FlopCounterMode) -> int:
    return counter.get_total_flops() // 2


def count(module: nn.Module, inputs: tuple[Tensor, ...], parts: Mapping[str, Sequence[nn.Module]]) -> MacCount:
    """MACs of ``module(*inputs)`` in eval mode by part, the rest as ``other``; see fvcore_macs.count."""
    with counting_mode(module), _frozen(module), counter() as running, _by_part(running, parts) as sums:
        module(*inputs)
    rest = sums.pop("other")
    return MacCount(macs(running), {**sums, "other": rest} if rest else sums)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient: torch's counter asks the views of those that do for a gradient function."""
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)


@contextmanager
def _by_part(running: FlopCounterMode, parts: Mapping[str, Sequence[nn.Module]]) -> Iterator[dict[str, int]]:
    """MACs by the part that the innermost running module belongs to; complete on leaving."""
    sums = {**dict.fromkeys(parts, 0), "other": 0}
    owners = [(child, part) for part, modules in parts.items() for child in modules]
    owners.sort(key=lambda pair: -len(list(pair[0].modules())))
    part_of = {inner: part for owner, part in owners for inner in owner.modules()}  # an inner owner overwrites
    stack, seen = ["other"], 0

    def charge() -> None:
        nonlocal seen
        sums[stack[-1]] += macs(running) - seen
        seen = macs(running)

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
    """``17.56 G``, ``124.0 M``: four digits."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.4g} {unit}"
    return f"{count:.0f}"


def ratio(more: float, less: float) -> str:
    return f"{more / less:.2f}x" if less else "-"
