"""Image-text contrast with a momentum teacher and queues. Letters as in core.types; Q entries queued, E width of the
shared space."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import runtime
from core.hookspecs import hookimpl
from core.model import Model
from core.objectives import Objective, Step
from plugins.objectives.all_gather import gathered
from registry.part import Count, Fraction, NonNegativeInt


class MomentumContrast(Objective):
    """ITC as ALBEF and mPLUG train it: a slowly following teacher fills two queues and softens the targets.

    Targets are alpha * softmax(teacher's similarities) + (1 - alpha) * one-hot, over the batch and the queue; the loss
    is the mean of both directions. The teacher sees the pictures under the same guide policy as the model. Of a batch
    in parts (ranks, train.gradcache_chunks) each part is contrasted with itself and the queues.

    Args:
        momentum: m of the teacher's average, 0.995 in mPLUG.
        queue: entries in each queue, 65,536 in mPLUG.
        alpha: share of the teacher in the targets, 0.4 in mPLUG.
        ramp: steps over which alpha grows from 0 (mPLUG: one epoch).
    """

    queue_image: Tensor
    queue_text: Tensor
    filled: Tensor
    steps: Tensor

    def __init__(
        self, *, momentum: Fraction = 0.995, queue: Count = 65536, alpha: Fraction = 0.4, ramp: NonNegativeInt = 1000
    ):
        super().__init__()
        self.momentum, self.size, self.alpha, self.ramp = momentum, queue, alpha, ramp

    def needs(self) -> tuple[str, ...]:
        return ("text", "heads.image", "heads.text", "heads.temperature")

    def on_model_built(self, model: Model) -> None:
        teacher = copy.deepcopy(model).requires_grad_(False)
        teacher.fusion = None
        if teacher.text is not None:  # else the decoder reads the texts
            teacher.decoder = None
        teacher.heads = nn.ModuleDict({name: teacher.heads[name] for name in ("image", "text")})
        self.teacher = teacher
        assert model.text_tower is not None
        width = teacher.heads["text"](torch.zeros(1, model.text_tower.dim)).shape[1]
        for name in ("queue_image", "queue_text"):
            self.register_buffer(name, F.normalize(torch.randn(self.size, int(width)), dim=1))  # (Q, E)
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))  # entries ever queued
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, step: Step) -> Tensor:
        model = step.model
        image: Tensor = model.heads["image"](step.image.pooled).float()  # (B, E)
        text: Tensor = model.heads["text"](step.text.pooled).float()
        temperature = model.heads["temperature"]
        for name, module in self.teacher.named_modules():
            module.training = model.get_submodule(name).training  # the student's mode, also where that is frozen
        with torch.no_grad():
            taught = Step(self.teacher, step.batch)
            image_m: Tensor = self.teacher.heads["image"](taught.image.pooled).float()
            text_m: Tensor = self.teacher.heads["text"](taught.text.pooled).float()
        with runtime.autocast(image.device, "fp32"):  # as in pair_logits
            images, texts = torch.cat([image_m, self.queue_image]), torch.cat([text_m, self.queue_text])  # (B + Q, E)
            alpha = self.alpha * (self.steps / self.ramp).clamp(max=1) if self.ramp else self.alpha
            own = torch.eye(len(image), len(images), device=image.device)  # (B, B + Q)
            with torch.no_grad():
                to_text = alpha * temperature(image_m @ texts.T).softmax(1) + (1 - alpha) * own
                to_image = alpha * temperature(text_m @ images.T).softmax(1) + (1 - alpha) * own
            loss = F.cross_entropy(temperature(image @ texts.T), to_text)
            loss = (loss + F.cross_entropy(temperature(text @ images.T), to_image)) / 2
        if self.training:
            self._enqueue(image_m, text_m)
        return loss

    @torch.no_grad()
    def _enqueue(self, image: Tensor, text: Tensor) -> None:
        """Of all ranks, so that all hold the same queues."""
        if runtime.world_size() > 1:
            image, text = gathered(image), gathered(text)
        place = (self.filled + torch.arange(len(image), device=image.device)) % self.size  # (B,)
        self.queue_image[place[-self.size :]] = image[-self.size :]
        self.queue_text[place[-self.size :]] = text[-self.size :]
        self.filled += len(image)

    @torch.no_grad()
    def after_step(self, model: Model) -> None:
        own, lead = dict(self.teacher.named_parameters()), dict(model.named_parameters())
        for name, parameter in own.items():
            parameter.lerp_(lead[name], 1 - self.momentum)
        self.steps += 1


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itc_momentum", MomentumContrast)
