"""Prefix language modelling. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch, Prefixed
from plugins.objectives.token_loss import word_loss
from registry.part import Fraction


class PrefixLanguageModelling(Objective):
    """Read a caption's beginning beside the picture, write its end (mPLUG's PrefixLM).

    The prefix goes through text encoder and fusion; the causal decoder attends to [picture ; prefix] and predicts the
    rest word by word. Under ``leak_free`` the picture is pruned by the prefix alone.

    Args:
        fraction: of the batch's rows that take part. Our addition.
        head: the model's head for words.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}
    batch_fields = ("prefixed",)

    def __init__(self, *, fraction: Fraction = 1.0, head: str = "words"):
        super().__init__()
        self.share, self.head = fraction, head

    def needs(self) -> tuple[str, ...]:
        return ("text", "fusion", "decoder", f"heads.{self.head}")

    def loss_denominator(self, batch: Batch) -> float:
        return float(self._part(batch)[1].suffix.mask[:, 1:].sum())

    def _part(self, batch: Batch) -> tuple[slice, Prefixed]:
        """The m rows that take part, and their words."""
        assert batch.prefixed is not None
        rows = slice(0, max(1, round(self.share * len(batch.images))))
        return rows, batch.prefixed.rows(rows)

    def forward(self, step: Step) -> Tensor:
        assert step.model.decoder is not None
        rows, text = self._part(step.batch)
        memory = step.fuse(rows, step.model.encode_text(text.prefix)).memory
        words = step.model.decoder.encode_text(text.suffix.map(lambda t: t[:, :-1]))
        states = step.model.decoder(words, memory).x.flatten(0, 1)  # (m (L - 1), D)
        targets, weights = text.suffix.ids[:, 1:].flatten(), text.suffix.mask[:, 1:].float().flatten()
        return word_loss(step.model.heads[self.head], states, targets, weights) / weights.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("prefix_lm", PrefixLanguageModelling)
