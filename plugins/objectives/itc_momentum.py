"""Image-text contrastive loss with a momentum teacher and queues.

Letters as in core.types; Q entries of a queue, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core import runtime
from core.hookspecs import hookimpl
from core.model import Model
from core.objectives import Objective, Step
from plugins.objectives.all_gather import all_gather
from plugins.objectives.momentum import copy_modes, follow, make_teacher, ramp_alpha
from registry.part import Count, Fraction, NonNegativeInt


class MomentumContrast(Objective):
    """ITC with soft targets and two feature queues from a momentum teacher (ALBEF, mPLUG).

    Targets over the batch and the queue are alpha * softmax(teacher's similarities) + (1 - alpha) * one-hot. The loss
    is the mean of both directions. The teacher prunes images under the same guide policy as the model. If ranks or
    GradCache divide the batch, each slice is contrasted with itself and the queues, so one row is enough. Entries of
    the queues count as negatives, even an earlier feature of the same image, as in ALBEF.

    Args:
        momentum: m in teacher = m * teacher + (1 - m) * model, 0.995 in mPLUG.
        queue: Q, entries of each queue, 65,536 in mPLUG; they are random at first. Best below the number of training
            images: otherwise the queues have features of the batch's own images.
        alpha: weight of the teacher in the targets, 0.4 in mPLUG.
        ramp: steps over which alpha grows linearly from 0 (mPLUG: one epoch).
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
        self.teacher = teacher = make_teacher(model, ("image", "text"), fusion=False)
        assert model.text_tower is not None
        width = teacher.heads["text"](torch.zeros(1, model.text_tower.dim)).shape[1]
        for name in ("queue_image", "queue_text"):
            self.register_buffer(name, F.normalize(torch.randn(self.size, int(width)), dim=1))  # (Q, E)
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))  # number of entries queued so far
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar. In training, the teacher's features are added to the queues."""
        model = step.model
        image: Tensor = model.heads["image"](step.image.pooled).float()  # (B, D) -> (B, E)
        text: Tensor = model.heads["text"](step.text.pooled).float()  # (B, D) -> (B, E)
        temperature = model.heads["temperature"]
        copy_modes(model, self.teacher)
        with torch.no_grad():
            teacher_step = Step(self.teacher, step.batch)
            image_m: Tensor = self.teacher.heads["image"](teacher_step.image.pooled).float()  # (B, E)
            text_m: Tensor = self.teacher.heads["text"](teacher_step.text.pooled).float()  # (B, E)
        with runtime.autocast(image.device, "fp32"):  # as in pair_logits
            images, texts = torch.cat([image_m, self.queue_image]), torch.cat([text_m, self.queue_text])  # (B + Q, E)
            alpha = ramp_alpha(self.alpha, self.steps, self.ramp)
            one_hot = torch.eye(len(image), len(images), device=image.device)  # (B, B + Q)
            with torch.no_grad():  # targets, (B, B + Q)
                to_text = alpha * temperature(image_m @ texts.T).softmax(1) + (1 - alpha) * one_hot
                to_image = alpha * temperature(text_m @ images.T).softmax(1) + (1 - alpha) * one_hot
            loss = F.cross_entropy(temperature(image @ texts.T), to_text)
            loss = (loss + F.cross_entropy(temperature(text @ images.T), to_image)) / 2
        if self.training:
            self._enqueue(image_m, text_m)
        return loss

    @torch.no_grad()
    def _enqueue(self, image: Tensor, text: Tensor) -> None:
        """Replace the oldest entries by the features (B, E) of all ranks, so that all ranks have equal queues."""
        if runtime.world_size() > 1:
            image, text = all_gather(image), all_gather(text)  # (B, E) of this rank -> of all ranks
        position = (self.filled + torch.arange(len(image), device=image.device)) % self.size  # (B,)
        self.queue_image[position[-self.size :]] = image[-self.size :]
        self.queue_text[position[-self.size :]] = text[-self.size :]
        self.filled += len(image)

    def after_step(self, model: Model) -> None:
        """Move the teacher's weights towards the model's."""
        follow(model, self.teacher, self.momentum, self.steps)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itc_momentum", MomentumContrast)
