"""Features of all ranks, for objectives that compare a rank's pictures and captions with everyone's.

Letters: b rows of one rank, B rows of all ranks together, E width of the shared space. Every rank must hold the same
number of rows, and all ranks must compute the same objectives in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core import runtime
from core.objectives import Step


class _Gather(torch.autograd.Function):
    """(b, ...) -> (B, ...) in the order of ranks; backward sums what all ranks' losses say of the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        whole = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(whole, x.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(len(gradient) // dist.get_world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def gathered(x: Tensor) -> Tensor:
    """The rows of all ranks, rank after rank, with gradients to every rank's own: (b, ...) -> (B, ...)."""
    whole: Tensor = _Gather.apply(x)
    return whole


def pair_logits(step: Step, head: str, gather: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A rank's rows and columns of all pictures by all captions: cosines through a head of the model.

    A loss that is a mean over them is open_clip's "local loss": its average over ranks is the loss of the whole
    batch, and so are the gradients, which DDP averages, since gathering hands them on to the rank they belong to.

    Args:
        head: turns cosines into logits, "temperature".
        gather: False: the rank's own rows alone. Without torch.distributed, or with one rank, it makes no difference.

    Returns:
        (b, B) own pictures by all captions, (B, b) all pictures by own captions, and (b,) int64: which of all are own.
    """
    heads = step.model.heads
    image: Tensor = heads["image"](step.image.pooled).float()  # (b, E)
    text: Tensor = heads["text"](step.text.pooled).float()  # (b, E)
    own = torch.arange(len(image), device=image.device)
    with runtime.autocast(image.device, "fp32"):  # a temperature of 0.01 makes much of what bf16 leaves out
        if not (gather and runtime.world_size() > 1):
            logits: Tensor = heads[head](image @ text.T)  # (b, b)
            return logits, logits, own
        images, texts = gathered(torch.stack([image, text], 1)).unbind(1)  # (B, E) each, by one collective
        return heads[head](image @ texts.T), heads[head](images @ text.T), own + runtime.rank() * len(own)
