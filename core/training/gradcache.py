"""GradCache: large contrastive batches in limited memory (Gao et al. 2021, arXiv:2101.06983).

A batch is computed in chunks, so that only one chunk's activations are kept at a time. The first pass computes each
chunk's pooled features without gradient. The contrastive losses of all chunks' features give the gradients of these
features and of the parameters that turn them into logits. The second pass computes each chunk again with the same
random numbers and adds the other losses; the surrogate loss sum(feature * gradient) injects the contrastive gradients.
Letters as in core.types; b rows of one chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.objectives import Objectives, Step
from core.runtime import autocast
from core.training.backward import BackwardPass, loss_scales
from core.training.loader import split_batch
from core.types import Batch, Tokens


class CachedGradients(NamedTuple):
    """Contrastive gradients that the second pass of one chunk injects."""

    features: tuple[Tensor, ...] = ()  # of the pooled image and text, (b, D) each
    parameters: tuple[tuple[nn.Parameter, Tensor], ...] = ()  # of the logits, each with its gradient


class SurrogateForward(nn.Module):
    """The objectives' forward pass, with the surrogate loss of cached gradients added."""

    def __init__(self, objectives: Objectives):
        super().__init__()
        self.objectives = objectives

    def forward(
        self, step: Step, scales: dict[str, float], cached: CachedGradients
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, a scalar, and each loss as in Objectives.forward."""
        surrogate = torch.zeros((), device=step.batch.images.device)
        if cached.features:  # before the losses: random numbers are drawn in the order of the first pass
            for feature, gradient in zip(pooled_features(step), cached.features, strict=True):
                surrogate = surrogate + (feature.float() * gradient).sum()  # (b, D) -> ()
        for parameter, gradient in cached.parameters:
            surrogate = surrogate + (parameter * gradient).sum()
        total, losses = self.objectives(step, scales)
        return surrogate + total, losses


class GradCache:
    """Adds a batch's gradients like BackwardPass, in ``chunks`` parts."""

    def __init__(self, objectives: Objectives, chunks: int, device: torch.device, precision: str):
        self.objectives, self.chunks, self.device, self.precision = objectives, chunks, device, precision
        self.backward = BackwardPass(objectives, device, precision, SurrogateForward(objectives))

    def __call__(self, batch: Batch, share: float = 1.0, last: bool = True) -> dict[str, Tensor]:
        """Run the backward pass; arguments and result are those of BackwardPass.__call__."""
        chunks = [split_batch(batch, index, self.chunks) for index in range(self.chunks)]
        scales = loss_scales(self.objectives, chunks)
        cached, losses = [CachedGradients()] * self.chunks, dict[str, Tensor]()
        random_states: list[list[Tensor]] = []
        if any(objective.is_contrastive for _, objective in self.objectives.items()):
            losses, cached, random_states = self._contrast(chunks)
            scales = [{name: scale for name, scale in s.items() if name not in losses} for s in scales]
        for index, chunk in enumerate(chunks):
            if random_states:
                _set_random_state(random_states[index], self.device)
            ends = last and index == self.chunks - 1
            parts = self.backward.run(self.backward.step(chunk), scales[index], cached[index], share=share, last=ends)
            for name, part in parts.items():
                losses[name] = losses[name] + part if name in losses else part
        return {name: losses[name] for name, _ in self.objectives.items()}

    def _contrast(self, chunks: list[Batch]) -> tuple[dict[str, Tensor], list[CachedGradients], list[list[Tensor]]]:
        """Compute the contrastive losses, each chunk's cached gradients, and the random state before each chunk."""
        random_states, features = [], []
        for chunk in chunks:
            random_states.append(_random_state(self.device))
            with torch.no_grad(), autocast(self.device, self.precision):
                features.append(pooled_features(self.backward.step(chunk)))
        image, text = (torch.cat(feature).requires_grad_() for feature in zip(*features, strict=True))  # (B, D)
        with autocast(self.device, self.precision):
            losses = contrastive_losses(self.objectives, chunks[0], image, text)
            total = torch.stack([self.objectives.weights[name] * loss for name, loss in losses.items()]).sum()
        parameters = [parameter for parameter in self.objectives.parameters() if parameter.requires_grad]
        of_image, of_text, *others = torch.autograd.grad(total, [image, text, *parameters], allow_unused=True)
        reached = tuple((p, gradient) for p, gradient in zip(parameters, others, strict=True) if gradient is not None)
        by_chunk = zip(of_image.chunk(len(chunks)), of_text.chunk(len(chunks)), strict=True)  # (b, D) each
        cached = [CachedGradients(gradients) for gradients in by_chunk]
        cached[-1] = cached[-1]._replace(parameters=reached)  # once
        return {name: loss.detach() for name, loss in losses.items()}, cached, random_states


def pooled_features(step: Step) -> tuple[Tensor, Tensor]:
    """The features that contrastive losses read, of image and text, (b, D) each; always computed in this order."""
    image, text = step.image.pooled, step.text.pooled
    assert image is not None and text is not None
    return image, text


def contrastive_losses(objectives: Objectives, batch: Batch, image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """The contrastive losses of pooled features (B, D), each a scalar; of ``batch`` nothing is read."""
    step = Step(objectives.model, batch, image=Tokens(image[:, None], image), text=Tokens(text[:, None], text))
    return {name: objective(step) for name, objective in objectives.items() if objective.is_contrastive}


def _random_state(device: torch.device) -> list[Tensor]:
    """States of the random number generators of the CPU and a GPU, (N,) uint8 each."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    """Restore the states of the random number generators, (N,) uint8 each."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
