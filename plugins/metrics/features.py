"""What measures share: features, cosines and log-odds in full precision, where bf16 would make ties.

Letters as in core.types; E the width of the contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.evaluation import Evaluation
from core.model import Model
from core.runtime import autocast
from core.types import Example, Tokens


def features(model: Model, head: str, states: Tokens) -> Tensor:
    """What is pooled through a contrastive head, (B, E)."""
    assert states.pooled is not None
    with autocast(states.x.device, "fp32"):
        found: Tensor = model.heads[head](states.pooled.float())
    return found


def cosines(pictures: Tensor, texts: Tensor) -> Tensor:
    """Of every picture (n, E) with every text (m, E), (n, m)."""
    with autocast(pictures.device, "fp32"):
        return pictures @ texts.T


def image_features(evaluation: Evaluation, pictures: Sequence[Example]) -> Tensor:
    """Of n pictures, (n, E), pruned under the null guide."""
    model, chunk = evaluation.model, evaluation.settings.batch
    parts = (evaluation.images(pictures[start : start + chunk]) for start in range(0, len(pictures), chunk))
    return torch.cat([features(model, "image", model.encode_image(model.trunk(images))) for images in parts])


def text_features(evaluation: Evaluation, texts: Sequence[str]) -> Tensor:
    """Of n texts, (n, E), by the text encoder, or the decoder's lower half where there is none."""
    model, chunk = evaluation.model, evaluation.settings.batch
    text = evaluation.data.tokenizer(texts).to(evaluation.device)  # (n, L)
    parts = [text.rows(slice(start, start + chunk)) for start in range(0, len(texts), chunk)]
    return torch.cat([features(model, "text", model.encode_text(part)) for part in parts])


def match_log_odds(model: Model, pictures: Tokens, words: Tokens) -> Tensor:
    """The logit of a match over that of none, row by row, (B,): it orders as the probability, and does not saturate.

    Args:
        pictures: the trunk's tokens where a text guides the pruners, else what the backbone ends with.
    """
    assert model.fusion is not None
    image = model.encode_image(pictures, words.pooled) if model.guided else pictures
    joint = model.fusion(words, image).text.x[:, 0]  # (B, D)
    with autocast(joint.device, "fp32"):
        logits = model.heads["match"](joint.float())  # (B, 2)
    return logits[:, 1] - logits[:, 0]
