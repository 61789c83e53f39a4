"""Masked language modelling beside the picture. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch, Masked
from plugins.objectives.token_loss import word_loss
from registry.part import Fraction


class MaskedLanguageModelling(Objective):
    """Name the hidden words from the others and the picture (BERT; ALBEF, mPLUG).

    The masked caption goes through text encoder and fusion; only the masked positions go through the vocabulary head.
    Under ``leak_free`` the picture is pruned by the masked caption.

    Args:
        fraction: of the batch's rows that take part. Our addition.
        head: the model's head for words.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}
    batch_fields = ("masked",)

    def __init__(self, *, fraction: Fraction = 1.0, head: str = "words"):
        super().__init__()
        self.share, self.head = fraction, head

    def needs(self) -> tuple[str, ...]:
        return ("text", "fusion", f"heads.{self.head}")

    def loss_denominator(self, batch: Batch) -> float:
        return float(self._part(batch)[1].weights.sum())

    def _part(self, batch: Batch) -> tuple[slice, Masked]:
        """The m rows that take part, and their words."""
        assert batch.masked is not None
        rows = slice(0, max(1, round(self.share * len(batch.images))))
        return rows, batch.masked.rows(rows)

    def forward(self, step: Step) -> Tensor:
        rows, masked = self._part(step.batch)
        states = step.fuse(rows, step.model.encode_text(masked.text)).text.x  # (m, L, D)
        at = masked.positions.unsqueeze(-1).expand(-1, -1, int(states.shape[2]))
        named, weights = states.gather(1, at).flatten(0, 1), masked.weights.flatten()  # (m M, D), (m M,)
        loss = word_loss(step.model.heads[self.head], named, masked.targets.flatten(), weights)
        return loss / weights.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("mlm", MaskedLanguageModelling)
