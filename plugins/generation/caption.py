"""Captions of pictures by a model with a decoder. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.kinds import Tokenizer
from core.model import Model
from core.types import Text, Tokens
from plugins.generation.generate import generate
from plugins.generation.settings import Generation


def caption(
    model: Model,
    tokenizer: Tokenizer,
    images: Tensor,
    settings: Generation,
    *,
    prompts: Sequence[str] | None = None,
    head: str = "words",
    numbers: Tensor | None = None,
) -> list[str]:
    """A caption for each picture, its prompt included. The model is used as it is: put it in eval mode.

    With a fusion the prompt is read by the text encoder, guides the pruners, and the decoder writes from [CLS] on
    beside both (mPLUG's prefix language modelling). Without one, as in CoCa, the decoder itself reads [CLS] and the
    prompt beside the picture, which no text has guided.

    Args:
        model: has a decoder.
        tokenizer: its own; [CLS] starts a text, [SEP] ends it.
        images: (B, 3, H, W) uint8, of the model's size.
        settings: how to write.
        prompts: the beginnings, one a picture; none by default.
        head: the model's head for words.
        numbers: as in ``generate``.

    Raises:
        ValueError: the model has no decoder or no such head, prompts and pictures differ in number, or a text may grow
            longer than the decoder can read.
    """
    found = scored(model, tokenizer, images, settings, prompts=prompts, head=head, numbers=numbers)
    return [text for text, _ in found]


@torch.no_grad()
def scored(
    model: Model,
    tokenizer: Tokenizer,
    images: Tensor,
    settings: Generation,
    *,
    prompts: Sequence[str] | None = None,
    head: str = "words",
    numbers: Tensor | None = None,
) -> list[tuple[str, float]]:
    """As ``caption``, each with the score that it was chosen by (``Written.score``)."""
    if model.decoder is None:
        raise ValueError("the model has no decoder, so that it cannot write captions")
    if head not in model.heads:
        raise ValueError(f"the model has no head {head!r}; it has: {', '.join(model.heads) or 'none'}")
    starts = [""] * len(images) if prompts is None else list(prompts)
    if len(starts) != len(images):
        raise ValueError(f"{len(starts)} prompts for {len(images)} pictures; there must be one for each")
    read = tokenizer(starts).to(images.device)
    memory, text = _beside(model, images, read)
    written = generate(
        model.decoder, model.heads[head], memory, text, settings, end=tokenizer.sep, pad=tokenizer.pad, numbers=numbers
    )
    return [
        (tokenizer.decode([*ids[mask].tolist(), *new.ids]), new.score)
        for ids, mask, new in zip(read.ids, read.mask, written, strict=True)
    ]


def _beside(model: Model, images: Tensor, prompts: Text) -> tuple[Tokens, Text]:
    """What the decoder attends to, (B, N, D), and what it starts from, (B, L)."""
    trunk = model.trunk(images)
    if model.fusion is None:
        open_end = prompts.mask & (prompts.mask.cumsum(1) < prompts.mask.sum(1, keepdim=True))  # without [SEP]
        return model.encode_image(trunk), Text(prompts.ids, open_end)
    words = model.encode_text(prompts)
    image = model.encode_image(trunk, words.pooled if model.guided else None)
    start = prompts.map(lambda t: t[:, :1])  # [CLS]
    return model.fusion(words, image).memory, start
