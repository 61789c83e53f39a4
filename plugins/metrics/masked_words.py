"""Accuracy of masked word prediction, with the image and with a blank one.

Letters as in core.types; m masked rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from core.kinds import Tokenizer
from core.types import Text
from plugins.hooks.report_table import columns, percent
from plugins.metrics.settings import ExampleSettings

HEAD = "words"  # slot of the vocabulary head that masked language modelling trains by default
BLANK_VALUE = 128  # of 255, of every pixel of the blank image
MAX_ROWS = 2048  # masked captions, at most


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``masked_words``; None for a model without fusion or words head, or a vocabulary without [MASK].

    One word of a held-out caption is masked at a time, with all its tokens: the words that occur in the names of the
    data's classes, such as colours and shapes; without classes, every token. ``accuracy``: fraction predicted rightly
    from the rest of the caption and the image; ``blind``: the same with a grey image. The image is pruned under the
    masked caption. The difference is what the model reads from the image.
    """
    model, data, fusion = evaluation.model, evaluation.data, evaluation.model.fusion
    if fusion is None or model.lacks("text") or model.lacks(f"heads.{HEAD}") or not _has_mask(data.tokenizer):
        return None
    examples = evaluation.examples(evaluation.settings.split, evaluation.settings_for(ExampleSettings).examples)
    words = sorted({word for name in data.classes for word in name.split()})
    text = data.tokenizer([example.caption for example in examples])  # (n, L)
    owner, targets = mask_rows(text, data.tokenizer, words)
    if not len(owner):
        return None
    right = torch.zeros(2, len(owner), dtype=torch.bool)  # with the image, and with a blank one
    for rows in torch.arange(len(owner)).split(evaluation.settings.batch):
        masked = Text(text.ids[owner[rows]].masked_fill(targets[rows], data.tokenizer.mask), text.mask[owner[rows]])
        states = model.encode_text(masked.to(evaluation.device))
        images = evaluation.images([examples[int(i)] for i in owner[rows]])
        for way, pixels in enumerate((images, torch.full_like(images, BLANK_VALUE))):
            image = model.encode_image(model.trunk(pixels), states.pooled if model.guided else None)
            logits = model.heads[HEAD](fusion(states, image).text.x)  # (m, L, V)
            equal = logits.argmax(-1).cpu() == text.ids[owner[rows]]  # (m, L)
            right[way, rows] = (equal | ~targets[rows]).all(1)
    accuracy, blind = right.double().mean(1).tolist()
    return {"masked_words": {"words": len(owner), "accuracy": accuracy, "blind": blind}}


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("masked_words")
    if not section:
        return None
    rows = [("%", "with the image", "blank image"), ("right", percent(section["accuracy"]), percent(section["blind"]))]
    return {"masked_words": [f"Prediction of {section['words']} masked words, one at a time", *columns(rows)]}


def mask_rows(text: Text, tokenizer: Tokenizer, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """List the words of captions that are masked one at a time.

    Args:
        text: (n, L).
        words: the words to mask; empty: every token that is not special.

    Returns:
        (m,) int64, the row of each, and (m, L) bool, True for its tokens; every so many words if m exceeds MAX_ROWS.
    """
    special = torch.tensor([tokenizer.pad, tokenizer.cls, tokenizer.sep])
    real = text.mask & ~torch.isin(text.ids, special)  # (n, L)
    if words:
        forms = tokenizer(words)
        pieces = [form[mask & ~torch.isin(form, special)] for form, mask in zip(forms.ids, forms.mask, strict=True)]
    else:
        pieces = [token[None] for token in text.ids[real].unique()]
    spans = []
    for piece in pieces:
        if 0 < len(piece) <= text.ids.shape[1]:
            windows = text.ids.unfold(1, len(piece), 1)  # (n, L - size + 1, size)
            spans += [(row, start, len(piece)) for row, start in (windows == piece).all(-1).nonzero().tolist()]
    spans = sorted(spans)[:: -(-len(spans) // MAX_ROWS) or 1]
    place = torch.arange(text.ids.shape[1])  # (L,)
    targets = [(place >= start) & (place < start + size) for _, start, size in spans]
    empty = torch.zeros(0, len(place), dtype=torch.bool)
    return torch.tensor([row for row, _, _ in spans], dtype=torch.int64), torch.stack(targets) if targets else empty


def _has_mask(tokenizer: Tokenizer) -> bool:
    try:
        return tokenizer.mask >= 0
    except ValueError:
        return False
