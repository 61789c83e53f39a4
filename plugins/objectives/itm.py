"""Image-text matching with hard negatives. Letters as in core.types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.model import Model
from core.objectives import Objective, Step
from core.types import Batch, Fused
from plugins.objectives.all_gather import pair_logits
from plugins.objectives.momentum import ramp_alpha
from plugins.objectives.truths import other_truths
from registry.part import Fraction, NonNegativeInt

PRIOR_LOG_ODDS = -math.log(2)  # of a match in training: one pair to two negatives
IGNORED = -100  # label of a negative that a row does not have


def sample_negatives(similarity: Tensor, exclusions: Tensor) -> Tensor:
    """Sample one negative column for each row, in proportion to the softmax of the similarities.

    Args:
        similarity: (m, B) logits; row i and column i are a pair.
        exclusions: (m, B) bool, columns that are no negatives of a row, its own among them.

    Returns:
        (m,) int64; -1 if a row has no negative.
    """
    weights = similarity.detach().float().masked_fill(exclusions, -1e4).softmax(1)  # (m, B)
    return torch.multinomial(weights, 1).squeeze(1).masked_fill(exclusions.all(1), -1)  # (m,)


def matching_loss(step: Step, fused: Fused, labels: Tensor) -> Tensor:
    """Cross-entropy over match and no match from the fused [CLS] states, a scalar; 0 without a negative.

    Args:
        fused: 3m pairs of image and text.
        labels: (3m,) int64, as from ``sample_pairs``.
    """
    matches = step.model.heads["match"](fused.text.x[:, 0]).float()  # (3m, D) -> (3m, 2)
    return F.cross_entropy(matches, labels, ignore_index=IGNORED) * labels.eq(0).any()


class ImageTextMatching(Objective):
    """ITM: classify image-caption pairs as match or no match, with hard negatives (ALBEF, mPLUG).

    Cross-entropy over two classes from the fused [CLS] state, for m pairs and 2 m negatives: for each pair one wrong
    image and one wrong caption, sampled from the batch. A head trained so is neutral at log-odds PRIOR_LOG_ODDS. If
    ranks or GradCache divide the batch, negatives come from the same slice, as in ALBEF; a slice whose captions are all
    equal has none and is left out. Different captions of one image, if a batch has it twice, are negatives of each
    other, as in ALBEF. Under the policy ``leak_free`` each image is pruned with the caption it is paired with.

    Args:
        fraction: fraction of the pairs that take part, m = fraction * B; a smaller one saves time. Our addition.
        negatives: ``hard``: sampled in proportion to the softmax of ITC's similarities; ``random``: uniformly, as in
            ViLT, for models without ITC.
        ramp: steps over which the negatives become hard: the similarities are multiplied by min(1, step / ramp), so the
            first negatives are random. From scratch, hard negatives alone keep the loss at guessing for long. Our
            addition; 0, hard from the start, in ALBEF and mPLUG.
        exclude_true: leave out negatives that are true pairs, by the data's ``describes``. Our addition.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}
    steps: Tensor

    def __init__(
        self,
        *,
        fraction: Fraction = 1.0,
        negatives: Literal["hard", "random"] = "hard",
        ramp: NonNegativeInt = 0,
        exclude_true: bool = False,
    ):
        super().__init__()
        self.fraction, self.negatives, self.ramp, self.exclude_true = fraction, negatives, ramp, exclude_true
        self.batch_fields = ("truths",) if exclude_true else ()
        if ramp:
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # optimizer steps done

    def needs(self) -> tuple[str, ...]:
        contrast = ("heads.image", "heads.text", "heads.temperature") if self.negatives == "hard" else ()
        return ("text", "fusion", *contrast, "heads.match")

    def min_batch(self, ranks: int, chunks: int) -> int:
        return 2 * ranks * chunks

    def loss_denominator(self, batch: Batch) -> float:
        ids = batch.text.ids  # (B, L)
        pairs = self._num_pairs(batch)  # m
        if not self.exclude_true:
            return float(pairs) if bool(ids.ne(ids[:1]).any()) else 0.0
        negatives = int(self._no_negatives(batch)[:, :pairs].all(-1).logical_not().sum())  # 0 to 2 m
        return (pairs + negatives) / 3 if negatives else 0.0

    def _num_pairs(self, batch: Batch) -> int:
        """Number of pairs that take part, m."""
        return max(1, round(self.fraction * len(batch.images)))

    def _no_negatives(self, batch: Batch) -> Tensor:
        """Mark the captions that are no negatives of an image, and the images that are none of a caption, (2, B, B)."""
        ids = batch.text.ids  # (B, L)
        same = (ids[:, None] == ids[None]).all(-1).expand(2, -1, -1)  # (2, B, B), True on the diagonal
        return same | other_truths(batch, len(ids)).transpose(0, 1) if self.exclude_true else same

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        images, texts, labels = self.sample_pairs(step)
        return matching_loss(step, step.fuse(images, step.text.rows(texts)), labels)

    def sample_pairs(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of images, rows of captions and labels (3m,) int64: 1 match, 0 no match, IGNORED a missing negative."""
        ids = step.batch.text.ids  # (B, L)
        pairs = self._num_pairs(step.batch)  # m
        index = torch.arange(pairs, device=ids.device)  # (m,)
        if self.negatives == "hard":
            logits = pair_logits(step, "temperature", gather=False)[0].detach()  # (B, B)
            logits = logits * ramp_alpha(1.0, self.steps, self.ramp) if self.ramp else logits
        else:
            logits = torch.zeros(len(ids), len(ids), device=ids.device)  # (B, B)
        texts_out, images_out = self._no_negatives(step.batch)[:, :pairs]  # (m, B) each
        negative_images = sample_negatives(logits.T[:pairs], images_out)  # (m,), one for each caption
        negative_texts = sample_negatives(logits[:pairs], texts_out)  # (m,), one for each image
        images = torch.cat([index, negative_images, index])  # (3m,)
        texts = torch.cat([index, index, negative_texts])  # (3m,)
        labels = (torch.arange(3 * pairs, device=ids.device) < pairs).long()  # (3m,), the first m are pairs
        # -1 stands for the last row, whose result is not used
        return images, texts, labels.masked_fill((images < 0) | (texts < 0), IGNORED)

    @torch.no_grad()
    def after_step(self, model: Model) -> None:
        if self.ramp:
            self.steps += 1


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itm", ImageTextMatching)
