"""From states to words and their loss without all logits at once.

Letters as in core.types; n places that are to be named, V words known.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECES = 64  # at most: of a batch beyond all machines ``patchbay check`` takes a step too
LOGITS = 2**24  # as many at a time: 64 MiB in full precision; fewer would read the head's matrix too often


def labelled(mask: Tensor, count: int) -> Tensor:
    """The flat places of the first ``count`` words of a mask (B, L), in order: (count,) int64; no wait for a device."""
    flat = mask.flatten()
    if count == flat.numel():
        return torch.arange(count, device=mask.device)
    return flat.logical_not().to(torch.uint8).argsort(stable=True)[:count]


def word_loss(
    head: nn.Module, states: Tensor, targets: Tensor, weights: Tensor, smoothing: float = 0.0, at_once: int = 0
) -> Tensor:
    """sum_i w_i * cross-entropy(head(state_i), target_i), a scalar in full precision.

    Above ``at_once`` logits the states go through the head in pieces, and each piece's gradient is made at once, while
    its logits are there: no pass is repeated, and no more than ``at_once`` logits are held, or a 64th of all.

    Args:
        head: (n, D) -> (n, V), row by row.
        states: (n, D).
        targets: (n,) int64, each below V.
        weights: (n,) float, not differentiated.
        smoothing: share of the target that is spread evenly over all V.
        at_once: logits held at a time; 0: 2**24.
    """
    vocabulary = int(head(states[:0]).shape[-1])  # not under no_grad: autocast would keep a cast without gradient
    rows = max(1, (at_once or LOGITS) // vocabulary, -(-int(states.shape[0]) // PIECES))
    if int(states.shape[0]) <= rows or not torch.is_grad_enabled():
        pieces = zip(states.split(rows), targets.split(rows), weights.split(rows), strict=True)
        return torch.stack([_plain(head, *piece, smoothing) for piece in pieces]).sum()
    loss: Tensor = _Pieces.apply(head, rows, smoothing, targets, weights, states, *_learnt(head))
    return loss


def _plain(head: nn.Module, states: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    losses = F.cross_entropy(head(states).float(), targets, reduction="none", label_smoothing=smoothing)  # (n,)
    return (losses * weights).sum()


def _learnt(head: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in head.parameters() if parameter.requires_grad]


class _Pieces(torch.autograd.Function):
    """The loss is a scalar, so its gradients are known up to one factor as soon as the logits are."""

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        rows: int,
        smoothing: float,
        targets: Tensor,
        weights: Tensor,
        states: Tensor,
        *learnt: Tensor,
    ) -> Tensor:
        own = _learnt(head)
        loss, of_states = torch.zeros((), device=states.device), torch.empty_like(states)
        sums = [torch.zeros_like(parameter) for parameter in own]
        ours = torch.autograd.graph.saved_tensors_hooks(_same, _same)  # whoever counts what is kept: these are not
        with torch.enable_grad(), ours:
            for start in range(0, int(states.shape[0]), rows):
                piece = slice(start, start + rows)
                x = states[piece].detach().requires_grad_()  # (rows, D)
                part = _plain(head, x, targets[piece], weights[piece], smoothing)
                of_states[piece], *others = torch.autograd.grad(part, [x, *own])
                for total, gradient in zip(sums, others, strict=True):
                    total += gradient
                loss += part.detach()
        ctx.save_for_backward(of_states, *sums)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return (*[None] * 5, *(saved * gradient for saved in ctx.saved_tensors))


def _same(tensor: Tensor) -> Tensor:
    return tensor
