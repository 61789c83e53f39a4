"""Texts from a decoder, word by word. Letters as in core.types; K beams, R = B K rows, S words read, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from core.kinds import Decoder, DecodeState, StepwiseDecoder
from core.types import Text, Tokens
from plugins.generation.beam import Beams
from plugins.generation.sampling import ban, draw, penalise
from plugins.generation.settings import Generation, Written
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
    numbers: Tensor | None = None,
) -> list[Written]:
    """Go on from prompts beside pictures. Modules are used in the mode that they are in: put them in eval mode.

    Args:
        decoder: is asked to go on where it can (``StepwiseDecoder``), else run on the whole text at every step.
        head: states (R, D) to logits (R, V); sees each row's last word only.
        memory: (B, N, D), what the decoder attends to.
        prompts: (B, L), at least one word each, padded on the right.
        settings: how.
        end: the token that ends a text.
        pad: the token read in the place of words once a text has ended.
        numbers: (B, max_length) from [0, 1), what ``sample`` draws by; ``uniform(0, range(B), max_length)`` by default.

    Raises:
        ValueError: a prompt is empty, or the texts may grow longer than the decoder can read.
    """
    if not bool(prompts.mask.any(1).all()):
        raise ValueError("a prompt is empty; each needs at least its start token")
    longest = int(prompts.mask.sum(1).max())
    prompts = prompts.map(lambda t: t[:, :longest])
    room = longest + settings.max_length - 1  # what is written last is not read
    if isinstance(decoder, StepwiseDecoder) and room > decoder.text_length:
        most = decoder.text_length - longest + 1
        raise ValueError(
            f"max_length is {settings.max_length}; after a prompt of {longest} it must be at most {most}: "
            f"the decoder has positions for {decoder.text_length} words"
        )
    decoding: DecodeState = UncachedDecodeState(decoder, memory)
    if settings.cached and isinstance(decoder, StepwiseDecoder):
        decoding = decoder.start_decoding(memory, room)
    writer = _Writer(decoding, head, prompts, settings, end, pad)
    if settings.mode == "beam":
        return _search(writer)
    if settings.mode == "greedy":
        return _write_rows(writer, None)
    return _write_rows(writer, uniform(0, range(len(prompts.ids)), settings.max_length) if numbers is None else numbers)


def uniform(seed: int, rows: Sequence[int], length: int) -> Tensor:
    """(len(rows), length) float64 from [0, 1): row i's depend on ``seed`` and ``rows[i]`` alone."""
    return torch.from_numpy(np.stack([np.random.default_rng([seed, row]).random(length) for row in rows]))


class _Writer:
    """Texts under way, and the log-probabilities of their next words."""

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
        self.text, self.written = prompts, 0  # (R, S), and how many of its words are no prompt
        last = prompts.mask.sum(1) - 1
        states = decoding(prompts)  # (B, L, D)
        self.states = states[torch.arange(len(states), device=states.device), last]  # (R, D)

    def scores(self) -> Tensor:
        """(R, V), at least in single precision."""
        logits = self.head(self.states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.settings.repetition_penalty != 1:
            logits = penalise(logits, self.text.ids, self.text.mask, self.settings.repetition_penalty)
        if self.written < self.settings.min_length:
            logits = ban(logits, self.end)
        return logits.log_softmax(1)

    def write(self, words: Tensor, alive: Tensor) -> None:
        """Put ``words`` (R,) behind the texts that are ``alive`` (R,) and read them, if there is more to write."""
        new = Text(torch.where(alive, words, self.pad)[:, None], alive[:, None])
        self.text = Text(torch.cat([self.text.ids, new.ids], 1), torch.cat([self.text.mask, new.mask], 1))
        self.written += 1
        if self.written < self.settings.max_length and bool(alive.any()):
            self.states = self.decoding(new)[:, 0]

    def rows(self, index: Tensor) -> None:
        """Go on from rows ``index`` (R',)."""
        self.text, self.states = self.text.rows(index), self.states[index]
        self.decoding.rows(index)


def _write_rows(writer: _Writer, numbers: Tensor | None) -> list[Written]:
    """One word after the other: the likeliest, or by ``numbers`` (B, max_length) where given."""
    settings, rows = writer.settings, len(writer.text.ids)
    alive = torch.ones(rows, dtype=torch.bool, device=writer.text.ids.device)
    total, length = (
        torch.zeros(rows, dtype=torch.float64, device=alive.device),
        torch.zeros_like(alive, dtype=torch.int64),
    )
    while writer.written < settings.max_length and bool(alive.any()):
        scores = writer.scores()  # (R, V)
        if numbers is None:
            words = scores.argmax(1)
        else:
            now = numbers[:, writer.written].to(scores.device)
            words = draw(scores, now, settings.temperature, settings.top_k, settings.top_p)
        total += torch.where(alive, scores.gather(1, words[:, None])[:, 0].double(), 0.0)
        length += alive
        alive = alive & (words != writer.end)
        writer.write(words, alive)
    ids, kept = (part[:, -writer.written :] for part in (writer.text.ids, writer.text.mask))  # (R, written)
    total /= length.double() ** settings.length_penalty
    return [Written(tuple(row[own].tolist()), float(score)) for row, own, score in zip(ids, kept, total, strict=True)]


def _search(writer: _Writer) -> list[Written]:
    """Beam search; the texts under way take the rows of ``writer``, K to a picture."""
    settings, (pictures, start) = writer.settings, writer.text.ids.shape
    beams = Beams(pictures, settings, writer.end, writer.text.ids.device)
    writer.rows(torch.arange(pictures, device=writer.text.ids.device).repeat_interleave(settings.beams))
    while writer.written < settings.max_length and beams.alive.any():
        written = writer.text.ids[:, start:]
        origin, words = beams.grow(writer.scores(), written)
        writer.rows(origin)
        writer.write(words, beams.alive.flatten())
    return beams.best()
