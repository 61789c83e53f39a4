"""Gradients of a batch, all at once or in chunks that take a chunk's memory (GradCache: Gao et al. 2021).

In chunks there are two passes. The first keeps nothing but the pooled features of each chunk, (b, D). Of all of them
together the contrasts are computed, with their gradients for the features and for what turns features into logits. The
second pass computes each chunk anew with the same random numbers, adds the chunk's other losses and goes backward at
once: what the contrasts say arrives as the product of the features with their gradients.

A loss that is a mean counts by the things that it is a mean over (``Objective.units``), so that chunks, and ranks,
add up to the mean of the whole batch. Letters as in core.types; b rows of one chunk.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core import runtime
from core.objectives import Objectives, Step
from core.training.loader import split_batch
from core.types import Batch, Tokens


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows of a batch and what is to be computed of them."""

    batch: Batch
    num_target_tokens: int  # words to predict: Step.labelled
    shares: dict[str, float]  # objective -> what its loss here counts for in the whole batch's
    feature_grads: tuple[Tensor, ...] = ()  # the contrasts' gradients for the pooled picture and text, (b, D) each
    parameter_grads: tuple[
        tuple[nn.Parameter, Tensor], ...
    ] = ()  # parameters that the contrasts read, with their gradients

    def to(self, device: torch.device) -> Chunk:
        return dataclasses.replace(self, batch=self.batch.to(device))

    def step(self, objectives: Objectives) -> Step:
        step = Step(objectives.model, self.batch)
        vars(step)["num_target_tokens"] = self.num_target_tokens
        return step


class LossForward(nn.Module):
    """All losses of a chunk in one forward, as DistributedDataParallel wants it."""

    def __init__(self, objectives: Objectives):
        super().__init__()
        self.objectives = objectives

    def forward(self, chunk: Chunk) -> tuple[Tensor, dict[str, Tensor]]:
        """What to go backward from, and each loss's part of the whole batch's, unweighted and detached."""
        step = chunk.step(self.objectives)
        total = torch.zeros((), device=chunk.batch.images.device)
        if chunk.feature_grads:  # first: the random numbers come in the order of the first pass
            for feature, pull in zip(_pooled(step), chunk.feature_grads, strict=True):
                total = total + (feature.float() * pull).sum()
        for parameter, gradient in chunk.parameter_grads:
            total = total + (parameter * gradient).sum()
        losses = {
            name: chunk.shares[name] * objective(step)
            for name, objective in self.objectives.items()
            if name in chunk.shares
        }
        total = total + sum(self.objectives.weights[name] * loss for name, loss in losses.items())
        return total, {name: loss.detach() for name, loss in losses.items()}


class BackwardPass:
    """Adds a batch's gradients to the objectives' parameters.

    Args:
        chunks: how many to compute a batch in. 1: at once, and the contrasts like all else.
        precision: "fp32" or "bf16".
    """

    def __init__(self, objectives: Objectives, chunks: int, device: torch.device, precision: str):
        self.objectives, self.chunks, self.device, self.precision = objectives, chunks, device, precision
        self.run: nn.Module = LossForward(objectives)
        if runtime.world_size() > 1:  # a recipe may leave parts of its model unused
            self.run = DistributedDataParallel(self.run, find_unused_parameters=True)

    def __call__(self, batch: Batch, share: float = 1.0, last: bool = True) -> dict[str, Tensor]:
        """Backward of ``share`` times the weighted losses.

        Args:
            batch: on the host; this rank's rows.
            last: whether the step ends here, so that ranks exchange what they have.

        Returns:
            each loss of this rank, unweighted; its mean over ranks is that of all their rows.
        """
        chunks = self._cut(batch)
        losses: dict[str, Tensor] = {}
        random: list[list[Tensor]] = []
        if self.chunks > 1 and any(objective.is_contrastive for _, objective in self.objectives.items()):
            losses, chunks, random = self._contrast(chunks)
        for index, chunk in enumerate(chunks):
            if random:
                _replay(random[index], self.device)
            ends = last and index == len(chunks) - 1
            with nullcontext() if ends or not isinstance(self.run, DistributedDataParallel) else self.run.no_sync():
                with self._autocast():
                    total, parts = self.run(chunk.to(self.device))
                if total.requires_grad:  # what is frozen may leave a chunk nothing to say
                    (share * total).backward()
            for name, part in parts.items():
                losses[name] = losses[name] + part if name in losses else part
        return {name: losses[name] for name, _ in self.objectives.items()}

    def _cut(self, batch: Batch) -> list[Chunk]:
        pieces = [split_batch(batch, index, self.chunks) for index in range(self.chunks)]
        names = [name for name, _ in self.objectives.items()]
        units = [[objective.loss_denominator(piece) for _, objective in self.objectives.items()] for piece in pieces]
        wholes = runtime.all_reduce_sum([sum(counted) for counted in zip(*units, strict=True)])
        return [
            Chunk(
                piece,
                int(piece.text.mask[:, 1:].sum()),
                # backward means over ranks, so a rank's part counts that much more
                {
                    n: runtime.world_size() * u / whole if whole else 0.0
                    for n, u, whole in zip(names, own, wholes, strict=True)
                },
            )
            for piece, own in zip(pieces, units, strict=True)
        ]

    def _contrast(self, chunks: list[Chunk]) -> tuple[dict[str, Tensor], list[Chunk], list[list[Tensor]]]:
        """The contrasts of all chunks together.

        Returns:
            their losses; the chunks with what the contrasts say of them, and without the contrasts; the state of the
            random numbers before each.
        """
        random, features = [], []
        for chunk in chunks:
            random.append(_random(self.device))
            with torch.no_grad(), self._autocast():
                features.append(_pooled(chunk.to(self.device).step(self.objectives)))
        image, text = (torch.cat(feature).requires_grad_() for feature in zip(*features, strict=True))  # (B, D)
        step = Step(self.objectives.model, chunks[0].batch)
        vars(step).update(image=Tokens(image[:, None], image), text=Tokens(text[:, None], text))
        parts = [(name, objective) for name, objective in self.objectives.items() if objective.is_contrastive]
        with self._autocast():
            losses = {name: objective(step) for name, objective in parts}
            total = torch.stack([self.objectives.weights[name] * loss for name, loss in losses.items()]).sum()
        learnt = [parameter for parameter in self.objectives.parameters() if parameter.requires_grad]
        of_image, of_text, *others = torch.autograd.grad(total, [image, text, *learnt], allow_unused=True)
        reached = tuple((p, gradient) for p, gradient in zip(learnt, others, strict=True) if gradient is not None)
        told = [
            dataclasses.replace(
                chunk,
                shares={name: share for name, share in chunk.shares.items() if name not in losses},
                feature_grads=tuple(pulls),
                parameter_grads=() if index < len(chunks) - 1 else reached,  # once
            )
            for index, (chunk, *pulls) in enumerate(
                zip(chunks, of_image.chunk(len(chunks)), of_text.chunk(len(chunks)), strict=True)
            )
        ]
        return {name: loss.detach() for name, loss in losses.items()}, told, random

    def _autocast(self) -> AbstractContextManager[Any]:
        return runtime.autocast(self.device, self.precision)


def _pooled(step: Step) -> tuple[Tensor, Tensor]:
    """What contrasts read of picture and text, (b, D) each; always in this order."""
    image, text = step.image.pooled, step.text.pooled
    assert image is not None and text is not None
    return image, text


def _random(device: torch.device) -> list[Tensor]:
    """Where the random numbers stand, those of the GPU too."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _replay(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
