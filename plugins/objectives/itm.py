"""Image-text matching with hard negatives. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from plugins.objectives.all_gather import pair_logits
from registry.part import Fraction


def hard_negatives(similarity: Tensor, ids: Tensor) -> Tensor:
    """For each row one column with another caption, drawn in proportion to the softmax of the similarities.

    Args:
        similarity: (m, B) logits, row i belongs to column i.
        ids: (B, L) the captions, so that a pair of equal captions is no negative.

    Returns:
        (m,) int64.
    """
    same = (ids[: similarity.shape[0], None] == ids[None]).all(-1)  # (m, B), True on the diagonal
    weights = similarity.detach().float().masked_fill(same, -1e4).softmax(1)
    return torch.multinomial(weights, 1).squeeze(1)


class ImageTextMatching(Objective):
    """Tell matching pairs from others (ALBEF, mPLUG): per pair one wrong image and one wrong caption.

    A two-way cross-entropy on the fused [CLS] over m positives and 2 m negatives, drawn from the whole batch; of a
    batch in parts (ranks, train.gradcache_chunks) from the pair's own part, as in ALBEF. Under ``leak_free`` each
    pair's picture
    is pruned by the very caption of the pair.

    Args:
        fraction: of the batch's pairs that take part (m = share * B); the rest saves time. Our addition.
        negatives: ``hard``: drawn in proportion to the softmax of ITC's similarities; ``random``: evenly, as ViLT does,
            for a model without ITC.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}

    def __init__(self, *, fraction: Fraction = 1.0, negatives: Literal["hard", "random"] = "hard"):
        super().__init__()
        self.share, self.negatives = fraction, negatives

    def needs(self) -> tuple[str, ...]:
        contrast = ("heads.image", "heads.text", "heads.temperature") if self.negatives == "hard" else ()
        return ("text", "fusion", *contrast, "heads.match")

    def forward(self, step: Step) -> Tensor:
        ids = step.batch.text.ids
        pairs = max(1, round(self.share * len(ids)))
        own = torch.arange(pairs, device=ids.device)
        if self.negatives == "hard":
            logits = pair_logits(step, "temperature", gather=False)[0].detach()  # (B, B)
        else:
            logits = torch.zeros(len(ids), len(ids), device=ids.device)
        other_image = hard_negatives(logits.T[:pairs], ids)  # for each caption
        other_text = hard_negatives(logits[:pairs], ids)  # for each picture
        images = torch.cat([own, other_image, own])  # (3m,)
        texts = torch.cat([own, own, other_text])
        fused = step.fuse(images, step.text.rows(texts))
        matches = step.model.heads["match"](fused.text.x[:, 0]).float()  # (3m, 2)
        return F.cross_entropy(matches, (torch.arange(3 * pairs, device=ids.device) < pairs).long())


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itm", ImageTextMatching)
