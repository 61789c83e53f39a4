"""Features, cosines and matching log-odds for metrics, in full precision: rounding to bf16 would cause ties.

Letters as in core.types; E is the width of the contrastive features.
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
    """Project the pooled states by a contrastive head, (B, E)."""
    assert states.pooled is not None
    with autocast(states.x.device, "fp32"):
        projected: Tensor = model.heads[head](states.pooled.float())
    return projected


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of every image (n, E) with every text (m, E), (n, m)."""
    with autocast(images.device, "fp32"):
        return images @ texts.T


def image_features(evaluation: Evaluation, pictures: Sequence[Example]) -> Tensor:
    """Features of n images, (n, E), pruned under the null guide."""
    model, chunk = evaluation.model, evaluation.settings.batch
    parts = (evaluation.images(pictures[start : start + chunk]) for start in range(0, len(pictures), chunk))
    return torch.cat([features(model, "image", model.encode_image(model.trunk(images))) for images in parts])


def text_features(evaluation: Evaluation, texts: Sequence[str]) -> Tensor:
    """Features of n texts, (n, E), by the text encoder or, if there is none, the decoder's unimodal half."""
    model, chunk = evaluation.model, evaluation.settings.batch
    text = evaluation.data.tokenizer(texts).to(evaluation.device)  # (n, L)
    parts = [text.rows(slice(start, start + chunk)) for start in range(0, len(texts), chunk)]
    return torch.cat([features(model, "text", model.encode_text(part)) for part in parts])


def match_log_odds(model: Model, pictures: Tokens, words: Tokens) -> Tensor:
    """Log-odds of a match for each row, (B,). They rank as the probability does, but do not saturate.

    Args:
        pictures: the trunk's tokens if a text guides the pruners, else the backbone's output.
    """
    assert model.fusion is not None
    image = model.encode_image(pictures, words.pooled) if model.guided else pictures
    joint = model.fusion(words, image).text.x[:, 0]  # (B, D)
    with autocast(joint.device, "fp32"):
        logits = model.heads["match"](joint.float())  # (B, 2)
    return logits[:, 1] - logits[:, 0]
