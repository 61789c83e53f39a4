"""R@1, R@5 and R@10 from image to text and back: by ITC, and with the best candidates re-ranked by ITM.

The one right answer of a query is its counterpart; ``ceiling`` is the best R@1 possible under that rule. If the
data has several captions of an image, the block ``several`` uses all of them (plugins/metrics/recall.py). Ties and NaN
count against the model: candidates that do not score below the right answer come before it.

For ITC each image is pruned under the null guide, whatever the model's guide policy: at retrieval time its caption is
not known. For ITM each image is pruned under the text of the pair. Candidates are re-ranked by ITC's logit plus ITM's
log-odds times a weight that is fitted on the validation split: our choice (plugins/metrics/rerank.py).
Letters: n images and as many texts, k candidates to re-rank; the rest as in core.types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from core.types import Example, Text, Tokens
from plugins.hooks.report_table import columns, percent
from plugins.metrics import recall
from plugins.metrics.features import cosines, features, image_features, text_features
from plugins.metrics.recall import CUTS, recalls
from plugins.metrics.rerank import Candidates, find_candidates, ranks
from plugins.metrics.settings import RetrievalSettings


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``retrieval``; None for a model without text encoder or projection heads, or for fewer than 2 images."""
    model = evaluation.model
    if any(model.lacks(slot) for slot in ("text", "heads.image", "heads.text")):
        return None
    examples = evaluation.examples(evaluation.settings.split, evaluation.settings_for(RetrievalSettings).candidates)
    if len(examples) < 2:
        return None
    matches = not any(map(model.lacks, ("fusion", "heads.match", "heads.temperature")))
    if matches:
        images, texts, candidates = _encode_candidates(evaluation, examples)
    else:  # features only: the tokens of thousands of images would not fit into memory
        images = image_features(evaluation, examples)
        texts = text_features(evaluation, [example.caption for example in examples])
    similar = cosines(images, texts)  # (n, n), images by texts
    section: dict[str, Any] = {
        "candidates": len(examples),
        "ceiling": ceiling(truths(evaluation, examples)),
        **recalls(ranks(similar), ranks(similar.T)),
        "reranked": None,
        "rerank_weight": None,
        "several": recall.all_captions(evaluation, examples, images, texts),
    }
    if matches:
        weight = _fit_on_validation(evaluation, candidates)
        section["reranked"], section["rerank_weight"] = recalls(*candidates.ranks(weight)), weight
    return {"retrieval": section}


def _encode_candidates(evaluation: Evaluation, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Candidates]:
    """Encode images and texts, (n, E) each, and find the best candidates of each for ITM."""
    words, trunk, image = encode(evaluation, examples)
    images, texts = features(evaluation.model, "image", image), features(evaluation.model, "text", words)  # (n, E)
    # without a guided pruner the later blocks run once per image, not once per pair
    tokens = trunk if evaluation.model.guided else image
    return images, texts, find_candidates(evaluation, cosines(images, texts), words, tokens)


def _fit_on_validation(evaluation: Evaluation, candidates: Candidates) -> float:
    """Fit the weight of ITM's log-odds on the validation split, with as many candidates as are evaluated.

    1 if the data has no such split, or too few images in it. Evaluated on the validation split itself, the weight is
    fitted to what it is measured on.
    """
    split = "validation"
    if split != evaluation.settings.split:
        if split not in evaluation.data.splits():
            return 1.0
        examples = evaluation.examples(split, len(candidates.similar))
        if len(examples) < 2:
            return 1.0
        *_, candidates = _encode_candidates(evaluation, examples)
    return candidates.fit_weight()


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("retrieval")
    return section and {"retrieval": _format_lines(section)}


def _format_lines(section: dict[str, Any]) -> list[str]:
    n, ceiling, again = section["candidates"], section["ceiling"], section["reranked"]
    groups = [part for part in (section, again) if part]
    rows: list[tuple[str, ...]] = [("", *(f"R@{cut}" for cut in CUTS), *(f"R@{cut}" for cut in CUTS if again))]
    for way, label in (("i2t", "image to text"), ("t2i", "text to image")):
        rows.append((label, *(percent(part[f"{way}_r{cut}"]) for part in groups for cut in CUTS)))
    rows.append(("chance", *(percent(min(1, cut / n)) for _ in groups for cut in CUTS)))
    lines = columns(rows, least=5)  # no percentage is wider
    width = 3 * (5 + 2)  # of a group: three columns, each after two spaces
    heads = ["by ITC", "re-ranked by ITM"][: len(groups)]
    return [
        f"Retrieval among {n} (%). A caption may fit several images: R@1 can reach {percent(ceiling)} at most",
        " " * (len(lines[0]) - width * len(groups)) + "".join(head.rjust(width) for head in heads),
        *lines,
        *(columns(recall.format_rows(section["several"]), least=5) if section.get("several") else ()),
    ]


def ceiling(truth: Tensor) -> float:
    """Best possible R@1 if several candidates fit: of t that fit equally, the counterpart is first with 1 / t.

    Args:
        truth: (n, n) bool, True if text j describes image i. The mean is over the queries of both directions.
    """
    truth = truth | torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    return float(torch.cat([1 / truth.sum(1).double(), 1 / truth.sum(0).double()]).mean())


def truths(evaluation: Evaluation, examples: Sequence[Example]) -> Tensor:
    """Compute which text describes which image: (n, n) bool, images by texts."""
    describes = evaluation.data.describes
    return torch.stack([torch.tensor([describes(text, image) for text in examples]) for image in examples])


def encode(evaluation: Evaluation, examples: Sequence[Example]) -> tuple[Tokens, Tokens, Tokens]:
    """Encode texts (n, L, D), images by blocks 1..k (n, N, D), and images pruned under the null guide."""
    model, chunk = evaluation.model, evaluation.settings.batch
    text: Text = evaluation.data.tokenizer([example.caption for example in examples]).to(evaluation.device)
    words, trunks, images = [], [], []
    for start in range(0, len(examples), chunk):
        part = slice(start, start + chunk)
        words.append(model.encode_text(text.rows(part)))
        trunks.append(model.trunk(evaluation.images(examples[part])))
        images.append(model.encode_image(trunks[-1]))
    return _joined(words), _joined(trunks), _joined(images)


def _joined(chunks: Sequence[Tokens]) -> Tokens:
    """Concatenate tokens along the batch, each (b, N, D), to (n, N, D)."""
    columns = {f.name: [getattr(chunk, f.name) for chunk in chunks] for f in dataclasses.fields(Tokens)}
    whole: dict[str, Any] = {k: torch.cat(v) if isinstance(v[0], Tensor) else v[0] for k, v in columns.items()}
    return Tokens(**whole)
