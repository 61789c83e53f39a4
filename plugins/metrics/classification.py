"""Classification accuracy of the model's classification head."""

from __future__ import annotations

from typing import Any

import torch

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from core.runtime import autocast
from plugins.hooks.report_table import columns, percent
from plugins.metrics.settings import ExampleSettings
from plugins.metrics.zero_shot import accuracy

HEAD = "classify"


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``classification``; None for a model without the head, or a split without images of 2 classes.

    Images are pruned under the null guide. Ties count against the model.
    """
    model, classes, settings = evaluation.model, list(evaluation.data.classes), evaluation.settings
    if model.lacks(f"heads.{HEAD}"):
        return None
    examples = evaluation.data.labelled_examples(settings.split, evaluation.settings_for(ExampleSettings).examples)
    labelled = [(example, name) for example, name in examples if name in classes]
    if not labelled or len(classes) < 2:
        return None
    chunks = [labelled[start : start + settings.batch] for start in range(0, len(labelled), settings.batch)]
    logits = []
    for chunk in chunks:
        pooled = model.encode_image(model.trunk(evaluation.images([example for example, _ in chunk]))).pooled
        assert pooled is not None
        with autocast(evaluation.device, "fp32"):  # bf16 would make ties
            logits.append(model.heads[HEAD](pooled.float()))  # (n, C)
    right = torch.tensor([classes.index(name) for _, name in labelled], device=evaluation.device)
    return {
        "classification": {
            "accuracy": accuracy(torch.cat(logits), right),
            "chance": 1 / len(classes),
            "classes": len(classes),
            "pictures": len(labelled),
        }
    }


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("classification")
    if not section:
        return None
    rows = [("%", "found", "chance"), ("right class", percent(section["accuracy"]), percent(section["chance"]))]
    counts = f"{section['pictures']} images in {section['classes']} classes"
    return {"classification": [f"Classification of {counts}, by the classification head", *columns(rows)]}
