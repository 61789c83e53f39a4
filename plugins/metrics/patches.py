"""Pruner scores against the boxes that a text describes, compared with chance.

The text is the region phrase of one object. A patch is positive if that object's box overlaps it. The wrong text names
an object that is not in the image and is scored against the same labels. A pruner that finds objects of any kind scores
well there too, so only the gap between the two shows an effect of the text.
Letters: B images, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from core.types import Example
from plugins.hooks.report_table import columns, percent
from plugins.metrics.settings import ExampleSettings
from plugins.objectives.pta import patch_labels
from plugins.pruners.selection import kept_count

QUARTER = 0.25


@dataclass(frozen=True)
class PatchScores:
    """Labels and scores of the patches of one split."""

    labels: Tensor  # (B, P) bool
    right: Tensor  # (B, P) logits for the object's phrase
    wrong: Tensor  # (B, P) logits for the phrase of something absent


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``patches``; None for a model whose first pruner scores no patches, or data without regions.

    ``average_precision`` pools the patches of all images (one threshold for all, as for a detector). The recalls are
    means over images of the fraction of positive patches among the best ones. ``pointing`` is the fraction of images
    whose best patch is positive. ``keep`` is the keep rate of the first pruner.
    """
    if evaluation.model.lacks("scores"):
        return None
    measured = score_split(evaluation, evaluation.settings.split)
    if measured is None:
        return None
    withheld = score_split(evaluation, "withheld") if "withheld" in evaluation.data.splits() else None
    pruner = evaluation.model.pruners[0]
    keep = getattr(pruner, "keep_rate", getattr(pruner, "keep", None))
    return {
        "patches": {
            "examples": len(measured.labels),
            "average_precision": average_precision(measured.right, measured.labels),
            "average_precision_wrong_text": average_precision(measured.wrong, measured.labels),
            "average_precision_withheld": withheld and average_precision(withheld.right, withheld.labels),
            "average_precision_wrong_text_withheld": withheld and average_precision(withheld.wrong, withheld.labels),
            "positive_rate": float(measured.labels.double().mean()),
            "positive_rate_withheld": withheld and float(withheld.labels.double().mean()),
            "keep": keep,
            "recall_at_keep": None if keep is None else recall_at(measured.right, measured.labels, keep),
            "recall_at_quarter": recall_at(measured.right, measured.labels, QUARTER),
            "recall_at_quarter_wrong_text": recall_at(measured.wrong, measured.labels, QUARTER),
            "recall_at_quarter_withheld": withheld and recall_at(withheld.right, withheld.labels, QUARTER),
            "recall_at_quarter_wrong_text_withheld": withheld and recall_at(withheld.wrong, withheld.labels, QUARTER),
            "pointing": pointing(measured.right, measured.labels),
        }
    }


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("patches")
    return section and {"patches": _format_lines(section)}


def _format_lines(section: dict[str, Any]) -> list[str]:
    rate = section.get("positive_rate")
    rows: list[tuple[str, ...]] = [("%", "right text", "wrong text", "chance")]
    keep = section.get("keep")
    for suffix, label in (("", ""), ("_withheld", ", withheld")):
        chance = section.get(f"positive_rate{suffix}", rate)
        figures = [
            ("average precision", "average_precision", "average_precision_wrong_text", chance),
            ("recall in best quarter", "recall_at_quarter", "recall_at_quarter_wrong_text", 0.25),
            ("recall at keep", "recall_at_keep", None, keep),
            ("pointing", "pointing", None, chance),
        ]
        for name, right, wrong, control in figures:
            if section.get(f"{right}{suffix}") is not None:
                other = section.get(f"{wrong}{suffix}") if wrong else None
                rows.append((name + label, *map(percent, (section[f"{right}{suffix}"], other, control))))
    count = section.get("examples")
    among = f" in {count} images" if count else ""
    return [f"Patches found{among}, {percent(rate)} % of them positive", *columns(rows)]


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Average precision of all elements as one list: sum over thresholds of precision times the gain in recall.

    Equal scores pass a threshold together, so constant scores give the fraction of positives.

    Args:
        scores: any shape.
        labels: bool, the same shape, at least one True.
    """
    order = scores.flatten().argsort(descending=True)
    ranked, hits = scores.flatten()[order], labels.flatten()[order].double().cumsum(0)
    last = torch.ones_like(ranked, dtype=torch.bool)  # the last of each run of equal scores
    last[:-1] = ranked[:-1] != ranked[1:]
    hits = hits[last]  # true positives at each threshold
    gain = hits.diff(prepend=hits.new_zeros(1))
    count = torch.arange(1, len(ranked) + 1, device=ranked.device)[last]  # positives and negatives
    return float((hits / count * gain).sum() / hits[-1])


def recall_at(scores: Tensor, labels: Tensor, share: float) -> float:
    """Mean over images of the fraction of positive patches that are among the best ``ceil(share * P)``.

    Equal scores at the cut count as the average over random orders.

    Args:
        scores, labels: (B, P); each row of labels has at least one True.
    """
    count = kept_count(scores.shape[1], share)
    cut = scores.topk(count, dim=1).values[:, -1:]  # (B, 1)
    above, level = scores > cut, scores == cut
    odds = (count - above.sum(1, keepdim=True)) / level.sum(1, keepdim=True)  # (B, 1), of a patch at the cut
    hits = ((above.double() + level * odds) * labels).sum(1)  # (B,)
    return float((hits / labels.sum(1)).mean())


def pointing(scores: Tensor, labels: Tensor) -> float:
    """Fraction of images whose best patch is positive; several best ones count as their mean. (B, P) each."""
    best = scores == scores.amax(1, keepdim=True)
    return float(((best & labels).sum(1) / best.sum(1)).mean())


def score_split(evaluation: Evaluation, split: str) -> PatchScores | None:
    """Score a split's images with an absent object and a described one on a patch; None if there are none."""
    held_out = evaluation.examples(split, evaluation.settings_for(ExampleSettings).examples)
    examples = [example for example in held_out if example.regions and example.absent]
    if not examples:
        return None
    chunk = evaluation.settings.batch
    chunks = [examples[start : start + chunk] for start in range(0, len(examples), chunk)]
    labels = labels_of(evaluation, examples)  # (B, P)
    has_label = labels.any(1)  # (B,), False if a box is too small or outside the image
    if not has_label.any():
        return None
    scores = [score(evaluation, part) for part in chunks]
    return PatchScores(labels[has_label], *(torch.cat(side)[has_label] for side in zip(*scores, strict=True)))


def score(evaluation: Evaluation, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Logits (B, P) for the phrase of each image's first region, and for the phrase of an absent object."""
    model = evaluation.model
    trunk = model.trunk(evaluation.images(examples))

    def logits_of(phrases: list[str]) -> Tensor:
        text = evaluation.data.tokenizer(phrases).to(evaluation.device)
        logits = model.score(trunk, None if model.text_tower is None else model.encode_text(text))
        assert logits is not None
        return logits.float().cpu()

    right = logits_of([example.regions[0].phrase for example in examples])
    return right, logits_of([example.absent for example in examples])


def labels_of(evaluation: Evaluation, examples: Sequence[Example]) -> Tensor:
    """Label the patches that a box of each image's first region phrase overlaps, (B, P) bool."""
    height, width = examples[0].image.shape[1:]
    sides = torch.tensor([width, height, width, height])

    def boxes_of(example: Example) -> Tensor:
        same = [region.box for region in example.regions if region.phrase == example.regions[0].phrase]
        return torch.tensor(same, dtype=torch.float64) / sides  # (n, 4)

    boxes = pad_sequence([boxes_of(example) for example in examples], batch_first=True)  # (B, n, 4)
    return patch_labels(boxes.float(), evaluation.model.backbone.grid).bool()
