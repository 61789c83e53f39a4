"""Scores of generated captions of held-out images against the data's captions."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from core.evaluation import Evaluation
from core.files import paths
from core.hookspecs import hookimpl
from core.types import Example
from plugins.generation.caption import caption
from plugins.generation.settings import Generation
from plugins.hooks.report_table import columns
from plugins.metrics.caption_scores import best_constant, bleu, cider, rouge_l, tokenise
from plugins.metrics.java_scores import java_scores
from plugins.metrics.settings import ExampleSettings

IMAGES_PER_ROW = 3  # of the sheet
TITLES = {"bleu4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr", "meteor": "METEOR", "spice": "SPICE"}


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``captions``; None for a model that is no captioner, or for fewer than 2 images.

    Captions are generated greedily under the null guide. ``cider`` is CIDEr-D from 0 to 10. ``cider_constant`` is the
    CIDEr-D of the one reference that scores best as the caption of every image, so a model that ignores the image can
    reach it. ``meteor`` and ``spice`` are reported if pycocoevalcap, Java and their files are installed.
    """
    examples = evaluation.examples(evaluation.settings.split, evaluation.settings_for(ExampleSettings).examples)
    if not _is_captioner(evaluation) or len(examples) < 2:
        return None
    candidates = [tokenise(text) for text in write(evaluation, examples)]
    references = [[tokenise(text) for text in evaluation.data.references(example)] for example in examples]
    constant = best_constant(references)
    return {
        "captions": {
            "pictures": len(examples),
            "bleu4": bleu(candidates, references),
            "rouge_l": rouge_l(candidates, references),
            "cider": cider(candidates, references),
            "cider_constant": cider([constant] * len(references), references),
            **java_scores(candidates, references),
        }
    }


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("captions")
    if not section:
        return None
    names = [name for name in TITLES if name in section]
    constant = (f"{section['cider_constant']:.3f}" if name == "cider" else "" for name in names)
    rows = [
        ("", *(TITLES[name] for name in names)),
        ("written", *(f"{section[name]:.3f}" for name in names)),
        ("best constant caption", *constant),
    ]
    return {"captions": [f"Captions of {section['pictures']} images, written greedily", *columns(rows)]}


@hookimpl
def draw(evaluation: Evaluation, report: dict[str, Any], folder: str) -> list[str] | None:
    """Draw captions.png: the first held-out images, each with its generated and its own caption."""
    chosen = evaluation.settings_for(ExampleSettings)
    if not _is_captioner(evaluation) or chosen.pictures == 0:
        return None
    examples = evaluation.examples(evaluation.settings.split, chosen.examples)[: chosen.pictures]
    path = os.path.join(folder, "captions.png")
    with paths.open(path, "wb") as file:
        sheet(examples, write(evaluation, examples)).savefig(file, dpi=130)
    return [path]


def write(evaluation: Evaluation, examples: Sequence[Example]) -> list[str]:
    """Generate a caption for the image of each example."""
    settings = Generation(max_length=evaluation.data.text_length - 1)
    chunk, texts = evaluation.settings.batch, []
    for start in range(0, len(examples), chunk):
        images = evaluation.images(examples[start : start + chunk])
        texts += [
            generated.text for generated in caption(evaluation.model, evaluation.data.tokenizer, images, settings)
        ]
    return texts


def sheet(examples: Sequence[Example], written: Sequence[str]) -> Figure:
    """Draw images with the generated captions below them and, in grey, the data's captions above."""
    across = min(IMAGES_PER_ROW, len(examples))
    down = -(-len(examples) // across)
    figure = Figure(figsize=(3.9 * across, 5.1 * down), layout="constrained", facecolor="white")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel, example, text in zip(panels, examples, written, strict=False):
        panel.imshow(example.image.permute(1, 2, 0).numpy(), interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
        reference, generated = f"reference: {example.caption}", f"generated: {text or '(nothing)'}"
        panel.set_title(textwrap.fill(reference, 44), fontsize=9, color="#555555", parse_math=False)
        panel.set_xlabel(textwrap.fill(generated, 44), fontsize=9, weight="bold", parse_math=False)
    for panel in panels[len(examples) :]:
        panel.set_axis_off()
    return figure


def _is_captioner(evaluation: Evaluation) -> bool:
    """Return True for a decoder that generates from the image alone; mPLUG's continues the beginning of a text."""
    model = evaluation.model
    return model.decoder is not None and model.fusion is None and "words" in model.heads
