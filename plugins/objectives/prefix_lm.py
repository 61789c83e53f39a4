"""Prefix language modelling. Letters as in core.types; m rows that take part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch, Prefixed
from plugins.objectives.token_loss import token_loss
from registry.part import Fraction


class PrefixLanguageModelling(Objective):
    """Predict the rest of a caption from its beginning and the image (mPLUG's PrefixLM).

    The prefix passes through text encoder and fusion; the causal decoder attends to [image ; prefix] and predicts the
    suffix word by word. Under the policy ``leak_free`` the image is pruned with the prefix as guide.

    Args:
        fraction: fraction of the batch that takes part. Our addition.
        head: slot of the vocabulary head.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}
    batch_fields = ("prefixed",)

    def __init__(self, *, fraction: Fraction = 1.0, head: str = "words"):
        super().__init__()
        self.fraction, self.head = fraction, head

    def needs(self) -> tuple[str, ...]:
        return ("text", "fusion", "decoder", f"heads.{self.head}")

    def loss_denominator(self, batch: Batch) -> float:
        return float(self._part(batch)[1].suffix.mask[:, 1:].sum())

    def _part(self, batch: Batch) -> tuple[slice, Prefixed]:
        """The m rows that take part, and their prefixes and suffixes."""
        assert batch.prefixed is not None
        rows = slice(0, max(1, round(self.fraction * len(batch.images))))
        return rows, batch.prefixed.rows(rows)

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        assert step.model.decoder is not None
        rows, text = self._part(step.batch)
        memory = step.fuse(rows, step.model.encode_text(text.prefix)).memory  # [image ; prefix], (m, N + L, D)
        words = step.model.decoder.encode_text(text.suffix.map(lambda t: t[:, :-1]))  # inputs, (m, L - 1, D)
        states = step.model.decoder(words, memory).x.flatten(0, 1)  # (m (L - 1), D)
        targets, weights = text.suffix.ids[:, 1:].flatten(), text.suffix.mask[:, 1:].float().flatten()  # (m (L - 1),)
        return token_loss(step.model.heads[self.head], states, targets, weights) / weights.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("prefix_lm", PrefixLanguageModelling)
