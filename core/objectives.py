"""Features of a batch, the losses of these features, and their weighted sum. Letters as in core.types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from core.types import Batch, Fused, Tokens
from registry.lazy import once
from registry.part import PartError
from registry.renaming import renamed

if TYPE_CHECKING:
    from core.model import Model

Rows = Tensor | slice
SLOTS = {  # names in messages of slots that are not model.SLOT
    "scores": "a first pruner that overrides score",
    "trained_scores": "a first pruner that overrides score and has parameters",
}


@renamed({"view": "image_for", "words": "decoder_text", "labelled": "num_target_tokens"})
class Step:
    """Features of one batch, each computed once, at its first read.

    Args:
        image, text: features computed elsewhere, which replace this step's own.
        num_target_tokens: counted by a caller with the batch on the host, because reading it from a GPU would wait.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        *,
        image: Tokens | None = None,
        text: Tokens | None = None,
        num_target_tokens: int | None = None,
    ):
        self.model, self.batch = model, batch
        given = {"image": image, "text": text, "num_target_tokens": num_target_tokens}
        vars(self).update({name: value for name, value in given.items() if value is not None})

    @once
    def num_target_tokens(self) -> int:
        """Number of caption tokens to predict, without [CLS]; padding included if the batch is not on the host."""
        mask = self.batch.text.mask[:, 1:]  # (B, L - 1)
        on_host = type(mask) is Tensor and mask.device.type == "cpu"  # fake tensors are of another type
        return int(mask.sum()) if on_host else mask.numel()

    @once
    def trunk(self) -> Tokens:
        """Image states after the blocks before the first pruner, (B, N, D): the same for all guides."""
        return self.model.trunk(self.batch.images)

    @once
    def text(self) -> Tokens:
        """The encoded captions, (B, L, D)."""
        return self.model.encode_text(self.batch.text)

    @once
    def decoder_text(self) -> Tokens:
        """The captions by the decoder's unimodal half, (B, L, D); ``text`` itself without a text encoder."""
        assert self.model.decoder is not None
        return self.text if self.model.text is None else self.model.decoder.encode_text(self.batch.text)

    @once
    def image(self) -> Tokens:
        """Image states for contrastive losses, (B, N', D); guide: the caption (paper) or null (leak_free)."""
        by_caption = self.model.guided and self.model.policy == "paper"
        return self.model.encode_image(self.trunk, self.text.pooled if by_caption else None)

    def image_for(self, rows: Rows, words: Tokens) -> Tokens:
        """States of the images ``rows``, (b, N', D); under leak_free guided by ``words`` (b, L, D)."""
        if not self.model.guided or self.model.policy == "paper":
            return self.image.rows(rows)
        return self.model.encode_image(self.trunk.rows(rows), words.pooled)

    def fuse(self, rows: Rows, words: Tokens) -> Fused:
        """Fuse the images ``rows`` with ``words`` (b, L, D), row by row."""
        assert self.model.fusion is not None
        fused: Fused = self.model.fusion(words, self.image_for(rows, words))
        return fused


@renamed(
    {"units": "loss_denominator", "reads": "batch_fields", "contrasts": "is_contrastive", "attach": "on_model_built"}
)
class Objective(nn.Module, ABC):
    """One loss, computed from the features of a Step, independent of other objectives."""

    origin: str = ""
    batch_fields: tuple[str, ...] = ()  # parts of the batch: "masked", "prefixed", "regions", "labels", "truths"
    is_contrastive: ClassVar[bool] = False  # True: of step.image.pooled and step.text.pooled alone, all rows together

    def needs(self) -> tuple[str, ...]:
        """Return required slots of the model: "text", "fusion", "decoder", "heads.match", ..., or keys of SLOTS."""
        return ()

    def loss_denominator(self, batch: Batch) -> float:
        """Number of terms that the loss averages over, here rows; it weighs chunks and ranks. Computed on the host."""
        return len(batch.images)

    def min_batch(self, ranks: int, chunks: int) -> int:
        """Smallest ``train.batch`` that ranks and their chunks can share; 2 for each whose rows the loss compares."""
        return 1

    def on_model_built(self, model: Model) -> None:
        """Hook, called once after the model is built, for an objective with a teacher."""

    def after_step(self, model: Model) -> None:
        """Hook, called after each optimizer step, for a teacher that averages the model."""

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """Compute the loss, a scalar ()."""


@renamed({"reads": "batch_fields"})
class Objectives(nn.Module):
    """The losses of a recipe; an objective of weight 0 is left out and costs nothing.

    Raises:
        PartError: objectives need slots that the model lacks; names all of them.
    """

    ema_model: AveragedModel | None  # running mean of the weights, set by a trainer: saved with all else

    def __init__(self, model: Model, objectives: Mapping[str, Objective], weights: Mapping[str, float]):
        super().__init__()
        self.model = model
        self.weights = {name: weights[name] for name in objectives if weights[name] != 0}
        self.parts = nn.ModuleDict({name: objectives[name] for name in self.weights})
        problems = [
            f"objectives.{name}: {part.origin} needs {SLOTS.get(slot, f'model.{slot}')}, which this model lacks"
            for name, part in self.items()
            for slot in part.needs()
            if model.lacks(slot)
        ]
        if problems:
            raise PartError("\n".join(problems))
        for _, part in self.items():
            part.on_model_built(model)

    def items(self) -> list[tuple[str, Objective]]:
        return [(name, part) for name, part in self.parts.items() if isinstance(part, Objective)]

    @property
    def batch_fields(self) -> frozenset[str]:
        """Optional fields of a batch that these objectives read."""
        return frozenset(part for _, objective in self.items() for part in objective.batch_fields)

    def forward(
        self, batch: Batch | Step, scales: Mapping[str, float] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted sum of the losses, and each loss unweighted and detached; all scalars ().

        Args:
            batch: or its Step, for example with features computed elsewhere.
            scales: factor of each loss; an objective without one is left out. None: 1 for all.
        """
        step = Step(self.model, batch) if isinstance(batch, Batch) else batch
        factors = dict.fromkeys(self.parts, 1.0) if scales is None else scales
        losses = {name: factors[name] * objective(step) for name, objective in self.items() if name in factors}
        total = torch.zeros((), device=step.batch.images.device)
        for name, loss in losses.items():
            total = total + self.weights[name] * loss
        return total, {name: loss.detach() for name, loss in losses.items()}
