"""R@1, R@5, R@10 from picture to text and back: by ITC, and with the best candidates ordered anew by ITM.

A query's one right answer is its own counterpart; ``ceiling`` says how far that rule lets a perfect model come. Where
the data has several captions of a picture, the block ``several`` asks with all of them (plugins/metrics/recall.py).
Ties count against the model, and so does NaN: candidates not below the right answer stand before it.

By ITC each picture is pruned under the null guide, whatever the model's guide policy: at retrieval time nobody knows
a picture's caption. For ITM each picture is pruned under the very text of the pair; what orders the candidates anew is
ITC's logit plus ITM's log-odds, which is our choice.
Letters: n pictures and as many texts, k candidates to order anew; the rest as in core.types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation, columns, percent
from core.hookspecs import hookimpl
from core.types import Example, Text, Tokens
from plugins.metrics import recall
from plugins.metrics.features import cosines, features, image_features, match_log_odds, text_features
from plugins.metrics.recall import CUTS, recalls
from plugins.metrics.settings import RetrievalSettings


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``retrieval``; None for a model without text encoder or projection heads."""
    model = evaluation.model
    if any(model.lacks(slot) for slot in ("text", "heads.image", "heads.text")):
        return None
    examples = evaluation.examples(evaluation.settings.split, evaluation.settings_for(RetrievalSettings).candidates)
    matches = not any(map(model.lacks, ("fusion", "heads.match", "heads.temperature")))
    if matches:
        words, trunk, image = encode(evaluation, examples)
        pictures, texts = features(model, "image", image), features(model, "text", words)  # (n, E) each
    else:  # without the tokens: memory for thousands of pictures
        pictures = image_features(evaluation, examples)
        texts = text_features(evaluation, [example.caption for example in examples])
    similar = cosines(pictures, texts)  # (n, n), pictures by texts
    section: dict[str, Any] = {
        "candidates": len(examples),
        "ceiling": ceiling(truths(evaluation, examples)),
        **recalls(ranks(similar), ranks(similar.T)),
        "reranked": None,
        "several": recall.measured(evaluation, examples, pictures, texts),
    }
    if matches:
        # with nothing guided the later blocks see no text: once per picture, not once per pair
        seen = trunk if model.guided else image
        section["reranked"] = recalls(*_rerank(evaluation, similar, words, seen))
    return {"retrieval": section}


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("retrieval")
    return section and {"retrieval": _told(section)}


def _told(section: dict[str, Any]) -> list[str]:
    n, ceiling, again = section["candidates"], section["ceiling"], section["reranked"]
    groups = [part for part in (section, again) if part]
    rows: list[tuple[str, ...]] = [("", *(f"R@{cut}" for cut in CUTS), *(f"R@{cut}" for cut in CUTS if again))]
    for way, label in (("i2t", "picture to text"), ("t2i", "text to picture")):
        rows.append((label, *(percent(part[f"{way}_r{cut}"]) for part in groups for cut in CUTS)))
    rows.append(("chance", *(percent(min(1, cut / n)) for _ in groups for cut in CUTS)))
    lines = columns(rows, least=5)  # no percentage is wider
    width = 3 * (5 + 2)  # of a group: three columns, each after two spaces
    heads = ["by ITC", "re-ranked by ITM"][: len(groups)]
    return [
        f"Retrieval among {n} (%). A caption may fit several pictures: R@1 can reach {percent(ceiling)} at most",
        " " * (len(lines[0]) - width * len(groups)) + "".join(head.rjust(width) for head in heads),
        *lines,
        *(columns(recall.told(section["several"]), least=5) if section.get("several") else ()),
    ]


def ranks(scores: Tensor) -> Tensor:
    """How many wrong candidates come before the right one, which is on the diagonal: (n, n) -> (n,)."""
    right = scores.diagonal().unsqueeze(1)
    return (scores < right).logical_not().sum(1) - 1


def reranks(scores: Tensor, top: Tensor, margins: Tensor) -> Tensor:
    """The same after the k best candidates were ordered anew; a right one that is not among them keeps its rank.

    Args:
        scores: (n, n) by which ``top`` (n, k) was chosen.
        margins: (n, k) what orders them anew.
    """
    first = ranks(scores)  # (n,)
    right = top == torch.arange(len(top), device=top.device).unsqueeze(1)  # (n, k), at most one a row
    own = margins.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    anew = (margins < own).logical_not().sum(1) - 1
    return torch.where(right.any(1) & (first < top.shape[1]), anew, first)


def ceiling(truth: Tensor) -> float:
    """The best R@1 in reach where several candidates are right: of t equally right ones, 1 / t at best is the own.

    Args:
        truth: (n, n) bool, whether text j is true of picture i. The mean is over the queries of both directions.
    """
    truth = truth | torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    return float(torch.cat([1 / truth.sum(1).double(), 1 / truth.sum(0).double()]).mean())


def truths(evaluation: Evaluation, examples: Sequence[Example]) -> Tensor:
    """(n, n) bool: rows are pictures, columns texts."""
    describes = evaluation.data.describes
    return torch.stack([torch.tensor([describes(text, picture) for text in examples]) for picture in examples])


def encode(evaluation: Evaluation, examples: Sequence[Example]) -> tuple[Tokens, Tokens, Tokens]:
    """Texts (n, L, D), blocks 1..k of the pictures (n, N, D), and the pictures under the null guide."""
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
    """Batches of tokens as one."""
    columns = {f.name: [getattr(chunk, f.name) for chunk in chunks] for f in dataclasses.fields(Tokens)}
    whole: dict[str, Any] = {k: torch.cat(v) if isinstance(v[0], Tensor) else v[0] for k, v in columns.items()}
    return Tokens(**whole)


def _rerank(evaluation: Evaluation, similar: Tensor, words: Tokens, pictures: Tokens) -> tuple[Tensor, Tensor]:
    """Ranks (n,) both ways. A pair that both directions ask for is computed once."""
    n = len(similar)
    k = min(evaluation.settings_for(RetrievalSettings).rerank, n)
    texts, images = similar.topk(k, dim=1).indices, similar.T.topk(k, dim=1).indices  # (n, k) each
    query = torch.arange(n, device=similar.device).unsqueeze(1)
    asked = torch.cat([query * n + texts, images * n + query]).flatten()  # picture * n + text
    pairs, place = asked.unique(return_inverse=True)
    chunks = pairs.split(evaluation.settings.batch)
    odds = torch.cat([match_log_odds(evaluation.model, pictures.rows(c // n), words.rows(c % n)) for c in chunks])
    by_picture, by_text = odds[place].view(2, n, k)
    logits = evaluation.model.heads["temperature"](similar)  # (n, n)
    by_picture = by_picture + logits.gather(1, texts)
    by_text = by_text + logits.T.gather(1, images)
    return reranks(similar, texts, by_picture), reranks(similar.T, images, by_text)
