"""Pictures put together from things on a background.

Both ``scenes`` and ``cutouts`` end here: things are placed in jittered cells of a 3 x 3 grid and alpha-blended.
plugins.data.drawing.captions says what can truly be said of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CELLS = 3  # cells across and down
JITTER = 0.07  # greatest shift of a centre from its cell's, as a share of the picture's side
FAINT = 26  # alpha (of 256) below which a pixel counts as not there


class Sprite(NamedTuple):
    """A picture with transparency, trimmed to what is visible and made ready for blending."""

    colour: NDArray[np.uint16]  # (3, h, w) colour x alpha, 0 to 255 x 256
    rest: NDArray[np.uint16]  # (h, w) 256 - alpha: the share of the background that shows


class ObjectSpec(NamedTuple):
    """What can stand in a picture; ``noun`` tells it apart from all others there."""

    noun: str  # "red circle"
    label: str  # its class: "circle"
    article: str = "a"
    adjectives: tuple[str, ...] = ()  # further words that are true of it, in their order; none starts with a vowel

    def phrase(self, adjectives: Sequence[str] = ()) -> str:
        """With its article: "an orange star", "a small orange star"."""
        article = "a" if adjectives and self.article == "an" else self.article
        return " ".join([article, *adjectives, self.noun] if article else [*adjectives, self.noun])


class PlacedObject(NamedTuple):
    """A thing in its place."""

    spec: ObjectSpec
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
    centre: tuple[float, float]  # x, y as shares of the picture


def stream(*key: object) -> Random:
    """Random numbers that depend on the key alone, the same on every machine and Python."""
    return Random(" ".join(map(str, key)))


def fraction(*key: object) -> float:
    """A number in [0, 1) that the key's hash decides."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=4).digest(), "big") / 2**32


def chosen(share: float, *key: object) -> bool:
    """Whether the key belongs to a share of all keys, decided by its hash."""
    return fraction(*key) < share


def make_sprite(rgba: NDArray[np.uint8]) -> Sprite:
    """Trim a picture (h, w, 4) to its visible part.

    Raises:
        ValueError: nothing of it is visible.
    """
    alpha = np.rint(rgba[..., 3] * (256 / 255)).astype(np.uint16)  # (h, w)
    alpha[alpha < FAINT] = 0
    down, across = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(down):
        raise ValueError("nothing of it is visible")
    window = np.s_[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    alpha, colour = alpha[window], rgba[..., :3][window].astype(np.uint16)
    return Sprite(np.ascontiguousarray((colour * alpha[..., None]).transpose(2, 0, 1)), 256 - alpha)


def layout(rng: Random, count: int) -> list[tuple[float, float]]:
    """Centres in distinct cells, x and y as shares of the picture."""
    places = [divmod(cell, CELLS) for cell in rng.sample(range(CELLS * CELLS), count)]
    return [
        ((column + 0.5) / CELLS + rng.uniform(-JITTER, JITTER), (row + 0.5) / CELLS + rng.uniform(-JITTER, JITTER))
        for row, column in places
    ]


def paste(
    canvas: NDArray[np.uint8], objects: Sequence[tuple[ObjectSpec, Sprite]], centres: Sequence[tuple[float, float]]
) -> list[PlacedObject]:
    """Blend things into a square picture (3, S, S) in place. A thing larger than its jitter leaves room for is moved
    back towards the middle of its cell, so that things never overlap."""
    size = canvas.shape[1]
    placed = []
    for (spec, sprite), (x, y) in zip(objects, centres, strict=True):
        height, width = sprite.rest.shape
        left, top = _inside(x, width, size), _inside(y, height, size)
        window = canvas[:, top : top + height, left : left + width]  # (3, h, w)
        window[:] = blend(window, sprite)
        box = (float(left), float(top), float(left + width), float(top + height))
        placed.append(PlacedObject(spec, box, ((left + width / 2) / size, (top + height / 2) / size)))
    return placed


def blend(window: NDArray[np.uint8], sprite: Sprite) -> NDArray[np.uint8]:
    """A sprite over what is behind it, (3, h, w)."""
    return ((window * sprite.rest + sprite.colour) >> 8).astype(np.uint8)


def stamp(canvas: NDArray[np.uint8], sprite: Sprite, x: float, y: float) -> None:
    """Blend a sprite into (3, S, S) in place around a centre, shares of S; what reaches over an edge is cut off."""
    size, (height, width) = canvas.shape[1], sprite.rest.shape
    left, top = round(x * size - width / 2), round(y * size - height / 2)
    rows, columns = (slice(max(0, -at), max(0, size - at)) for at in (top, left))  # of the sprite, what is inside
    seen = Sprite(sprite.colour[:, rows, columns], sprite.rest[rows, columns])
    window = canvas[:, max(0, top) :, max(0, left) :][:, : seen.rest.shape[0], : seen.rest.shape[1]]  # (3, h, w)
    window[:] = blend(window, seen)


def _inside(centre: float, extent: int, size: int) -> int:
    """The first pixel of an extent around a centre, kept within the centre's cell."""
    cell = int(centre * CELLS)
    first, last = -(-cell * size // CELLS), (cell + 1) * size // CELLS - extent
    return max(first, min(last, round(centre * size - extent / 2)))
