"""Captioning: write the caption word by word beside the picture. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch
from plugins.objectives.token_loss import labelled, word_loss
from registry.part import Fraction


class Captioning(Objective):
    """Each word from those before it and the picture (CoCa, Eq. 3), in parallel over the caption.

    The decoder's lower half reads the words alone; in CoCa that pass is the contrast's too. The picture is the one that
    ITC sees: a pruner that reads the caption would tell it. Padding is neither predicted nor counted, and never goes
    through the head.

    Args:
        reduction: ``token_mean``: over all words of the batch; ``sequence_sum``: the sum over each caption's words,
            averaged over captions, as Eq. 3 reads. Which of them the paper trained with is not known to us.
        smoothing: label smoothing: share of the target that is spread evenly over the vocabulary.
        head: the model's head for words.
    """

    def __init__(
        self,
        *,
        reduction: Literal["token_mean", "sequence_sum"] = "token_mean",
        smoothing: Fraction = 0.0,
        head: str = "words",
    ):
        super().__init__()
        self.reduction, self.smoothing, self.head = reduction, smoothing, head

    def needs(self) -> tuple[str, ...]:
        return ("decoder", f"heads.{self.head}")

    def loss_denominator(self, batch: Batch) -> float:
        return len(batch.images) if self.reduction == "sequence_sum" else float(batch.text.mask[:, 1:].sum())

    def forward(self, step: Step) -> Tensor:
        assert step.model.decoder is not None
        states = step.model.decoder(step.decoder_text, step.image).x[:, :-1]  # (B, L - 1, D)
        text, real = step.batch.text, step.batch.text.mask[:, 1:]  # (B, L - 1)
        places = labelled(real, step.num_target_tokens)  # (n,)
        named, targets, weights = (
            x.flatten(0, 1).index_select(0, places) for x in (states, text.ids[:, 1:], real.float())
        )  # (n, D), (n,), (n,)
        loss = word_loss(step.model.heads[self.head], named, targets, weights, self.smoothing)
        return loss / (len(text.ids) if self.reduction == "sequence_sum" else weights.sum().clamp_min(1))


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("caption", Captioning)
