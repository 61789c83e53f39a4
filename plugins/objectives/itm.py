"""Image-text matching with hard negatives. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch
from plugins.objectives.all_gather import pair_logits
from registry.part import Fraction


def hard_negatives(similarity: Tensor, ids: Tensor) -> Tensor:
    """Sample one negative column for each row, in proportion to the softmax of the similarities.

    Args:
        similarity: (m, B) logits; row i and column i are a pair.
        ids: (B, L), the captions: a column with the same caption as the row is no negative.

    Returns:
        (m,) int64; -1 if all captions equal the row's, so that it has no negative.
    """
    same = (ids[: similarity.shape[0], None] == ids[None]).all(-1)  # (m, B), True on the diagonal
    weights = similarity.detach().float().masked_fill(same, -1e4).softmax(1)  # (m, B)
    return torch.multinomial(weights, 1).squeeze(1).masked_fill(same.all(1), -1)  # (m,)


class ImageTextMatching(Objective):
    """ITM: classify image-caption pairs as match or no match, with hard negatives (ALBEF, mPLUG).

    Cross-entropy over two classes from the fused [CLS] state, for m pairs and 2 m negatives: for each pair one wrong
    image and one wrong caption, sampled from the batch. If ranks or GradCache divide the batch, negatives come from the
    same slice, as in ALBEF; a slice whose captions are all equal has none and is left out. Different captions of one
    image, if a batch has it twice, are negatives of each other, as in ALBEF. Under the policy ``leak_free`` each image
    is pruned with the caption it is paired with.

    Args:
        fraction: fraction of the pairs that take part, m = fraction * B; a smaller one saves time. Our addition.
        negatives: ``hard``: sampled in proportion to the softmax of ITC's similarities; ``random``: uniformly, as in
            ViLT, for models without ITC.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}

    def __init__(self, *, fraction: Fraction = 1.0, negatives: Literal["hard", "random"] = "hard"):
        super().__init__()
        self.fraction, self.negatives = fraction, negatives

    def needs(self) -> tuple[str, ...]:
        contrast = ("heads.image", "heads.text", "heads.temperature") if self.negatives == "hard" else ()
        return ("text", "fusion", *contrast, "heads.match")

    def min_batch(self, ranks: int, chunks: int) -> int:
        return 2 * ranks * chunks

    def loss_denominator(self, batch: Batch) -> float:
        ids = batch.text.ids  # (B, L)
        return float(self._num_pairs(batch)) if bool(ids.ne(ids[:1]).any()) else 0.0

    def _num_pairs(self, batch: Batch) -> int:
        """Number of pairs that take part, m."""
        return max(1, round(self.fraction * len(batch.images)))

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        ids = step.batch.text.ids  # (B, L)
        pairs = self._num_pairs(step.batch)  # m
        index = torch.arange(pairs, device=ids.device)  # (m,)
        if self.negatives == "hard":
            logits = pair_logits(step, "temperature", gather=False)[0].detach()  # (B, B)
        else:
            logits = torch.zeros(len(ids), len(ids), device=ids.device)  # (B, B)
        negative_images = hard_negatives(logits.T[:pairs], ids)  # (m,), one for each caption
        negative_texts = hard_negatives(logits[:pairs], ids)  # (m,), one for each image
        images = torch.cat([index, negative_images, index])  # (3m,)
        texts = torch.cat([index, index, negative_texts])  # (3m,)
        fused = step.fuse(images, step.text.rows(texts))
        matches = step.model.heads["match"](fused.text.x[:, 0]).float()  # (3m, D) -> (3m, 2)
        labels = (torch.arange(3 * pairs, device=ids.device) < pairs).long()  # (3m,), 1: the first m are pairs
        has_negatives = (negative_texts >= 0).all()  # (); -1 above stood for the last row, whose result is not used
        return F.cross_entropy(matches, labels) * has_negatives


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itm", ImageTextMatching)
