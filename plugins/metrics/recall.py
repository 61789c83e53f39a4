"""Recall at k with all captions of an image, as papers report it on COCO with five captions an image.

Image to text is right if any caption of the image is among the first k. Text to image has one query per caption.
With n = 5,000 and m = 25,010 this is Karpathy's test. Ties and NaN count against the model.
Letters: n images, m captions, E the width of the contrastive features.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation
from core.types import Example
from plugins.hooks.report_table import percent
from plugins.metrics.features import cosines, text_features

CUTS = (1, 5, 10)
MAX_COSINES = 2**22  # computed at once: 16 MiB in fp32


def all_captions(
    evaluation: Evaluation, examples: Sequence[Example], images: Tensor, texts: Tensor
) -> dict[str, Any] | None:
    """Compute the block ``several`` of section ``retrieval``; None if every image has only one caption.

    Args:
        images: (n, E) features.
        texts: (n, E) features of the examples' captions, which are not encoded again.
    """
    references = [evaluation.data.references(example) for example in examples]
    if max(map(len, references)) < 2:
        return None
    place = {example.caption: row for row, example in enumerate(examples)}
    every = {text for captions in references for text in captions}
    new = sorted(every - place.keys(), key=lambda text: (len(text), text))
    place.update({text: len(examples) + row for row, text in enumerate(new)})
    chunk = evaluation.settings.batch  # texts of similar length need little padding
    parts = [text_features(evaluation, new[start : start + chunk]) for start in range(0, len(new), chunk)]
    known = torch.cat([texts, *parts])
    rows = torch.tensor([place[text] for captions in references for text in captions], device=texts.device)  # (m,)
    counts = torch.tensor(list(map(len, references)), device=texts.device)  # (n,)
    owner = torch.arange(len(counts), device=texts.device).repeat_interleave(counts)  # (m,)
    i2t, t2i = ranks(images, known[rows], owner)
    return {"captions": len(rows), **recalls(i2t, t2i), "chance": _chance(counts.tolist())}


def ranks(images: Tensor, texts: Tensor, owner: Tensor, max_cosines: int = MAX_COSINES) -> tuple[Tensor, Tensor]:
    """Count the wrong candidates before the first right one, for every image (n,) and every caption (m,).

    Args:
        images: (n, E).
        texts: (m, E).
        owner: (m,) int64, the image of each caption.
        max_cosines: computed at once, but at least those of one query.
    """
    numbers = torch.arange(len(images), device=owner.device)
    i2t, t2i = [], []
    for chunk in numbers.split(max(1, max_cosines // len(texts))):
        scores = cosines(images[chunk], texts)  # (chunk, m)
        right = owner == chunk.unsqueeze(1)  # (chunk, m)
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)  # (chunk, 1)
        i2t.append(((scores < best) | right).logical_not_().sum(1))
    count = max(1, max_cosines // len(images))
    for queries, targets in zip(texts.split(count), owner.split(count), strict=True):
        scores = cosines(queries, images)  # (chunk, n)
        t2i.append((scores < scores.gather(1, targets.unsqueeze(1))).logical_not_().sum(1) - 1)  # (chunk,)
    return torch.cat(i2t), torch.cat(t2i)


def recalls(i2t: Tensor, t2i: Tensor) -> dict[str, float]:
    """Compute R@1, R@5 and R@10 from the ranks (n,) of image to text and (m,) of text to image."""
    return {f"{way}_r{cut}": recall(rank, cut) for way, rank in (("i2t", i2t), ("t2i", t2i)) for cut in CUTS}


def recall(rank: Tensor, cut: int) -> float:
    """Fraction of queries, with ranks (n,), whose right answer is among the first ``cut``."""
    return float((rank < cut).double().mean())


def _chance(counts: Sequence[int]) -> dict[str, float]:
    """Expected recalls of a random order, with ``counts`` captions of each image."""
    n, m = len(counts), sum(counts)
    i2t = {cut: sum(1 - comb(m - k, cut) / comb(m, cut) if cut < m else 1 for k in counts) / n for cut in CUTS}
    return {**{f"i2t_r{cut}": i2t[cut] for cut in CUTS}, **{f"t2i_r{cut}": min(1, cut / n) for cut in CUTS}}


def format_rows(section: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return rows of the closing table: label, R@1, R@5, R@10."""
    rows: list[tuple[str, ...]] = [(f"all {section['captions']} captions", *(f"R@{cut}" for cut in CUTS))]
    for way, label in (("i2t", "image to any of its captions"), ("t2i", "each caption to its image")):
        rows.append((label, *(percent(section[f"{way}_r{cut}"]) for cut in CUTS)))
        rows.append(("chance", *(percent(section["chance"][f"{way}_r{cut}"]) for cut in CUTS)))
    return rows
