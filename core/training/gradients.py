"""The gradients of a batch, at once or in chunks, on one process or several.

Chunks save memory: only one chunk's activations are kept at a time. Contrastive losses compare all rows, so they use
GradCache (Gao et al. 2021, arXiv:2101.06983). The first pass computes each chunk's pooled features without gradient.
The contrastive losses of all chunks' features give the gradients of these features and of the parameters that turn them
into logits. The second pass computes each chunk again with the same random numbers and adds the other losses; the
surrogate loss sum(feature * gradient) injects the contrastive gradients. Letters as in core.types; b rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states

from core import runtime
from core.objectives import Objectives, Step
from core.training.loader import split_batch
from core.types import Batch, Tokens


class FirstPass(NamedTuple):
    """Random state and contrastive gradients of a chunk's first pass, for the second; empty without GradCache."""

    random_state: tuple[Tensor, list[int], list[Tensor]] | None = None  # of the CPU; numbers of GPUs, and of each
    features: tuple[Tensor | None, ...] = ()  # of the pooled image and text, (b, D) each; None: not used
    parameters: tuple[tuple[nn.Parameter, Tensor], ...] = ()  # of the logits, each with its gradient


class LossForward(nn.Module):
    """The objectives' forward pass, with the surrogate loss of cached gradients added."""

    def __init__(self, objectives: Objectives):
        super().__init__()
        self.objectives = objectives

    def forward(self, step: Step, scales: dict[str, float], first: FirstPass) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, a scalar, and each loss as in Objectives.forward."""
        surrogate = torch.zeros((), device=step.batch.images.device)
        # features before the losses: random numbers are drawn in the order of the first pass
        features = zip(pooled_features(step), first.features, strict=True) if first.features else ()
        for value, gradient in (*features, *first.parameters):
            surrogate = surrogate + (0 if gradient is None else (value.float() * gradient).sum())  # (b, D) -> ()
        total, losses = self.objectives(step, scales)
        return surrogate + total, losses


class BackwardPass:
    """Adds a batch's gradients to the objectives' parameters.

    Args:
        precision: "fp32" or "bf16".
        chunks: parts of the batch that are computed one after the other; 1 for the whole batch at once.
    """

    def __init__(self, objectives: Objectives, device: torch.device, precision: str, chunks: int = 1):
        self.objectives, self.device, self.precision, self.chunks = objectives, device, precision, chunks
        self.module: nn.Module = LossForward(objectives)
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
        chunks = [split_batch(batch, index, self.chunks) for index in range(self.chunks)]
        scales = loss_scales(self.objectives, chunks)
        first_passes, losses = [FirstPass()] * self.chunks, dict[str, Tensor]()
        if self.chunks > 1 and any(objective.is_contrastive for _, objective in self.objectives.items()):
            losses, first_passes = self._contrast(chunks, batch)
            scales = [{name: scale for name, scale in s.items() if name not in losses} for s in scales]
        for index, (chunk, first) in enumerate(zip(chunks, first_passes, strict=True)):
            if first.random_state is not None:
                cpu, devices, states = first.random_state
                torch.set_rng_state(cpu)
                set_device_states(devices, states)
            is_final = last and index == self.chunks - 1
            wait = self.module.no_sync() if isinstance(self.module, DistributedDataParallel) and not is_final else None
            with wait or nullcontext():
                with runtime.autocast(self.device, self.precision):
                    total, parts = self.module(self._step(chunk), scales[index], first)
                if total.requires_grad:  # False if all that this chunk depends on is frozen
                    (share * total).backward()
            for name, part in parts.items():
                losses[name] = losses[name] + part if name in losses else part
        return {name: losses[name] for name, _ in self.objectives.items()}

    def _step(self, batch: Batch) -> Step:
        """Move a batch to the device; target tokens are counted first, so as not to wait for a GPU."""
        count = int(batch.text.mask[:, 1:].sum())
        return Step(self.objectives.model, batch.to(self.device), num_target_tokens=count)

    def _contrast(self, chunks: list[Batch], whole: Batch) -> tuple[dict[str, Tensor], list[FirstPass]]:
        """Compute the contrastive losses and each chunk's first pass."""
        random_states, features, on_device = [], [], torch.empty(0, device=self.device)
        for chunk in chunks:
            random_states.append((torch.get_rng_state(), *get_device_states(on_device)))
            with torch.no_grad(), runtime.autocast(self.device, self.precision):
                features.append(pooled_features(self._step(chunk)))
        image, text = (torch.cat(feature).requires_grad_() for feature in zip(*features, strict=True))  # (B, D)
        with runtime.autocast(self.device, self.precision):
            losses = contrastive_losses(self.objectives, whole.to(self.device), image, text)
            total = torch.stack([self.objectives.weights[name] * loss for name, loss in losses.items()]).sum()
        parameters = [parameter for parameter in self.objectives.parameters() if parameter.requires_grad]
        of_image, of_text, *others = torch.autograd.grad(total, [image, text, *parameters], allow_unused=True)
        reached = tuple((p, gradient) for p, gradient in zip(parameters, others, strict=True) if gradient is not None)
        sides = (self.chunks * [g] if g is None else g.chunk(self.chunks) for g in (of_image, of_text))  # (b, D) each
        first_passes = [FirstPass(*results) for results in zip(random_states, zip(*sides, strict=True), strict=True)]
        first_passes[-1] = first_passes[-1]._replace(parameters=reached)  # once
        return {name: loss.detach() for name, loss in losses.items()}, first_passes


def loss_scales(objectives: Objectives, batches: Sequence[Batch]) -> list[dict[str, float]]:
    """Factors by which losses, summed over batches and averaged over ranks, become the loss of all rows.

    Returns:
        for each batch: objective -> its share of the loss's denominator, times the number of ranks.
    """
    counts = [{name: objective.loss_denominator(b) for name, objective in objectives.items()} for b in batches]
    sums = runtime.all_reduce_sum([sum(count[name] for count in counts) for name in counts[0]])
    totals = dict(zip(counts[0], sums, strict=True))
    ranks = runtime.world_size()  # DistributedDataParallel divides gradients by it
    return [{name: ranks * n / totals[name] if totals[name] else 0.0 for name, n in c.items()} for c in counts]


def pooled_features(step: Step) -> tuple[Tensor, Tensor]:
    """The features that contrastive losses read, of image and text, (b, D) each; always computed in this order."""
    image = step.image.pooled
    text = image[:, :0] if image is not None and step.model.lacks("text") else step.text.pooled  # (b, 0), else (b, D)
    assert image is not None and text is not None
    return image, text


def contrastive_losses(objectives: Objectives, batch: Batch, image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """The contrastive losses of pooled features (B, D), each a scalar."""
    step = Step(objectives.model, batch, image=Tokens(image[:, None], image), text=Tokens(text[:, None], text))
    return {name: objective(step) for name, objective in objectives.items() if objective.is_contrastive}
