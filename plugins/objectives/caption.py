"""Captioning loss. Letters as in core.types; n words that are predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch
from plugins.objectives.token_loss import target_positions, token_loss
from registry.part import Fraction


class Captioning(Objective):
    """Predict each word from the words before it and the image: -sum_t log P(y_t | y_<t, x) (CoCa, Eq. 3).

    All words are predicted in parallel (teacher forcing). The pass of the unimodal half is shared with the contrastive
    loss in CoCa. The image is ITC's: a pruner guided by the caption would leak it. Padding is not predicted and does
    not pass through the head.

    Args:
        reduction: ``token_mean``: mean over all words of the batch; ``sequence_sum``: sum over a caption's words, mean
            over captions, as written in Eq. 3. It is not known to us which one the paper used in training.
        smoothing: label smoothing, the fraction of the target that is spread evenly over the vocabulary.
        head: slot of the vocabulary head.
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
        """The loss, a scalar."""
        assert step.model.decoder is not None
        text, mask = step.batch.text, step.batch.text.mask[:, 1:]  # (B, L), (B, L - 1)
        states = step.model.decoder(step.decoder_text, step.image).x[:, :-1]  # (B, L - 1, D): state t predicts t + 1
        index = target_positions(mask, step.num_target_tokens)  # (n,)
        states, targets, weights = (
            x.flatten(0, 1).index_select(0, index) for x in (states, text.ids[:, 1:], mask.float())
        )  # (n, D), (n,), (n,)
        loss = token_loss(step.model.heads[self.head], states, targets, weights, self.smoothing)
        return loss / (len(text.ids) if self.reduction == "sequence_sum" else weights.sum().clamp_min(1))


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("caption", Captioning)
