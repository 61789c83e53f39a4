"""Batches from numbered examples, as a pure function of seed and step.

Letters as in core.types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
import torch
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray
from torch import Tensor

from core.kinds import Tokenizer
from core.types import Batch, Example, Masked, Prefixed, Regions, Text
from plugins.data.augment import flip_some, jitter, region_view
from plugins.data.prefixes import list_cuts, row_ids
from plugins.data.sides import flip_text, is_mirrorable

CLASS_TEXT = "This is a {label}."  # for an object's class; COPA does not state its wording
CLASS_SHARE = 0.25  # share of region texts that name only the class; the others are phrases


@dataclass(frozen=True)
class BatchOptions:
    """Settings of the batches of a data part.

    Args:
        region_batch_size: rows of the region part, R.
        mask: share of words to hide in the masked part.
        flip: mirror half of the images, with left and right exchanged in their texts (plugins.data.sides).
        shade: range of the random change of brightness and contrast of the B images.
        blank: share of region rows whose text is left empty.
        classes: names of the labels; empty: no labels are made.
        mirror: returns an example as in the mirrored image, for the data's ``describes``; None: it does not depend on
            sides.
    """

    region_batch_size: int
    mask: float
    flip: bool = True
    shade: float = 0.2
    blank: float = 0.2
    classes: Sequence[str] = ()
    mirror: Callable[[Example], Example] | None = None


class Source(Protocol):
    """Training examples. All randomness comes from the generators passed in."""

    image_size: int
    boxed: Sequence[int]  # numbers of the training examples whose regions may be trained on

    def examples(self, size: int, rng: Generator) -> list[Example]:
        """Draw different examples with captions, each image (3, image_size, image_size).

        Raises:
            ValueError: there are fewer than ``size``.
        """

    def boxed_example(self, number: int, rng: Generator) -> Example:
        """Return an example of ``boxed``, or another if it is unusable; its image may have any size."""

    def describes(self, caption: Example, picture: Example) -> bool:
        """Return True if the first example's caption is true of the second's image."""


def make_batch(
    source: Source,
    tokenizer: Tokenizer,
    options: BatchOptions,
    step: int,
    *,
    size: int,
    seed: int,
    reads: frozenset[str],
) -> Batch:
    """Make the batch of a step.

    The same arguments give the same batch in any process; ``reads`` only adds parts to it.

    Args:
        size: number of images with captions, B.
        reads: additional parts: "masked", "prefixed", "regions", "labels", "truths".

    Raises:
        ValueError: there are fewer than ``size`` training images.
    """
    main, masked, prefixed, boxed = (default_rng(s) for s in SeedSequence([seed, step]).spawn(4))
    examples = source.examples(size, main)
    images, captions = torch.stack([e.image for e in examples]), [e.caption for e in examples]  # (B, 3, H, W)
    flips = np.zeros(len(examples), bool)  # (B,)
    if options.flip:
        images, captions, flips = flip_some(images, captions, main)
    text = tokenizer(captions)
    return Batch(
        images=jitter(images, main, options.shade),
        text=text,
        masked=mask_words(text, tokenizer, options.mask, masked) if "masked" in reads else None,
        prefixed=cut_captions(captions, tokenizer, prefixed) if "prefixed" in reads else None,
        regions=draw_regions(
            source, tokenizer, options.region_batch_size, boxed, flip=options.flip, blank=options.blank
        )
        if "regions" in reads and options.region_batch_size > 0 and len(source.boxed) > 0
        else None,
        labels=mark([e.labels for e in examples], options.classes) if "labels" in reads and options.classes else None,
        truths=find_truths(source, examples, flips, options.mirror) if "truths" in reads else None,
    )


def find_truths(
    source: Source,
    examples: Sequence[Example],
    flips: NDArray[np.bool_],
    mirror: Callable[[Example], Example] | None,
) -> Tensor:
    """Find which texts are true of which images, by the data's ``describes``.

    Args:
        flips: (B,) bool, True for rows whose image and text are mirrored.
        mirror: as in BatchOptions.

    Returns:
        (B, 2, B) uint8, as in core.types.Batch.
    """
    mirrors = [mirror(example) for example in examples] if mirror and flips.any() else examples
    truths = np.eye(len(examples), dtype=np.uint8) * 2  # (B, B), images by texts
    for row, picture in enumerate(examples):
        for column, example in enumerate(examples):
            # both mirrored is as good as neither
            caption = mirrors[column] if flips[row] != flips[column] else example
            if row != column and source.describes(caption, picture):
                truths[row, column] = 1
    return torch.from_numpy(np.stack([truths, truths.T], 1))  # (B, 2, B)


def mark(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> Tensor:
    """Encode labels as (B, C) floats: 1 for each class among a row's labels, zeros in a row without labels."""
    return torch.tensor([[float(name in row) for name in classes] for row in labels])


def draw_pairs(available: int, size: int, rng: Generator) -> list[int]:
    """Draw numbers below ``available`` without replacement, in pairs 2k, 2k + 1, which may be look-alikes.

    Raises:
        ValueError: there are fewer than ``size``.
    """
    pairs = ceil(size / 2)
    if 2 * pairs > available:
        raise ValueError(f"a batch of {size} images needs {2 * pairs} to draw from; there are {available}")
    first = 2 * rng.choice(available // 2, pairs, replace=False)
    return [int(n) for k in first for n in (k, k + 1)][:size]


def mask_words(text: Text, tokenizer: Tokenizer, share: float, rng: Generator) -> Masked:
    """Mask words like BERT: of the chosen ones 80 % become [MASK], 10 % another word, 10 % stay.

    In each row ``share`` of its words is chosen, at least one where it has any; [CLS], [SEP] and padding never are.
    M = ceil(share * L) positions a row, at least 1; unused ones point at [CLS] with weight 0.
    """
    ids = text.ids  # (B, L)
    rows, length = int(ids.shape[0]), int(ids.shape[1])
    frame = torch.tensor([tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask])
    real = text.mask & ~torch.isin(ids, frame)  # (B, L)
    words = real.sum(1)  # (B,)
    count = torch.minimum((share * words).round().long().clamp(min=1), words)  # (B,)

    order = torch.from_numpy(rng.random((rows, length))).masked_fill(~real, -1).argsort(1, descending=True)  # (B, L)
    used = torch.arange(max(1, ceil(share * length))) < count[:, None]  # (B, M)
    positions = torch.where(used, order[:, : used.shape[1]], 0)  # (B, M)
    targets = ids.gather(1, positions)  # (B, M)

    allowed = np.setdiff1d(np.arange(tokenizer.vocabulary), frame.numpy())
    random = torch.from_numpy(rng.choice(allowed, used.shape))  # (B, M)
    way = torch.from_numpy(rng.random(used.shape))  # (B, M)
    inputs = torch.where(way < 0.8, tokenizer.mask, torch.where(way < 0.9, random, targets))
    inputs = torch.where(used, inputs, targets)  # (B, M); unused ones write [CLS] over itself
    return Masked(Text(ids.scatter(1, positions, inputs), text.mask), positions, targets, used.float())


def cut_captions(captions: Sequence[str], tokenizer: Tokenizer, rng: Generator) -> Prefixed:
    """Cut each caption before a random word, for mPLUG's prefix language modelling.

    In scripts without blanks it is cut before a random character that starts a token. The prefix is [CLS] ... [SEP] and
    may have no word; the suffix has at least one. The suffix starts with [CLS] too, as a start token: the decoder is
    fed ``suffix.ids[:, :-1]`` and predicts ``suffix.ids[:, 1:]``, [SEP] included.
    """
    cuts = []
    for caption in captions:
        possible = list_cuts(" ".join(caption.split()), tokenizer)
        cuts.append(possible[int(rng.integers(len(possible)))])
    prefix, suffix = tokenizer([cut.prefix for cut in cuts]), tokenizer([cut.suffix for cut in cuts])
    if any(cut.ids for cut in cuts):
        ids = [cut.ids or (row_ids(prefix, row), row_ids(suffix, row)) for row, cut in enumerate(cuts)]
        prefix, suffix = (_pad_ids(part, tokenizer.pad) for part in zip(*ids, strict=True))
    return Prefixed(prefix, suffix)


def _pad_ids(rows: Sequence[list[int]], pad: int) -> Text:
    """Rows of ids to (B, L)."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, pad)  # (B, L)
    return Text(ids, torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None])


def draw_regions(
    source: Source, tokenizer: Tokenizer, rows: int, rng: Generator, *, flip: bool, blank: float
) -> Regions:
    """Draw views of images with boxes, each with a text and the boxes that the text describes.

    The text is the class of a random region that has one, with the boxes of all regions of that class, or the region's
    phrase, with the boxes of all regions of the same phrase (three in four); or it is empty (blank), with the boxes of
    all regions.
    """
    images, texts, boxes, blanks = [], [], [], []
    for i in rng.integers(len(source.boxed), size=rows):
        example = source.boxed_example(source.boxed[int(i)], rng)
        chosen = int(rng.integers(len(example.regions)))
        view = region_view(example, chosen, rng, source.image_size)
        mirror = flip and rng.random() < 0.5
        region, kept = example.regions[chosen], [example.regions[i] for i in view.kept]
        way = rng.random()  # below blank: no text; the rest is halved
        blanks.append(bool(way < blank))
        if blanks[-1]:
            text, named = "", [True] * len(kept)
        elif region.label and way < blank + (1 - blank) * CLASS_SHARE:
            text, named = CLASS_TEXT.format(label=region.label), [other.label == region.label for other in kept]
        else:
            text, named = region.phrase, [other.phrase == region.phrase for other in kept]
        if mirror and is_mirrorable(text):
            view, text = view.mirror(), flip_text(text)
        images.append(view.image)
        texts.append(text)
        boxes.append(view.boxes[torch.tensor(named)] / source.image_size)  # (n, 4)
    return Regions(
        images=jitter(torch.stack(images), rng),  # (R, 3, H, W)
        text=tokenizer(texts),
        boxes=_pad(boxes),
        blank=torch.tensor(blanks),
    )


def _pad(boxes: Sequence[Tensor]) -> Tensor:
    """Rows of (n, 4) to (R, M, 4), with zero boxes after each row's own."""
    return torch.nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)
