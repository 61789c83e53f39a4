"""R@1, R@5 and R@10 from image to text and back: by ITC, and with the best candidates re-ranked by ITM.

The one right answer of a query is its counterpart; ``ceiling`` is the best R@1 possible under that rule. If the
data has several captions of an image, the block ``several`` uses all of them (plugins/metrics/recall.py). Ties and NaN
count against the model: candidates that do not score below the right answer come before it.

For ITC each image is pruned under the null guide, whatever the model's guide policy: at retrieval time its caption is
not known. For ITM each image is pruned under the text of the pair. Candidates are re-ranked by ITC's logit plus ITM's
log-odds, which is our choice.
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
from plugins.metrics.features import cosines, features, image_features, match_log_odds, text_features
from plugins.metrics.recall import CUTS, recalls
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
        words, trunk, image = encode(evaluation, examples)
        images, texts = features(model, "image", image), features(model, "text", words)  # (n, E) each
    else:  # features only: the tokens of thousands of images would not fit into memory
        images = image_features(evaluation, examples)
        texts = text_features(evaluation, [example.caption for example in examples])
    similar = cosines(images, texts)  # (n, n), images by texts
    section: dict[str, Any] = {
        "candidates": len(examples),
        "ceiling": ceiling(truths(evaluation, examples)),
        **recalls(ranks(similar), ranks(similar.T)),
        "reranked": None,
        "several": recall.all_captions(evaluation, examples, images, texts),
    }
    if matches:
        # without a guided pruner the later blocks run once per image, not once per pair
        tokens = trunk if model.guided else image
        section["reranked"] = recalls(*_rerank(evaluation, similar, words, tokens))
    return {"retrieval": section}


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


def ranks(scores: Tensor) -> Tensor:
    """Count the wrong candidates before the right one, which is on the diagonal: (n, n) -> (n,)."""
    right = scores.diagonal().unsqueeze(1)  # (n, 1)
    return (scores < right).logical_not().sum(1) - 1


def reranks(scores: Tensor, top: Tensor, new_scores: Tensor) -> Tensor:
    """Ranks (n,) after the k best candidates are re-ranked. A right answer that is not among them keeps its rank.

    Args:
        scores: (n, n) by which ``top`` (n, k) was chosen.
        new_scores: (n, k), by which they are ranked again.
    """
    first = ranks(scores)  # (n,)
    right = top == torch.arange(len(top), device=top.device).unsqueeze(1)  # (n, k), at most one a row
    target = new_scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)  # (n, 1)
    second = (new_scores < target).logical_not().sum(1) - 1  # (n,)
    return torch.where(right.any(1) & (first < top.shape[1]), second, first)


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


def _rerank(evaluation: Evaluation, similar: Tensor, words: Tokens, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Ranks (n,) in both directions. A pair that is a candidate in both is computed once."""
    n = len(similar)
    k = min(evaluation.settings_for(RetrievalSettings).rerank, n)
    texts, images = similar.topk(k, dim=1).indices, similar.T.topk(k, dim=1).indices  # (n, k) each
    query = torch.arange(n, device=similar.device).unsqueeze(1)
    candidates = torch.cat([query * n + texts, images * n + query]).flatten()  # (2 n k,), image * n + text
    pairs, place = candidates.unique(return_inverse=True)
    chunks = pairs.split(evaluation.settings.batch)
    odds = torch.cat([match_log_odds(evaluation.model, tokens.rows(c // n), words.rows(c % n)) for c in chunks])
    by_image, by_text = odds[place].view(2, n, k)
    logits = evaluation.model.heads["temperature"](similar)  # (n, n)
    by_image = by_image + logits.gather(1, texts)
    by_text = by_text + logits.T.gather(1, images)
    return reranks(similar, texts, by_image), reranks(similar.T, images, by_text)
