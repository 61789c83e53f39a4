"""Cross-entropy over a large vocabulary without all logits in memory at once.

Letters as in core.types; n positions with a target, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PIECES = 64  # bounds the time of ``patchbay check``, which also runs batches that fit no machine
MAX_LOGITS = 2**24  # per piece: 64 MiB in full precision; smaller pieces read the head's matrix too often


def target_positions(mask: Tensor, count: int) -> Tensor:
    """Flat indices of the first ``count`` True entries of a mask (B, L), in order: (count,) int64.

    ``count`` is given because ``mask.nonzero()`` would wait for the device.
    """
    flat = mask.flatten()  # (B L,)
    if count == flat.numel():
        return torch.arange(count, device=mask.device)
    return flat.logical_not().to(torch.uint8).argsort(stable=True)[:count]  # True entries first


def token_loss(
    head: nn.Module, states: Tensor, targets: Tensor, weights: Tensor, smoothing: float = 0.0, max_logits: int = 0
) -> Tensor:
    """sum_i w_i * cross-entropy(head(state_i), target_i), a scalar in full precision.

    With more than ``max_logits`` logits the states pass through the head in pieces, and the gradient of each piece is
    computed in the forward pass while its logits exist. So no pass is repeated, and at most ``max_logits`` logits, or a
    64th of all, are in memory.

    Args:
        head: (n, D) -> (n, V), row by row.
        states: (n, D).
        targets: (n,) int64, each below V.
        weights: (n,) float, not differentiated.
        smoothing: fraction of the target that is spread evenly over all V.
        max_logits: logits per piece; 0: 2**24.
    """
    vocabulary = int(head(states[:0]).shape[-1])  # not under no_grad: autocast would cache a cast without gradient
    rows = max(1, (max_logits or MAX_LOGITS) // vocabulary, -(-int(states.shape[0]) // MAX_PIECES))
    if int(states.shape[0]) <= rows or not torch.is_grad_enabled():
        pieces = zip(states.split(rows), targets.split(rows), weights.split(rows), strict=True)
        return torch.stack([_piece_loss(head, *piece, smoothing) for piece in pieces]).sum()
    loss: Tensor = _PiecewiseLoss.apply(head, rows, smoothing, targets, weights, states, *_trainable(head))
    return loss


def _piece_loss(head: nn.Module, states: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    losses = F.cross_entropy(head(states).float(), targets, reduction="none", label_smoothing=smoothing)  # (n,)
    return (losses * weights).sum()


def _trainable(head: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in head.parameters() if parameter.requires_grad]


class _PiecewiseLoss(torch.autograd.Function):
    """The loss is a scalar, so its gradients are known up to one factor in the forward pass already."""

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        rows: int,
        smoothing: float,
        targets: Tensor,
        weights: Tensor,
        states: Tensor,
        *_: Tensor,
    ) -> Tensor:
        """The loss, a scalar. The head's trainable parameters come last, to receive gradients."""
        parameters = _trainable(head)
        loss, state_grads = torch.zeros((), device=states.device), torch.empty_like(states)  # scalar, (n, D)
        parameter_grads = [torch.zeros_like(parameter) for parameter in parameters]
        hide = torch.autograd.graph.saved_tensors_hooks(_identity, _identity)  # from counters of saved activations
        with torch.enable_grad(), hide:
            for start in range(0, int(states.shape[0]), rows):
                piece = slice(start, start + rows)
                x = states[piece].detach().requires_grad_()  # (rows, D)
                part = _piece_loss(head, x, targets[piece], weights[piece], smoothing)
                state_grads[piece], *grads = torch.autograd.grad(part, [x, *parameters])
                for total, grad in zip(parameter_grads, grads, strict=True):
                    total += grad
                loss += part.detach()
        ctx.save_for_backward(state_grads, *parameter_grads)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Scale the saved gradients, (n, D) and those of the parameters, by the loss's gradient, a scalar."""
        return (*[None] * 5, *(saved * gradient for saved in ctx.saved_tensors))


def _identity(tensor: Tensor) -> Tensor:
    """Return a tensor of any shape as it is."""
    return tensor
