"""Text generation, token by token.

Letters as in core.types; K beams, R = B K rows, S tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from core.kinds import Decoder, DecodeState, StepwiseDecoder
from core.types import Text, Tokens
from plugins.generation.beam import Beams
from plugins.generation.sampling import apply_repetition_penalty, mask_token, sample_token
from plugins.generation.settings import GeneratedText, Generation
from plugins.generation.uncached import UncachedDecodeState


@torch.no_grad()
def generate(
    decoder: Decoder,
    head: Callable[[Tensor], Tensor],
    memory: Tokens,
    prompts: Text,
    settings: Generation,
    *,
    end: int,
    pad: int,
    noise: Tensor | None = None,
) -> list[GeneratedText]:
    """Continue prompts given images. Modules are used in their current mode: call ``eval()`` first.

    Args:
        decoder: a ``StepwiseDecoder`` is run on the new tokens alone, others on the whole text at every step.
        head: states (R, D) of each row's last token to logits (R, V).
        memory: (B, N, D), attended to by the decoder.
        prompts: (B, L), at least one token each, padded on the right.
        settings: how to generate.
        end: the token that ends a text.
        pad: the token that follows the end of a text.
        noise: (B, max_length) from [0, 1), for mode ``sample``; None: ``sampling_noise(0, range(B), max_length)``.

    Raises:
        ValueError: a prompt is empty, or a text may become too long for the decoder.
    """
    if not bool(prompts.mask.any(1).all()):
        raise ValueError("a prompt is empty; each needs at least its start token")
    longest = int(prompts.mask.sum(1).max())
    prompts = prompts.map(lambda t: t[:, :longest])  # (B, L)
    length = longest + settings.max_length - 1  # the last token is not decoded
    if isinstance(decoder, StepwiseDecoder) and length > decoder.text_length:
        most = decoder.text_length - longest + 1
        raise ValueError(
            f"max_length is {settings.max_length}; after a prompt of {longest} it must be at most {most}: "
            f"the decoder has positions for {decoder.text_length} words"
        )
    decoding: DecodeState = UncachedDecodeState(decoder, memory)
    if settings.cached and isinstance(decoder, StepwiseDecoder):
        decoding = decoder.start_decoding(memory, length)
    state = _GenerationState(decoding, head, prompts, settings, end, pad)
    if settings.mode == "beam":
        return _search(state)
    if settings.mode == "greedy":
        return _write_rows(state, None)
    if noise is None:
        noise = sampling_noise(0, range(len(prompts.ids)), settings.max_length)
    return _write_rows(state, noise)


def sampling_noise(seed: int, rows: Sequence[int], length: int) -> Tensor:
    """Return float64 (n, length) from [0, 1); row i depends on ``seed`` and ``rows[i]`` alone, n = len(rows)."""
    return torch.from_numpy(np.stack([np.random.default_rng([seed, row]).random(length) for row in rows]))


class _GenerationState:
    """Unfinished texts, and the decoder's states of their last tokens."""

    def __init__(
        self,
        decoding: DecodeState,
        head: Callable[[Tensor], Tensor],
        prompts: Text,
        settings: Generation,
        end: int,
        pad: int,
    ):
        self.decoding, self.head, self.settings, self.end, self.pad = decoding, head, settings, end, pad
        self.text, self.written = prompts, 0  # (R, S), and the number of tokens after the prompt
        last = prompts.mask.sum(1) - 1
        states = decoding(prompts)  # (B, L, D)
        self.states = states[torch.arange(len(states), device=states.device), last]  # (R, D)

    def scores(self) -> Tensor:
        """Return log-probabilities of the next token (R, V), at least in single precision."""
        logits = self.head(self.states)  # (R, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.settings.repetition_penalty != 1:
            logits = apply_repetition_penalty(logits, self.text.ids, self.text.mask, self.settings.repetition_penalty)
        if self.written < self.settings.min_length:
            logits = mask_token(logits, self.end)
        return logits.log_softmax(1)

    def write(self, words: Tensor, alive: Tensor) -> None:
        """Append ``words`` (R,) to the texts that are ``alive`` (R,); decode them unless the texts are finished."""
        new = Text(torch.where(alive, words, self.pad)[:, None], alive[:, None])  # (R, 1)
        self.text = Text(torch.cat([self.text.ids, new.ids], 1), torch.cat([self.text.mask, new.mask], 1))  # (R, S + 1)
        self.written += 1
        if self.written < self.settings.max_length and bool(alive.any()):
            self.states = self.decoding(new)[:, 0]  # (R, D)

    def rows(self, index: Tensor) -> None:
        """Keep rows ``index`` (R',), which may repeat."""
        self.text, self.states = self.text.rows(index), self.states[index]
        self.decoding.rows(index)


def _write_rows(state: _GenerationState, noise: Tensor | None) -> list[GeneratedText]:
    """Append the likeliest token each time, or the one sampled by ``noise`` (B, max_length)."""
    settings, rows = state.settings, len(state.text.ids)
    alive = torch.ones(rows, dtype=torch.bool, device=state.text.ids.device)
    total = torch.zeros(rows, dtype=torch.float64, device=alive.device)  # (R,), log-probabilities
    length = torch.zeros_like(alive, dtype=torch.int64)  # (R,)
    while state.written < settings.max_length and bool(alive.any()):
        scores = state.scores()  # (R, V)
        if noise is None:
            words = scores.argmax(1)
        else:
            now = noise[:, state.written].to(scores.device)
            words = sample_token(scores, now, settings.temperature, settings.top_k, settings.top_p)
        total += torch.where(alive, scores.gather(1, words[:, None])[:, 0].double(), 0.0)
        length += alive
        alive = alive & (words != state.end)
        state.write(words, alive)
    ids, masks = (part[:, -state.written :] for part in (state.text.ids, state.text.mask))  # (R, written)
    total /= length.double() ** settings.length_penalty
    return [
        GeneratedText(tuple(row[mask].tolist()), float(score))
        for row, mask, score in zip(ids, masks, total, strict=True)
    ]


def _search(state: _GenerationState) -> list[GeneratedText]:
    """Beam search, with K rows of ``state`` for each image."""
    settings, (images, start) = state.settings, state.text.ids.shape
    beams = Beams(images, settings, state.end, state.text.ids.device)
    state.rows(torch.arange(images, device=state.text.ids.device).repeat_interleave(settings.beams))
    while state.written < settings.max_length and beams.alive.any():
        written = state.text.ids[:, start:]
        origin, words = beams.grow(state.scores(), written)
        state.rows(origin)
        state.write(words, beams.alive.flatten())
    return beams.best()
