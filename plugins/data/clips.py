"""Embedded clips: a few frames of one shape that moves, numbered and deterministic; no file and no network.

T frames, S the picture's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from core import kinds
from core.hookspecs import hookimpl
from core.part import Between, Count, Natural, Share
from core.types import Batch, Example
from plugins.data import compose, shapes
from plugins.data.batching import make_batch
from plugins.data.compose import Sprite
from plugins.data.painter import BACKGROUNDS, COLOURS, SEEN, SEEN_SHAPES, Painter
from plugins.data.tokenizer import load_tokenizer, train_tokenizer

CORPUS = 1000  # training clips whose captions make the vocabulary
STEP = (0.1, 0.16)  # how far a shape moves from frame to frame, as a share of S
TURN = (math.pi / 4, math.pi / 3)  # by how much it goes on around its circle, whose radius is RADIUS of S
RADIUS = 0.2
SIDES, LEVELS = (0.16, 0.4), 12  # sizes, smallest and largest side as shares of S, evenly apart in their logarithms
GROWTH = (0.18, 0.28)  # how far from smallest to largest it grows from frame to frame
WAYS = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}  # across, down
CIRCLES = {"circles clockwise": 1, "circles anticlockwise": -1}
SIZES = {"grows": 1, "shrinks": -1}
MOTIONS = (*WAYS, *CIRCLES, *SIZES, "changes colour", "stands still")


class Pose(NamedTuple):
    """A shape in one frame."""

    colour: str
    size: float  # in [0, 1): from the smallest to the largest
    x: float  # of its centre, as a share of S; what leaves at one side comes in at the other
    y: float


class Clips(kinds.Data):
    """One shape that moves, grows, changes colour or stands still, and others that stand; the classes are the motions.

    No frame by itself says anything of the class: whatever leaves the picture on one side comes in on the other, and
    what has grown to the largest size begins anew at the smallest, so that place, size and colour in any one frame are
    drawn alike for all classes. Opposite motions are each other's reversal, so that who sees the frames without their
    order can tell at most 6 in 10. Splits: "validation" and "test" (other clips, other backgrounds).

    Args:
        image_size: side of the frames in pixels.
        frames: T, of each clip.
        still: greatest number of other shapes, which stand still.
        train_size: number of training clips.
        text_length: greatest number of tokens of a text.
        mask: share of a caption's words that masked language modelling hides.
        seed: of the clips; training draws them in an order of its own seed.
        vocabulary: a saved vocabulary; empty: a WordPiece vocabulary is made from the captions.
    """

    classes = MOTIONS
    boxed: Sequence[int] = ()

    def __init__(
        self,
        *,
        image_size: Annotated[int, Between(32, 1024)] = 64,
        frames: Annotated[int, Between(2, 64)] = 4,
        still: Natural = 1,
        train_size: Annotated[int, Between(1, 10_000_000)] = 60_000,
        text_length: Count = 24,
        mask: Share = 0.15,
        seed: Natural = 0,
        vocabulary: str = "",
    ):
        self.image_size, self.frames, self.still, self.seed = image_size, frames, still, seed
        self.train_size, self.text_length, self.mask = train_size, text_length, mask
        self._painter = Painter(image_size, seed)
        self._sprites: dict[tuple[str, str, int, str], Sprite] = {}
        self._held_out: dict[str, list[Example]] = {split: [] for split in self.splits()}
        self.tokenizer = load_tokenizer(vocabulary, text_length) if vocabulary else _made(text_length)

    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        return make_batch(
            self,
            self.tokenizer,
            step,
            size=size,
            seed=seed,
            reads=reads,
            regions=0,
            mask=self.mask,
            flip=False,  # a mirrored clip is of another class
            classes=self.classes,
        )

    def splits(self) -> Sequence[str]:
        return ("validation", "test")

    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """As many clips as asked for: there is no last one. Their classes take turns.

        Raises:
            ValueError: no such split.
        """
        return compose.first(self._held_out, split, count, self.draw)

    def labelled_examples(self, split: str, count: int) -> Sequence[tuple[Example, str]]:
        return [(example, example.labels[0]) for example in self.held_out(split, count)]

    def examples(self, size: int, rng: Generator) -> list[Example]:
        if size > self.train_size:
            raise ValueError(f"a batch of {size} clips needs as many to draw from; there are {self.train_size}")
        return [self.draw("train", int(number)) for number in rng.choice(self.train_size, size, replace=False)]

    def boxed_example(self, number: int, rng: Generator) -> Example:
        return self.draw("train", number)

    def draw(self, split: str, number: int) -> Example:
        """Clip ``number`` of a split."""
        rng = compose.stream("clip", self.seed, split, number)
        motion = rng.choice(MOTIONS) if split == "train" else MOTIONS[number % len(MOTIONS)]
        canvas = self._painter.canvas(rng, rng.randrange(*BACKGROUNDS[split]))  # (3, S, S)
        for _ in range(rng.randint(0, self.still)):
            shape, pose = drawn(rng)
            self._stamp(canvas, shape, rng.choice(shapes.TEXTURES), pose)
        shape, start = drawn(rng)
        texture, poses = rng.choice(shapes.TEXTURES), path(rng, motion, shape, start, self.frames)
        clip = np.stack([canvas] * self.frames)  # (T, 3, S, S)
        for frame, pose in zip(clip, poses, strict=True):
            self._stamp(frame, shape, texture, pose)
        return Example(
            key=f"{split} clip {number}",
            image=torch.from_numpy(clip),
            caption=caption(shape, poses, motion),
            labels=(motion,),
        )

    def _stamp(self, canvas: NDArray[np.uint8], shape: str, texture: str, pose: Pose) -> None:
        """Draw a shape into (3, S, S) in place, across the edges where it reaches over them."""
        level, side = int(pose.size * LEVELS), self.image_size
        key = (shape, pose.colour, level, texture)
        if key not in self._sprites:
            share = SIDES[0] * (SIDES[1] / SIDES[0]) ** (level / (LEVELS - 1))
            self._sprites[key] = shapes.draw_scaled(shape, pose.colour, share, texture, side)
        sprite = self._sprites[key]
        rows, columns = (
            (round(centre * side - extent / 2) + np.arange(extent)) % side
            for centre, extent in zip((pose.y, pose.x), sprite.rest.shape, strict=True)
        )
        window = np.s_[:, rows[:, None], columns]  # (3, h, w)
        canvas[window] = compose.blend(canvas[window], sprite)


def drawn(rng: Random) -> tuple[str, Pose]:
    """A shape at any place, of any size and of a colour that training shows it in."""
    shape, colour = rng.choice(SEEN)
    return shape, Pose(colour, rng.random(), rng.random(), rng.random())


def path(rng: Random, motion: str, shape: str, start: Pose, frames: int) -> list[Pose]:
    """The poses of a shape in each frame. Where ``start`` is drawn evenly, so is every one of them."""
    if motion in WAYS:
        (across, down), step = WAYS[motion], rng.uniform(*STEP)
        return [start._replace(x=start.x + across * step * t, y=start.y + down * step * t) for t in range(frames)]
    if motion in CIRCLES:
        first, turn = rng.uniform(0, 2 * math.pi), CIRCLES[motion] * rng.uniform(*TURN)
        angles = [first + turn * t for t in range(frames)]
        return [start._replace(x=start.x + RADIUS * math.cos(a), y=start.y + RADIUS * math.sin(a)) for a in angles]
    if motion in SIZES:
        growth = SIZES[motion] * rng.uniform(*GROWTH)
        return [start._replace(size=(start.size + growth * t) % 1) for t in range(frames)]
    if motion == "changes colour":
        after = rng.choice([colour for colour in COLOURS if colour != start.colour and shape in SEEN_SHAPES[colour]])
        change = rng.randrange(1, frames)
        return [start._replace(colour=start.colour if t < change else after) for t in range(frames)]
    return [start] * frames


def caption(shape: str, poses: Sequence[Pose], motion: str) -> str:
    """Such as: a red circle moves left; an orange star turns blue."""
    before, after = poses[0].colour, poses[-1].colour
    article = "an" if before[0] in "aeiou" else "a"
    return f"{article} {before} {shape} {motion if before == after else f'turns {after}'}"


def _made(length: int) -> kinds.Tokenizer:
    """The vocabulary of clips: the same at every size of frame and of training set."""
    rng, texts = compose.stream("clips"), []
    for number in range(CORPUS):
        shape, start = drawn(rng)
        motion = MOTIONS[number % len(MOTIONS)]
        texts.append(caption(shape, path(rng, motion, shape, start, 2), motion))
    return train_tokenizer(texts, length)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("clips", Clips)
