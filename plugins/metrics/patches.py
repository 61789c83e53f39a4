"""Does the pruner find the patches that a text is about? Its scores against boxes, beside what chance would give.

The text is the region phrase of one object; a patch is positive where that object's box overlaps it at all. The wrong
text names an object that is not in the picture, held to the same labels: a detector that finds objects of any kind
does well there too, so only the gap between the two says that the text is read.
Letters: B pictures, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from core.evaluation import Evaluation, columns, percent
from core.hookspecs import hookimpl
from core.types import Example
from plugins.metrics.settings import ExampleSettings
from plugins.objectives.pta import patch_labels
from plugins.pruners.selection import kept_count

QUARTER = 0.25


@dataclass(frozen=True)
class Scored:
    """One split's patches."""

    labels: Tensor  # (B, P) bool
    right: Tensor  # (B, P) logits for the object's phrase
    wrong: Tensor  # (B, P) logits for the phrase of something absent


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``patches``; None for a model whose first pruner scores no patches, or data without regions.

    ``average_precision`` pools the patches of all pictures (one threshold for all, as for a detector); the recalls
    are means over pictures of the share of positive patches among that picture's best ones, and ``pointing`` is the
    share of pictures whose best patch is positive. ``keep`` is the share that the first pruner keeps.
    """
    if evaluation.model.lacks("scores"):
        return None
    seen = scored(evaluation, evaluation.settings.split)
    if seen is None:
        return None
    withheld = scored(evaluation, "withheld") if "withheld" in evaluation.data.splits() else None
    pruner = evaluation.model.pruners[0]
    keep = getattr(pruner, "keep_rate", getattr(pruner, "keep", None))
    return {
        "patches": {
            "examples": len(seen.labels),
            "average_precision": average_precision(seen.right, seen.labels),
            "average_precision_wrong_text": average_precision(seen.wrong, seen.labels),
            "average_precision_withheld": withheld and average_precision(withheld.right, withheld.labels),
            "average_precision_wrong_text_withheld": withheld and average_precision(withheld.wrong, withheld.labels),
            "positive_rate": float(seen.labels.double().mean()),
            "positive_rate_withheld": withheld and float(withheld.labels.double().mean()),
            "keep": keep,
            "recall_at_keep": None if keep is None else recall_at(seen.right, seen.labels, keep),
            "recall_at_quarter": recall_at(seen.right, seen.labels, QUARTER),
            "recall_at_quarter_wrong_text": recall_at(seen.wrong, seen.labels, QUARTER),
            "recall_at_quarter_withheld": withheld and recall_at(withheld.right, withheld.labels, QUARTER),
            "recall_at_quarter_wrong_text_withheld": withheld and recall_at(withheld.wrong, withheld.labels, QUARTER),
            "pointing": pointing(seen.right, seen.labels),
        }
    }


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("patches")
    return section and {"patches": _told(section)}


def _told(section: dict[str, Any]) -> list[str]:
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
    among = f" in {count} pictures" if count else ""
    return [f"Patches found{among}, {percent(rate)} % of them positive", *columns(rows)]


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Over all elements as one list: the sum over thresholds of precision times the recall gained there.

    Equal scores pass a threshold together, so that scores that say nothing give the share of positives.

    Args:
        scores: any shape.
        labels: bool, the same shape, at least one True.
    """
    order = scores.flatten().argsort(descending=True)
    ranked, hits = scores.flatten()[order], labels.flatten()[order].double().cumsum(0)
    last = torch.ones_like(ranked, dtype=torch.bool)  # the last of each run of equal scores
    last[:-1] = ranked[:-1] != ranked[1:]
    found = hits[last]  # true positives at each threshold
    gained = found.diff(prepend=found.new_zeros(1))
    shown = torch.arange(1, len(ranked) + 1, device=ranked.device)[last]
    return float((found / shown * gained).sum() / found[-1])


def recall_at(scores: Tensor, labels: Tensor, share: float) -> float:
    """The mean over pictures of the share of positive patches among the best ``ceil(share * P)``.

    Where equal scores straddle the cut, what a random order among them gives on average.

    Args:
        scores, labels: (B, P); each row of labels has at least one True.
    """
    count = kept_count(scores.shape[1], share)
    cut = scores.topk(count, dim=1).values[:, -1:]  # (B, 1)
    above, level = scores > cut, scores == cut
    odds = (count - above.sum(1, keepdim=True)) / level.sum(1, keepdim=True)  # of being taken, at the cut
    found = ((above.double() + level * odds) * labels).sum(1)
    return float((found / labels.sum(1)).mean())


def pointing(scores: Tensor, labels: Tensor) -> float:
    """The share of pictures whose best patch is positive; of several best ones, their mean. (B, P) each."""
    best = scores == scores.amax(1, keepdim=True)
    return float(((best & labels).sum(1) / best.sum(1)).mean())


def scored(evaluation: Evaluation, split: str) -> Scored | None:
    """The pruner's scores for a split's pictures that have a described and an absent object; None: there are none."""
    held_out = evaluation.examples(split, evaluation.settings_for(ExampleSettings).examples)
    examples = [example for example in held_out if example.regions and example.absent]
    if not examples:
        return None
    chunk = evaluation.settings.batch
    chunks = [examples[start : start + chunk] for start in range(0, len(examples), chunk)]
    scores = [score(evaluation, part) for part in chunks]
    return Scored(labels_of(evaluation, examples), *(torch.cat(side) for side in zip(*scores, strict=True)))


def score(evaluation: Evaluation, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Logits (B, P) for the phrase of each picture's first region, and for that of something absent."""
    model = evaluation.model
    trunk = model.trunk(evaluation.images(examples))

    def given(phrases: list[str]) -> Tensor:
        text = evaluation.data.tokenizer(phrases).to(evaluation.device)
        logits = model.score(trunk, None if model.text_tower is None else model.encode_text(text))
        assert logits is not None
        return logits.float().cpu()

    return given([example.regions[0].phrase for example in examples]), given([example.absent for example in examples])


def labels_of(evaluation: Evaluation, examples: Sequence[Example]) -> Tensor:
    """(B, P) bool: the patches that a box of the phrase of each picture's first region overlaps."""
    height, width = examples[0].image.shape[1:]
    sides = torch.tensor([width, height, width, height])

    def asked_for(example: Example) -> Tensor:
        same = [region.box for region in example.regions if region.phrase == example.regions[0].phrase]
        return torch.tensor(same, dtype=torch.float64) / sides  # (n, 4)

    boxes = pad_sequence([asked_for(example) for example in examples], batch_first=True)  # (B, n, 4)
    return patch_labels(boxes.float(), evaluation.model.backbone.grid).bool()
