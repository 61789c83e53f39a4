"""Zero-shot classification by the contrastive heads: the class whose name is nearest to the image.

The setup is CLIP's, as in CoCa (section 4.2.2): each class name is put into several prompts, and the class embedding is
the mean of their features. The prompts are those of label captions in training, and the bare name. Images are pruned
under the null guide, because their class is not known. Ties count against the model.
Letters: n images, C classes, T prompts, E the width of the contrastive features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from plugins.hooks.report_table import columns, percent
from plugins.metrics.features import cosines, image_features, text_features
from plugins.metrics.settings import ExampleSettings
from plugins.text.prompts import PROMPTS

ENSEMBLE = (*PROMPTS, "{labels}")


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``zero_shot``; None for a model without contrastive heads, or images of fewer than 2 classes."""
    if any(evaluation.model.lacks(slot) for slot in ("text", "heads.image", "heads.text")):
        return None
    labelled = evaluation.data.labelled_examples(
        evaluation.settings.split, evaluation.settings_for(ExampleSettings).examples
    )
    names = sorted({name for _, name in labelled})
    if len(names) < 2:
        return None
    images = image_features(evaluation, [picture for picture, _ in labelled])
    classes = ensemble(torch.stack([text_features(evaluation, _filled(prompt, names)) for prompt in ENSEMBLE]))
    right = torch.tensor([names.index(name) for _, name in labelled], device=images.device)
    return {
        "zero_shot": {
            "accuracy": accuracy(cosines(images, classes), right),
            "chance": 1 / len(names),
            "classes": len(names),
            "pictures": len(labelled),
            "prompts": len(ENSEMBLE),
        }
    }


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("zero_shot")
    if not section:
        return None
    rows = [("%", "found", "chance"), ("right class", percent(section["accuracy"]), percent(section["chance"]))]
    counts = f"{section['pictures']} images in {section['classes']} classes, {section['prompts']} prompts a class"
    return {"zero_shot": [f"Zero-shot classification of {counts}", *columns(rows)]}


def ensemble(features: Tensor) -> Tensor:
    """Average each class over the prompts, normalized to length 1 before and after: (T, C, E) -> (C, E)."""
    return F.normalize(F.normalize(features, dim=-1).mean(0), dim=-1)


def accuracy(similar: Tensor, right: Tensor) -> float:
    """Fraction of images whose class, ``right`` (n,), scores above every other one in ``similar`` (n, C)."""
    target = similar.gather(1, right.unsqueeze(1))  # (n, 1)
    return float(((similar >= target).sum(1) == 1).double().mean())


def _filled(prompt: str, names: Sequence[str]) -> list[str]:
    return [prompt.format(labels=name) for name in names]
