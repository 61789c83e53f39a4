"""Embedded data: clips of one moving shape, drawn by number, deterministic; no file and no network.

T frames, S the side of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from core import kinds
from core.hookspecs import hookimpl
from core.types import Batch, Example
from plugins.data.batching import BatchOptions, make_batch
from plugins.data.drawing import compositing, shapes
from plugins.data.drawing.compositing import Sprite
from plugins.data.drawing.scene_painter import BACKGROUNDS, TRAINING, Combination, Painter
from plugins.data.held_out import Cache, first_examples
from plugins.text.tokenizer import load_tokenizer, train_tokenizer
from registry.part import Between, Count, Fraction, NonNegativeInt, Vocabulary

TRAVEL = (0.3, 0.45)  # distance from the first frame to the last, as a share of S, horizontal or vertical
MIDDLE = (0.2, 0.8)  # its position half-way, as a share of S
SIDES, LEVELS = (0.14, 0.4), 16  # smallest and largest side as shares of S; number of sizes, spaced logarithmically
GROWTH = (0.4, 0.6)  # growth of a shape, as a share of the range from smallest to largest

MOTIONS = {  # factors of the change in x, y and size
    "moves left": (-1, 0, 0),
    "moves right": (1, 0, 0),
    "moves up": (0, -1, 0),
    "moves down": (0, 1, 0),
    "grows": (0, 0, 1),
    "shrinks": (0, 0, -1),
    "stands still": (0, 0, 0),
}


class Pose(NamedTuple):
    """A shape in one frame."""

    x: float  # of its centre, as a share of S
    y: float
    size: float  # from 0, the smallest, to 1, the largest


class Clips(kinds.Data):
    """Clips of one shape that moves, grows, shrinks or stands still; the classes are the motions.

    A single frame does not determine the class: position and size half-way have the same distribution in all classes,
    and the frames of a motion in reversed order are an equally likely clip of the opposite motion. So a model that
    receives one frame without its index, or all frames without their order, has an accuracy of at most 4/7.
    Splits: "validation" and "test" (other clips, other backgrounds).

    Args:
        image_size: side of the frames in pixels.
        frames: number of frames T of a clip.
        distractors: maximum number of other shapes, which stand still.
        train_size: number of training clips.
        text_length: maximum number of tokens of a text.
        mask: share of a caption's words that are masked for masked language modelling.
        seed: of the clips; `run.seed` decides their order in training.
        vocabulary: a saved vocabulary; empty: a WordPiece vocabulary is trained on the captions.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"still": "distractors"}
    classes = tuple(MOTIONS)
    boxed: Sequence[int] = ()

    def __init__(
        self,
        *,
        image_size: Annotated[int, Between(32, 1024)] = 64,
        frames: Annotated[int, Between(2, 64)] = 4,
        distractors: NonNegativeInt = 0,
        train_size: Annotated[int, Between(1, 10_000_000)] = 60_000,
        text_length: Count = 24,
        mask: Fraction = 0.15,
        seed: NonNegativeInt = 0,
        vocabulary: Vocabulary = "",
    ):
        self.image_size, self.frames, self.still, self.seed = image_size, frames, distractors, seed
        self.train_size, self.text_length = train_size, text_length
        self.options = BatchOptions(0, mask, flip=False, classes=self.classes)  # a mirrored clip is of another class
        self._painter = Painter(image_size, seed)
        self._sprites: dict[tuple[Combination, int, str], Sprite] = {}
        self._held_out: Cache = {split: [] for split in self.splits()}
        self.tokenizer = load_tokenizer(vocabulary, text_length) if vocabulary else _train_tokenizer(text_length)

    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        return make_batch(self, self.tokenizer, self.options, step, size=size, seed=seed, reads=reads)

    def splits(self) -> Sequence[str]:
        return ("validation", "test")

    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """Draw the first ``count`` clips of a split; their classes take turns, their number is unlimited.

        Raises:
            ValueError: no such split.
        """
        return first_examples(self._held_out, split, count, self.draw)

    def labelled_examples(self, split: str, count: int) -> Sequence[tuple[Example, str]]:
        return [(example, example.labels[0]) for example in self.held_out(split, count)]

    def examples(self, size: int, rng: Generator) -> list[Example]:
        """Draw different training clips.

        Raises:
            ValueError: there are fewer than ``size``.
        """
        if size > self.train_size:
            raise ValueError(f"a batch of {size} clips needs as many to draw from; there are {self.train_size}")
        return [self.draw("train", int(number)) for number in rng.choice(self.train_size, size, replace=False)]

    def boxed_example(self, number: int, rng: Generator) -> Example:
        return self.draw("train", number)

    def draw(self, split: str, number: int) -> Example:
        """Draw clip ``number`` of a split."""
        rng = compositing.stream("clip", self.seed, split, number)
        motion = rng.choice(self.classes) if split == "train" else self.classes[number % len(self.classes)]
        canvas = self._painter.canvas(rng, rng.randrange(*BACKGROUNDS[split]))  # (3, S, S)
        for _ in range(rng.randint(0, self.still)):
            self._stamp(canvas, rng.choice(TRAINING), rng.choice(shapes.TEXTURES), draw_pose(rng))
        combination, texture = rng.choice(TRAINING), rng.choice(shapes.TEXTURES)
        clip = np.stack([canvas] * self.frames)  # (T, 3, S, S)
        for frame, pose in zip(clip, path(rng, motion, draw_pose(rng), self.frames), strict=True):
            self._stamp(frame, combination, texture, pose)
        return Example(
            key=f"{split} clip {number}",
            image=torch.from_numpy(clip),
            caption=_caption(combination, motion),
            labels=(motion,),
        )

    def _stamp(self, canvas: NDArray[np.uint8], combination: Combination, texture: str, pose: Pose) -> None:
        """Draw a shape into (3, S, S) in place, cut off at the edges."""
        level, side = round(pose.size * (LEVELS - 1)), self.image_size
        key = (combination, level, texture)
        if key not in self._sprites:
            share = SIDES[0] * (SIDES[1] / SIDES[0]) ** (level / (LEVELS - 1))
            self._sprites[key] = shapes.draw_scaled(*combination, share, texture, side)
        compositing.stamp(canvas, self._sprites[key], pose.x, pose.y)


def draw_pose(rng: Random) -> Pose:
    """Draw position and size of a shape half-way through its clip."""
    return Pose(rng.uniform(*MIDDLE), rng.uniform(*MIDDLE), rng.uniform(GROWTH[1] / 2, 1 - GROWTH[1] / 2))


def path(rng: Random, motion: str, middle: Pose, frames: int) -> list[Pose]:
    """Compute the poses in all frames around the one half-way; reversed, they are a path of the opposite motion."""
    across, down, size = MOTIONS[motion]
    travel, growth = rng.uniform(*TRAVEL), rng.uniform(*GROWTH)
    shares = [t / (frames - 1) - 0.5 for t in range(frames)]  # of the path, from -1/2 to 1/2
    return [
        Pose(middle.x + across * travel * s, middle.y + down * travel * s, middle.size + size * growth * s)
        for s in shares
    ]


def _caption(combination: Combination, motion: str) -> str:
    """Write a caption, such as: a red circle moves left."""
    shape, colour = combination
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape} {motion}"


def _train_tokenizer(length: int) -> kinds.Tokenizer:
    """Train a vocabulary on all captions: the same for all frame sizes and sizes of the training set."""
    return train_tokenizer([_caption(combination, motion) for combination in TRAINING for motion in MOTIONS], length)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("clips", Clips)
