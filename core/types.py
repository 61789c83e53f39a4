"""What passes between parts: frozen dataclasses of tensors.

Letters: B pictures or texts, T frames of a clip, N tokens, P patches shown to a pruner, K patches kept, L words,
D width, R regions, M masked words, C classes, H x W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S", bound="Struct")


class Struct:
    """A frozen dataclass of tensors, batch first."""

    def map(self: S, function: Callable[[Tensor], Tensor]) -> S:
        """The same with ``function`` applied to every tensor, those of nested structs included."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return value.map(function) if isinstance(value, Struct) else value

        assert dataclasses.is_dataclass(self)
        return type(self)(**{f.name: apply(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def to(self: S, device: torch.device | str) -> S:
        return self.map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self: S) -> S:
        """In page-locked memory: what a DataLoader asks of a batch that goes to an accelerator."""
        return self.map(Tensor.pin_memory)

    def rows(self: S, index: Tensor | slice) -> S:
        """Some rows of the batch, or some more than once."""
        return self.map(lambda t: t[index])


@dataclass(frozen=True)
class Text(Struct):
    """Words as a tokenizer gives them: [CLS] first, then the words, [SEP], padding."""

    ids: Tensor  # (B, L) int64
    mask: Tensor  # (B, L) bool, True where there is a word


@dataclass(frozen=True)
class Tokens(Struct):
    """A sequence of states: of a picture, of words, or of both.

    ``patches`` is the span of picture patches in the sequence, fused tokens included at its end; ``source`` says
    which patch of the picture each of them is (-1: fused); None stands for all of them in order.
    ``scores`` are the logits that the latest pruner gave to the P patches that it was shown.
    """

    x: Tensor  # (B, N, D); of a clip's frames before they are joined (B, T, N, D), and so all else
    pooled: Tensor | None = None  # (B, D)
    mask: Tensor | None = None  # (B, N) bool, True: may be attended to; None: all
    patches: tuple[int, int] = (0, 0)
    source: Tensor | None = None  # (B, stop - start) int64
    scores: Tensor | None = None  # (B, P)

    @property
    def patch_states(self) -> Tensor:
        """The states of the patches alone, (B, P, D)."""
        return self.x[:, self.patches[0] : self.patches[1]]

    def keep(self, index: Tensor, fused: Tensor | None = None, scores: Tensor | None = None) -> Tokens:
        """The sequence with only some of its patches: what every pruner ends with.

        Args:
            index: (B, K) int64, which of the P patches stay, in the order wanted.
            fused: (B, F, D) tokens to put after them, made from the others.
            scores: (B, P) what the choice was made by.
        """
        start, stop = self.patches
        states = self.patch_states  # (B, P, D)
        kept = states.gather(1, index.unsqueeze(-1).expand(-1, -1, int(states.shape[2])))  # (B, K, D)
        source = index if self.source is None else self.source.gather(1, index)  # (B, K)
        extra = 0 if fused is None else int(fused.shape[1])
        if fused is not None:
            kept = torch.cat([kept, fused.to(kept.dtype)], 1)  # (B, K + F, D)
            source = torch.cat([source, source.new_full((int(source.shape[0]), extra), -1)], 1)
        mask = self.mask
        if mask is not None:
            left = torch.cat([mask[:, start:stop].gather(1, index), mask.new_ones(len(mask), extra)], 1)  # (B, K + F)
            mask = torch.cat([mask[:, :start], left, mask[:, stop:]], 1)
        return dataclasses.replace(
            self,
            x=torch.cat([self.x[:, :start], kept, self.x[:, stop:]], 1),
            mask=mask,
            patches=(start, start + int(index.shape[1]) + extra),
            source=source,
            scores=scores,
        )


@dataclass(frozen=True)
class Fused(Struct):
    """Words and picture after fusion."""

    text: Tokens  # (B, L, D)
    image: Tokens  # (B, N, D)

    @property
    def mask(self) -> Tensor | None:
        """Of both as one sequence, picture first, (B, N + L); None: all may be attended to."""
        parts = (self.image, self.text)
        if all(part.mask is None for part in parts):
            return None
        masks = [p.x.new_ones(p.x.shape[:2], dtype=torch.bool) if p.mask is None else p.mask for p in parts]
        return torch.cat(masks, 1)

    @property
    def memory(self) -> Tokens:
        """Both as one sequence, picture first: what a decoder attends to, (B, N + L, D)."""
        return Tokens(torch.cat([self.image.x, self.text.x], 1), mask=self.mask)


@dataclass(frozen=True)
class Masked(Struct):
    """Captions with hidden words, for masked language modelling: M positions a row, weight 0 where unused."""

    text: Text  # ids with the chosen words hidden
    positions: Tensor  # (B, M) int64
    targets: Tensor  # (B, M) int64, the words that stood there
    weights: Tensor  # (B, M) float


@dataclass(frozen=True)
class Prefixed(Struct):
    """Captions cut in two, for prefix language modelling."""

    prefix: Text  # what may be read
    suffix: Text  # what the decoder is fed: [CLS], then the words of the rest, then [SEP]


@dataclass(frozen=True)
class Regions(Struct):
    """Pictures with boxes, and the text that each picture's boxes go with, for patch-text alignment."""

    images: Tensor  # (R, 3, H, W) uint8
    text: Text  # (R, L)
    boxes: Tensor  # (R, M, 4) float, x0 y0 x1 y1 as shares of width and height; unused rows are zero
    blank: Tensor  # (R,) bool: the text is withheld and the boxes are all of the picture's


@dataclass(frozen=True)
class Batch(Struct):
    """One training step's data. What no objective asked for is None."""

    images: Tensor  # (B, 3, H, W) uint8; clips (B, T, 3, H, W)
    text: Text  # (B, L)
    masked: Masked | None = None
    prefixed: Prefixed | None = None
    regions: Regions | None = None
    labels: Tensor | None = None  # (B, C) float, 1 for each class that it shows; a row of zeros: nobody labelled it


@dataclass(frozen=True)
class Region:
    """A described part of a picture."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
    phrase: str  # as a person would point it out: "the small red star"
    label: str  # its class: "star"


@dataclass(frozen=True)
class Example:
    """A picture and all that is known of it, as evaluation and pictures need it."""

    key: str  # names it in messages: "scene 12"
    image: Tensor  # (3, H, W) uint8; a clip (T, 3, H, W)
    caption: str
    regions: tuple[Region, ...] = ()
    absent: str = ""  # a region phrase of something that is not in the picture
    questions: tuple[tuple[str, str], ...] = ()  # question, answer
    facts: Any = None  # what the data needs to tell whether a caption is true of a picture
    labels: tuple[str, ...] = ()  # the classes that it is labelled with


@dataclass(frozen=True)
class DataSpec:
    """What a model has to fit and a batch looks like, told without reading a data set."""

    image_size: int
    text_length: int  # L
    vocabulary: int
    masked: int = 1  # M, hidden words a row
    regions: int = 1  # R, rows of the region part
    splits: tuple[str, ...] = ()  # the held-out splits; empty: not known without reading
    absent: tuple[str, ...] = ()  # what the recipe names and is not here
    classes: tuple[str, ...] = ()
    frames: int = 0  # of a clip; 0: pictures


class BlockCues:
    """Keys and attention of the block that an ``in_block`` pruner stands in, computed when first asked for."""

    def __init__(self, look: Callable[[], tuple[Tensor, Tensor]] | None = None):
        self._compute = look
        self._value: tuple[Tensor, Tensor] | None = None

    def _get(self) -> tuple[Tensor, Tensor]:
        if self._compute is None:
            raise ValueError("keys and attention are known only to a pruner with place = 'in_block'")
        if self._value is None:
            self._value = self._compute()
        return self._value

    @property
    def keys(self) -> Tensor:
        """(B, heads, N, D / heads)"""
        return self._get()[0]

    @property
    def attention(self) -> Tensor:
        """(B, heads, N, N), rows sum to 1"""
        return self._get()[1]
