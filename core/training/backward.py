"""The backward pass of a batch, on one process or several. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core import runtime
from core.objectives import Objectives, Step
from core.types import Batch


class BackwardPass:
    """Adds a batch's gradients to the objectives' parameters.

    Args:
        precision: "fp32" or "bf16".
        module: the forward pass; the objectives themselves if None.
    """

    def __init__(self, objectives: Objectives, device: torch.device, precision: str, module: nn.Module | None = None):
        self.objectives, self.device, self.precision = objectives, device, precision
        self.module: nn.Module = objectives if module is None else module
        if runtime.world_size() > 1:  # a recipe may leave parts of its model unused
            self.module = DistributedDataParallel(self.module, find_unused_parameters=True)

    def __call__(self, batch: Batch, share: float = 1.0, last: bool = True) -> dict[str, Tensor]:
        """Run the backward pass of ``share`` times the weighted losses.

        Args:
            batch: this rank's rows, on the host.
            last: True for the last batch of an optimizer step, after which the ranks exchange gradients.

        Returns:
            each loss of this rank, unweighted, a scalar; its mean over ranks is the loss of all their rows.
        """
        (scales,) = loss_scales(self.objectives, [batch])
        return self.run(self.step(batch), scales, share=share, last=last)

    def step(self, batch: Batch) -> Step:
        """Move a batch to the device; target tokens are counted first, so as not to wait for a GPU."""
        count = int(batch.text.mask[:, 1:].sum())
        return Step(self.objectives.model, batch.to(self.device), num_target_tokens=count)

    def run(self, *inputs: Any, share: float, last: bool) -> dict[str, Tensor]:
        """Run the module forward and backward; the losses, detached."""
        with nullcontext() if last or not isinstance(self.module, DistributedDataParallel) else self.module.no_sync():
            with runtime.autocast(self.device, self.precision):
                total, losses = self.module(*inputs)
            if total.requires_grad:  # False if all that this chunk depends on is frozen
                (share * total).backward()
        return losses


def loss_scales(objectives: Objectives, batches: Sequence[Batch]) -> list[dict[str, float]]:
    """Factors by which losses, summed over batches and averaged over ranks, become the loss of all rows.

    Returns:
        for each batch: objective -> its share of the loss's denominator, times the number of ranks.
    """
    counts = [{name: objective.loss_denominator(b) for name, objective in objectives.items()} for b in batches]
    names = list(counts[0])
    totals = runtime.all_reduce_sum([sum(count[name] for count in counts) for name in names])
    ranks = runtime.world_size()  # DistributedDataParallel divides gradients by it
    return [
        {n: ranks * count[n] / total if total else 0.0 for n, total in zip(names, totals, strict=True)}
        for count in counts
    ]
