"""Accuracy of the matching head on right and wrong captions. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from core.types import Example
from plugins.hooks.report_table import columns, percent
from plugins.metrics.features import match_log_odds
from plugins.metrics.settings import ExampleSettings
from plugins.objectives.itm import PRIOR_LOG_ODDS

CHANCE = 0.5


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``matching``; None for a model without fusion or matching head, or if every caption fits every image.

    Each held-out image is paired with its caption and with the next caption that does not describe it, so half of the
    pairs match. ``balanced_accuracy``: of the decision at PRIOR_LOG_ODDS, because training has two wrong pairs for each
    right one; ``accuracy``: of the decision at log-odds 0. ``preferred``: fraction of images whose caption gets the
    higher log-odds, which does not depend on a threshold. Chance is 0.5.
    """
    model = evaluation.model
    if any(model.lacks(slot) for slot in ("text", "fusion", "heads.match")):
        return None
    examples = evaluation.examples(evaluation.settings.split, evaluation.settings_for(ExampleSettings).examples)
    pairs = [(example, other) for i, example in enumerate(examples) if (other := _wrong(evaluation, i, examples))]
    if not pairs:
        return None
    pictures, others = [picture for picture, _ in pairs], [other for _, other in pairs]
    right, wrong = (pair_log_odds(evaluation, pictures, captions) for captions in (pictures, others))
    return {
        "matching": {
            "pairs": 2 * len(pairs),
            "balanced_accuracy": accuracy_at(PRIOR_LOG_ODDS, right, wrong),
            "preferred": float((right > wrong).double().mean()),
            "accuracy": accuracy_at(0.0, right, wrong),
            "chance": CHANCE,
        }
    }


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("matching")
    if not section:
        return None
    rows = [
        ("%", "found", "chance"),
        ("yes or no", percent(section["balanced_accuracy"]), percent(section["chance"])),
        ("right caption before a wrong one", percent(section["preferred"]), percent(section["chance"])),
    ]
    return {"matching": [f"Matching of {section['pairs']} pairs, half of them right", *columns(rows)]}


def accuracy_at(threshold: float, right: Tensor, wrong: Tensor) -> float:
    """Fraction of right decisions: log-odds of pairs (n,) above the threshold, of other rows (m,) not."""
    return float(torch.cat([right > threshold, wrong <= threshold]).double().mean())


def pair_log_odds(evaluation: Evaluation, pictures: Sequence[Example], captions: Sequence[Example]) -> Tensor:
    """Log-odds of a match for each image with the caption of the same row, (n,)."""
    model, chunk = evaluation.model, evaluation.settings.batch
    text = evaluation.data.tokenizer([caption.caption for caption in captions]).to(evaluation.device)
    log_odds = []
    for start in range(0, len(pictures), chunk):
        part = slice(start, start + chunk)
        trunk = model.trunk(evaluation.images(pictures[part]))
        log_odds.append(
            match_log_odds(
                model, trunk if model.guided else model.encode_image(trunk), model.encode_text(text.rows(part))
            )
        )
    return torch.cat(log_odds)


def _wrong(evaluation: Evaluation, place: int, examples: Sequence[Example]) -> Example | None:
    """Return the next example whose caption does not describe the image at ``place``."""
    turned = [*examples[place + 1 :], *examples[:place]]
    return next((other for other in turned if not evaluation.data.describes(other, examples[place])), None)
