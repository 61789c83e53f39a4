"""Captioning: write the caption word by word beside the picture. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import Objective
from core.model import Step


class Captioning(Objective):
    """Each word from those before it and the picture (CoCa, Eq. 3), in parallel over the caption.

    The decoder's lower half reads the words alone; in CoCa that pass is the contrast's too. The picture is the one that
    ITC sees: a pruner that reads the caption would tell it. Padding is neither predicted nor counted.

    Args:
        reduction: ``token_mean``: over all words of the batch; ``sequence_sum``: the sum over each caption's words,
            averaged over captions, as Eq. 3 reads. Which of them the paper trained with is not known to us.
        head: the model's head for words.
    """

    def __init__(self, *, reduction: Literal["token_mean", "sequence_sum"] = "token_mean", head: str = "words"):
        super().__init__()
        self.reduction, self.head = reduction, head

    def needs(self) -> tuple[str, ...]:
        return ("decoder", f"heads.{self.head}")

    def forward(self, step: Step) -> Tensor:
        assert step.model.decoder is not None
        words = step.model.decoder(step.words, step.image).x[:, :-1]  # (B, L - 1, D)
        logits = step.model.heads[self.head](words).float()  # (B, L - 1, V)
        text = step.batch.text
        targets, weights = text.ids[:, 1:], text.mask[:, 1:].float()  # (B, L - 1)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(weights) * weights
        if self.reduction == "sequence_sum":
            return losses.sum(1).mean()
        return losses.sum() / weights.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("caption", Captioning)
