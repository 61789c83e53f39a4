"""Retrieval with all captions of a picture, as it is reported on COCO: five captions a picture.

A picture finds a text if any of its own is among the first k; every caption asks for its picture. Among n pictures and
m captions that is Karpathy's test at n = 5,000 and m = 25,010. Ties count against the model, and so does NaN.
Letters: n pictures, m captions, E the width of the contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation, percent
from core.types import Example
from plugins.metrics.features import cosines, text_features

CUTS = (1, 5, 10)
ROOM = 2**22  # cosines held at a time: 16 MiB


def measured(
    evaluation: Evaluation, examples: Sequence[Example], pictures: Tensor, texts: Tensor
) -> dict[str, Any] | None:
    """The block ``several`` of section ``retrieval``; None where every picture has one caption only.

    Args:
        pictures: (n, E) features.
        texts: (n, E) features of the examples' own captions, which are not encoded again.
    """
    references = [evaluation.data.references(example) for example in examples]
    if max(map(len, references)) < 2:
        return None
    place = {example.caption: row for row, example in enumerate(examples)}
    new = sorted({text for own in references for text in own} - place.keys(), key=lambda text: (len(text), text))
    place.update({text: len(examples) + row for row, text in enumerate(new)})
    chunk = evaluation.settings.batch  # of texts about as long: little padding
    parts = [text_features(evaluation, new[start : start + chunk]) for start in range(0, len(new), chunk)]
    known = torch.cat([texts, *parts])
    rows = torch.tensor([place[text] for own in references for text in own], device=texts.device)  # (m,)
    owner = torch.tensor([row for row, own in enumerate(references) for _ in own], device=texts.device)  # (m,)
    i2t, t2i = ranks(pictures, known[rows], owner)
    return {"captions": len(rows), **recalls(i2t, t2i), "chance": _chance(list(map(len, references)))}


def ranks(pictures: Tensor, texts: Tensor, owner: Tensor, room: int = ROOM) -> tuple[Tensor, Tensor]:
    """How many wrong candidates come before the first right one, for every picture (n,) and every caption (m,).

    Args:
        pictures: (n, E).
        texts: (m, E).
        owner: (m,) int64, the picture that each caption is of.
        room: cosines held at a time, at least one query's.
    """
    numbers = torch.arange(len(pictures), device=owner.device)
    i2t, t2i = [], []
    for chunk in numbers.split(max(1, room // len(texts))):
        scores = cosines(pictures[chunk], texts)  # (chunk, m)
        right = owner == chunk.unsqueeze(1)  # (chunk, m)
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        i2t.append(((scores < best) | right).logical_not_().sum(1))
    for asked, own in zip(*(whole.split(max(1, room // len(pictures))) for whole in (texts, owner)), strict=True):
        scores = cosines(asked, pictures)  # (chunk, n)
        t2i.append((scores < scores.gather(1, own.unsqueeze(1))).logical_not_().sum(1) - 1)
    return torch.cat(i2t), torch.cat(t2i)


def recalls(i2t: Tensor, t2i: Tensor) -> dict[str, float]:
    """R@1, R@5 and R@10 of ranks (n,) from picture to text and (m,) back."""
    return {f"{way}_r{cut}": recall(rank, cut) for way, rank in (("i2t", i2t), ("t2i", t2i)) for cut in CUTS}


def recall(rank: Tensor, cut: int) -> float:
    """The share of queries whose right answer is among the first ``cut``."""
    return float((rank < cut).double().mean())


def _chance(counts: Sequence[int]) -> dict[str, float]:
    """What an order drawn at random reaches, with ``counts`` captions of each picture."""
    n, m = len(counts), sum(counts)
    found = {cut: sum(1 - comb(m - own, cut) / comb(m, cut) if cut < m else 1 for own in counts) / n for cut in CUTS}
    return {**{f"i2t_r{cut}": found[cut] for cut in CUTS}, **{f"t2i_r{cut}": min(1, cut / n) for cut in CUTS}}


def told(section: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the closing table: label, R@1, R@5, R@10."""
    rows: list[tuple[str, ...]] = [(f"all {section['captions']} captions", *(f"R@{cut}" for cut in CUTS))]
    for way, label in (("i2t", "picture to any of its own"), ("t2i", "each to its picture")):
        rows.append((label, *(percent(section[f"{way}_r{cut}"]) for cut in CUTS)))
        rows.append(("chance", *(percent(section["chance"][f"{way}_r{cut}"]) for cut in CUTS)))
    return rows
