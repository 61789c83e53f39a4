"""Masked language modelling with the image. Letters as in core.types; m rows that take part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch, Masked
from plugins.objectives.token_loss import token_loss
from registry.part import Fraction


def masked_rows(batch: Batch, fraction: float) -> tuple[slice, Masked]:
    """The first m rows of a batch, at least one, and their masked captions."""
    assert batch.masked is not None
    rows = slice(0, max(1, round(fraction * len(batch.images))))
    return rows, batch.masked.rows(rows)


def masked_states(step: Step, rows: slice, masked: Masked) -> Tensor:
    """Fuse images and masked captions; the states at masked positions, (m M, D)."""
    states = step.fuse(rows, step.model.encode_text(masked.text)).text.x  # (m, L, D)
    positions = masked.positions.unsqueeze(-1).expand(-1, -1, int(states.shape[2]))  # (m, M, D)
    return states.gather(1, positions).flatten(0, 1)  # (m, M, D) -> (m M, D)


class MaskedLanguageModelling(Objective):
    """MLM: predict masked words from the other words and the image (BERT; ALBEF, mPLUG).

    The masked caption passes through text encoder and fusion, and the states at masked positions through the vocabulary
    head. Under the policy ``leak_free`` the image is pruned with the masked caption as guide.

    Args:
        fraction: fraction of the batch that takes part. Our addition.
        head: slot of the vocabulary head.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}
    batch_fields = ("masked",)

    def __init__(self, *, fraction: Fraction = 1.0, head: str = "words"):
        super().__init__()
        self.fraction, self.head = fraction, head

    def needs(self) -> tuple[str, ...]:
        return ("text", "fusion", f"heads.{self.head}")

    def loss_denominator(self, batch: Batch) -> float:
        return float(masked_rows(batch, self.fraction)[1].weights.sum())

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        rows, masked = masked_rows(step.batch, self.fraction)
        states = masked_states(step, rows, masked)  # (m M, D)
        targets, weights = masked.targets.flatten(), masked.weights.flatten()  # (m M,) each
        loss = token_loss(step.model.heads[self.head], states, targets, weights)
        return loss / weights.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("mlm", MaskedLanguageModelling)
