"""What measures share: features, cosines and log-odds in full precision, where bf16 would make ties.

Letters as in core.types; E the width of the contrast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.model import Model
from core.types import Tokens


def features(model: Model, head: str, states: Tokens) -> Tensor:
    """What is pooled through a contrastive head, (B, E)."""
    assert states.pooled is not None
    with torch.autocast(states.x.device.type, enabled=False):
        found: Tensor = model.heads[head](states.pooled.float())
    return found


def cosines(pictures: Tensor, texts: Tensor) -> Tensor:
    """Of every picture (n, E) with every text (m, E), (n, m)."""
    with torch.autocast(pictures.device.type, enabled=False):
        return pictures @ texts.T


def margins(model: Model, pictures: Tokens, words: Tokens) -> Tensor:
    """The logit of a match over that of none, row by row, (B,): it orders as the probability, and does not saturate.

    Args:
        pictures: the trunk's tokens where a text guides the pruners, else what the backbone ends with.
    """
    assert model.fusion is not None
    image = model.look(pictures, words.pooled) if model.guided else pictures
    joint = model.fusion(words, image).text.x[:, 0]  # (B, D)
    with torch.autocast(joint.device.type, enabled=False):
        logits = model.heads["match"](joint.float())  # (B, 2)
    return logits[:, 1] - logits[:, 0]
