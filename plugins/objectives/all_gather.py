"""Features gathered from all ranks, for contrastive objectives.

Letters: b rows of one rank, B rows of all ranks together, E width of the shared space. All ranks must have the same
number of rows and compute the same objectives in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core import runtime
from core.objectives import Step


class _Gather(torch.autograd.Function):
    """all_gather whose backward sums the gradients of all ranks' losses for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(b, ...) -> (B, ...), in the order of ranks."""
        whole = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])  # (B, ...)
        dist.all_gather_into_tensor(whole, x.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """(B, ...) -> (b, ...)."""
        local = gradient.new_empty(len(gradient) // dist.get_world_size(), *gradient.shape[1:])  # (b, ...)
        dist.reduce_scatter_tensor(local, gradient.contiguous())
        return local


def all_gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, with gradients to each rank: (b, ...) -> (B, ...)."""
    whole: Tensor = _Gather.apply(x)
    return whole


def pair_logits(step: Step, head: str, gather: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of this rank's pairs against those of all ranks: cosines, transformed by a head of the model.

    A mean over them is open_clip's "local loss": its average over ranks is the loss of the whole batch. So is the
    average of the gradients, which DDP computes, because ``all_gather`` returns each gradient to the rank of its row.

    Args:
        head: the head that turns cosines into logits, such as "temperature".
        gather: False: only this rank's pairs. With one rank, or without torch.distributed, it has no effect.

    Returns:
        (b, B) this rank's images by all captions, (B, b) all images by this rank's captions, and (b,) int64, the
        indices of this rank's pairs among all.
    """
    heads = step.model.heads
    image: Tensor = heads["image"](step.image.pooled).float()  # (b, E)
    text: Tensor = heads["text"](step.text.pooled).float()  # (b, E)
    index = torch.arange(len(image), device=image.device)  # (b,)
    with runtime.autocast(image.device, "fp32"):  # a temperature of 0.01 multiplies bf16's rounding errors by 100
        if not (gather and runtime.world_size() > 1):
            logits: Tensor = heads[head](image @ text.T)  # (b, b)
            return logits, logits, index
        images, texts = all_gather(torch.stack([image, text], 1)).unbind(1)  # (b, 2, E) -> (B, 2, E) -> (B, E) each
        return heads[head](image @ texts.T), heads[head](images @ text.T), index + runtime.rank() * len(index)
