"""Captions of images by a model with a decoder. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.kinds import Tokenizer
from core.model import Model
from core.types import Text, Tokens
from plugins.generation.generate import generate
from plugins.generation.settings import Generation


class Caption(NamedTuple):
    """A caption, its prompt included, and its score (``GeneratedText.score``)."""

    text: str
    score: float


@torch.no_grad()
def caption(
    model: Model,
    tokenizer: Tokenizer,
    images: Tensor,
    settings: Generation,
    *,
    prompts: Sequence[str] | None = None,
    head: str = "words",
    noise: Tensor | None = None,
) -> list[Caption]:
    """Generate a caption for each image. The model is used in its current mode: call ``eval()`` first.

    With a fusion, the text encoder encodes the prompt, which guides the pruners, and the decoder starts from [CLS] and
    attends to text and image (mPLUG's prefix language modelling). Without one, as in CoCa, the decoder starts from
    [CLS] and the prompt, and the pruners get the null guide.

    Args:
        model: has a decoder.
        tokenizer: the model's; [CLS] starts a text, [SEP] ends it.
        images: (B, 3, H, W) uint8, of the model's size.
        settings: how to generate.
        prompts: the beginning of each caption; None: empty.
        head: the model's vocabulary head.
        noise: as in ``generate``.

    Raises:
        ValueError: the model has no decoder or no such head, the numbers of prompts and images differ, or a text may
            become too long for the decoder.
    """
    if model.decoder is None:
        raise ValueError("the model has no decoder, so that it cannot write captions")
    if head not in model.heads:
        raise ValueError(f"the model has no head {head!r}; it has: {', '.join(model.heads) or 'none'}")
    starts = [""] * len(images) if prompts is None else list(prompts)
    if len(starts) != len(images):
        raise ValueError(f"{len(starts)} prompts for {len(images)} images; there must be one for each")
    tokens = tokenizer(starts).to(images.device)  # (B, L)
    memory, start = _decoder_inputs(model, images, tokens)
    generated = generate(
        model.decoder, model.heads[head], memory, start, settings, end=tokenizer.sep, pad=tokenizer.pad, noise=noise
    )
    return [
        Caption(tokenizer.decode([*ids[mask].tolist(), *new.ids]), new.score)
        for ids, mask, new in zip(tokens.ids, tokens.mask, generated, strict=True)
    ]


def _decoder_inputs(model: Model, images: Tensor, prompts: Text) -> tuple[Tokens, Text]:
    """Return the memory (B, N, D) that the decoder attends to, and the tokens (B, L) that it starts from."""
    trunk = model.trunk(images)  # (B, N, D)
    if model.fusion is None:
        open_end = prompts.mask & (prompts.mask.cumsum(1) < prompts.mask.sum(1, keepdim=True))  # (B, L), without [SEP]
        return model.encode_image(trunk), Text(prompts.ids, open_end)
    words = model.encode_text(prompts)  # (B, L, D)
    image = model.encode_image(trunk, words.pooled if model.guided else None)
    start = prompts.map(lambda t: t[:, :1])  # (B, 1): [CLS]
    return model.fusion(words, image).memory, start
