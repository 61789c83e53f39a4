"""Tensors that pass between parts, as frozen dataclasses.

Letters: B images or texts, T frames of a clip, N tokens, P patches before a pruner, K patches that it keeps, L words,
D width, G width of a guide, R regions, M masked words, C classes, H x W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from registry.lazy import once

S = TypeVar("S", bound="Struct")


class Struct:
    """Base of the frozen dataclasses of tensors. The first dimension of each tensor is the batch."""

    def map(self: S, function: Callable[[Tensor], Tensor]) -> S:
        """Apply ``function`` to every tensor of any shape, those of nested structs included."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return value.map(function) if isinstance(value, Struct) else value

        assert dataclasses.is_dataclass(self)
        return type(self)(**{f.name: apply(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def to(self: S, device: torch.device | str) -> S:
        """Copy the tensors to a device."""
        return self.map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self: S) -> S:
        """Copy the tensors to page-locked memory; torch's DataLoader calls this for batches that go to a GPU."""
        return self.map(Tensor.pin_memory)

    def rows(self: S, index: Tensor | slice) -> S:
        """Select rows of the batch, (B, ...) -> (B', ...); a row may be repeated."""
        return self.map(lambda t: t[index])


@dataclass(frozen=True)
class Text(Struct):
    """Tokenized texts: [CLS], the words, [SEP], padding."""

    ids: Tensor  # (B, L) int64
    mask: Tensor  # (B, L) bool, False for padding


@dataclass(frozen=True)
class Tokens(Struct):
    """A sequence of hidden states: of an image, of a text, or of both.

    ``patches`` is the span [start, stop) of the image patches in the sequence, which includes fused tokens at its end.
    ``source`` gives for each token of that span the index of its patch in the image, -1 for a fused token; None: all
    patches are there, in order. ``scores`` are the logits of the latest pruner for the P patches that it chose from.
    """

    x: Tensor  # (B, N, D); frames of clips before they are joined: (B, T, N, D), and T likewise in the fields below
    pooled: Tensor | None = None  # (B, D), one state for the whole sequence
    mask: Tensor | None = None  # (B, N) bool, True: may be attended to; None: all
    patches: tuple[int, int] = (0, 0)
    source: Tensor | None = None  # (B, stop - start) int64
    scores: Tensor | None = None  # (B, P)

    @property
    def patch_states(self) -> Tensor:
        """The states of the patches alone, (B, P, D)."""
        return self.x[:, self.patches[0] : self.patches[1]]

    def keep(self, index: Tensor, fused: Tensor | None = None, scores: Tensor | None = None) -> Tokens:
        """Keep some of the patches: x (B, N, D) -> (B, N - P + K + F, D). A pruner returns the result of this call.

        Args:
            index: (B, K) int64, positions of the patches to keep among the current P, in the order of the result.
            fused: (B, F, D), tokens to insert after the kept patches, such as the average of the dropped ones.
            scores: (B, P), the logits of the choice; only recorded. PTA and the patch metrics call ``score`` instead.
        """
        start, stop = self.patches
        states = self.patch_states  # (B, P, D)
        kept = states.gather(1, index.unsqueeze(-1).expand(-1, -1, int(states.shape[2])))  # (B, K, D)
        source = index if self.source is None else self.source.gather(1, index)  # (B, K)
        extra = 0 if fused is None else int(fused.shape[1])
        if fused is not None:
            kept = torch.cat([kept, fused.to(kept.dtype)], 1)  # (B, K + F, D)
            source = torch.cat([source, source.new_full((int(source.shape[0]), extra), -1)], 1)  # (B, K + F)
        mask = self.mask
        if mask is not None:
            left = torch.cat([mask[:, start:stop].gather(1, index), mask.new_ones(len(mask), extra)], 1)  # (B, K + F)
            mask = torch.cat([mask[:, :start], left, mask[:, stop:]], 1)  # (B, N - P + K + F)
        return dataclasses.replace(
            self,
            x=torch.cat([self.x[:, :start], kept, self.x[:, stop:]], 1),  # (B, N - P + K + F, D)
            mask=mask,
            patches=(start, start + int(index.shape[1]) + extra),
            source=source,
            scores=scores,
        )


@dataclass(frozen=True)
class Fused(Struct):
    """Text and image after fusion."""

    text: Tokens  # (B, L, D)
    image: Tokens  # (B, N, D)

    @property
    def mask(self) -> Tensor | None:
        """The mask of both as one sequence, image first, (B, N + L) bool; None: all may be attended to."""
        parts = (self.image, self.text)
        if all(part.mask is None for part in parts):
            return None
        masks = [p.x.new_ones(p.x.shape[:2], dtype=torch.bool) if p.mask is None else p.mask for p in parts]
        return torch.cat(masks, 1)  # (B, N + L)

    @property
    def memory(self) -> Tokens:
        """Both as one sequence, image first, (B, N + L, D): the sequence that a decoder cross-attends to."""
        return Tokens(torch.cat([self.image.x, self.text.x], 1), mask=self.mask)  # (B, N + L, D)


@dataclass(frozen=True)
class Masked(Struct):
    """Captions with masked words, for masked language modelling."""

    text: Text  # (B, L), the chosen words replaced by [MASK]
    positions: Tensor  # (B, M) int64, of the masked words
    targets: Tensor  # (B, M) int64, the original words
    weights: Tensor  # (B, M) float, 0 for unused positions


@dataclass(frozen=True)
class Prefixed(Struct):
    """Captions split in two, for prefix language modelling."""

    prefix: Text  # (B, L), input of the text encoder
    suffix: Text  # (B, L'), input of the decoder: [CLS], the remaining words, [SEP]


@dataclass(frozen=True)
class Regions(Struct):
    """Images with boxes and the text that describes them, for patch-text alignment (COPA, PTA)."""

    images: Tensor  # (R, 3, H, W) uint8
    text: Text  # (R, L)
    boxes: Tensor  # (R, M, 4) float, x0 y0 x1 y1 as fractions of width and height; unused rows are zero
    blank: Tensor  # (R,) bool, True: the text is not used as a guide, and the boxes are all boxes of the image


@dataclass(frozen=True)
class Batch(Struct):
    """The data of one training step. A field that no objective uses is None."""

    images: Tensor  # (B, 3, H, W) uint8; clips (B, T, 3, H, W)
    text: Text  # (B, L)
    masked: Masked | None = None
    prefixed: Prefixed | None = None
    regions: Regions | None = None
    labels: Tensor | None = None  # (B, C) float, 1 for each class of the image; a row of zeros: not labelled
    truths: Tensor | None = (
        None  # (b, 2, B) uint8: [i, 0, j] text j is true of image i, [i, 1, j] text i of j; 2: i = j
    )


@dataclass(frozen=True)
class Region:
    """A described part of an image."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
    phrase: str  # a short description: "the small red star"
    label: str  # its class: "star"


@dataclass(frozen=True)
class Example:
    """One image with its annotations, for evaluation."""

    key: str  # identifies it in messages: "scene 12"
    image: Tensor  # (3, H, W) uint8; a clip (T, 3, H, W)
    caption: str
    regions: tuple[Region, ...] = ()
    absent: str = ""  # a region phrase that describes nothing in the image
    questions: tuple[tuple[str, str], ...] = ()  # question, answer
    facts: Any = None  # anything that the data's method ``describes`` needs to compare a caption with an image
    labels: tuple[str, ...] = ()  # its classes


@dataclass(frozen=True)
class DataSpec:
    """Sizes of a data set that a model and a batch depend on, known before the data set is read."""

    image_size: int  # pixels
    text_length: int  # L, maximum number of words
    vocabulary: int  # V, number of words
    masked: int = 1  # M, masked words in a text
    regions: int = 1  # R, rows of ``Batch.regions``
    splits: tuple[str, ...] = ()  # held-out splits; empty: known only after reading
    absent: tuple[str, ...] = ()  # files that the recipe names and that do not exist
    classes: tuple[str, ...] = ()
    frames: int = 0  # T, frames of a clip; 0: images


class BlockCues:
    """Keys and attention of the block that an ``in_block`` pruner stands in, computed at the first access.

    Raises:
        ValueError: at access by a pruner that stands after a block.
    """

    def __init__(self, attention_maps: Callable[[], tuple[Tensor, Tensor]] | None = None):
        self._compute = attention_maps

    @once
    def _maps(self) -> tuple[Tensor, Tensor]:
        """The keys (B, heads, N, D / heads) and the attention weights (B, heads, N, N)."""
        if self._compute is None:
            raise ValueError("keys and attention are known only to a pruner with place = 'in_block'")
        return self._compute()

    @property
    def keys(self) -> Tensor:
        """The attention's keys, (B, heads, N, D / heads)."""
        return self._maps[0]

    @property
    def attention(self) -> Tensor:
        """The attention weights, (B, heads, N, N); each row sums to 1."""
        return self._maps[1]
