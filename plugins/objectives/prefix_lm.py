"""Prefix language modelling. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import Objective
from core.model import Step
from core.part import Share


class PrefixLanguageModelling(Objective):
    """Read a caption's beginning beside the picture, write its end (mPLUG's PrefixLM).

    The prefix goes through text encoder and fusion; the causal decoder attends to [picture ; prefix] and predicts the
    rest word by word. Under ``leak_free`` the picture is pruned by the prefix alone.

    Args:
        share: of the batch's rows that take part. Our addition.
        head: the model's head for words.
    """

    reads = ("prefixed",)

    def __init__(self, *, share: Share = 1.0, head: str = "words"):
        super().__init__()
        self.share, self.head = share, head

    def needs(self) -> tuple[str, ...]:
        return ("text", "fusion", "decoder", f"heads.{self.head}")

    def forward(self, step: Step) -> Tensor:
        assert step.batch.prefixed is not None
        assert step.model.decoder is not None
        rows = slice(0, max(1, round(self.share * len(step.batch.images))))
        text = step.batch.prefixed.rows(rows)
        memory = step.fuse(rows, step.model.read(text.prefix)).memory
        words = step.model.decoder.read(text.suffix.map(lambda t: t[:, :-1]))
        logits = step.model.heads[self.head](step.model.decoder(words, memory).x).float()  # (m, L - 1, V)
        targets, weights = text.suffix.ids[:, 1:], text.suffix.mask[:, 1:].float().flatten()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (losses * weights).sum() / weights.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("prefix_lm", PrefixLanguageModelling)
