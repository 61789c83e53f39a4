"""Composition of images from objects on a background, for ``scenes`` and ``cutouts``.

Objects are placed in jittered cells of a 3 x 3 grid and alpha-blended. plugins.data.drawing.captions describes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID_CELLS = 3  # in a row and in a column
MAX_JITTER = 0.07  # maximum shift of an object's centre, fraction of the image's side
MIN_ALPHA = 26  # of 256; below it a pixel counts as transparent


class Sprite(NamedTuple):
    """An image with transparency, trimmed to its visible part and prepared for blending."""

    colour: NDArray[np.uint16]  # (3, h, w) colour x alpha, 0 to 255 x 256
    rest: NDArray[np.uint16]  # (h, w) 256 - alpha: the weight of the background


class ObjectSpec(NamedTuple):
    """A kind of object; at most one object of an image has its ``noun``."""

    noun: str  # "red circle"
    label: str  # its class: "circle"
    article: str = "a"
    adjectives: tuple[str, ...] = ()  # in the order of use; none starts with a vowel

    def phrase(self, adjectives: Sequence[str] = ()) -> str:
        """Noun phrase with article: "an orange star", "a small orange star"."""
        article = "a" if adjectives and self.article == "an" else self.article
        return " ".join([article, *adjectives, self.noun] if article else [*adjectives, self.noun])


class PlacedObject(NamedTuple):
    """An object at a place in an image."""

    spec: ObjectSpec
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
    centre: tuple[float, float]  # x, y as fractions of the image's sides


def stream(*key: object) -> Random:
    """Random numbers that depend on the key alone, the same on every machine and Python version."""
    return Random(" ".join(map(str, key)))


def fraction(*key: object) -> float:
    """A number in [0, 1) that the key's hash decides."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=4).digest(), "big") / 2**32


def chosen(share: float, *key: object) -> bool:
    """Return True for a fraction ``share`` of all keys, selected by hash."""
    return fraction(*key) < share


def make_sprite(rgba: NDArray[np.uint8]) -> Sprite:
    """Trim an image (h, w, 4) to its visible part.

    Raises:
        ValueError: no pixel is visible.
    """
    alpha = np.rint(rgba[..., 3] * (256 / 255)).astype(np.uint16)  # (h, w)
    alpha[alpha < MIN_ALPHA] = 0
    down, across = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(down):
        raise ValueError("nothing of it is visible")
    window = np.s_[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    alpha, colour = alpha[window], rgba[..., :3][window].astype(np.uint16)
    return Sprite(np.ascontiguousarray((colour * alpha[..., None]).transpose(2, 0, 1)), 256 - alpha)


def layout(rng: Random, count: int) -> list[tuple[float, float]]:
    """Draw centres in distinct cells, x and y as fractions of the image's sides."""
    places = [divmod(cell, GRID_CELLS) for cell in rng.sample(range(GRID_CELLS * GRID_CELLS), count)]
    return [
        (
            (column + 0.5) / GRID_CELLS + rng.uniform(-MAX_JITTER, MAX_JITTER),
            (row + 0.5) / GRID_CELLS + rng.uniform(-MAX_JITTER, MAX_JITTER),
        )
        for row, column in places
    ]


def paste(
    canvas: NDArray[np.uint8], objects: Sequence[tuple[ObjectSpec, Sprite]], centres: Sequence[tuple[float, float]]
) -> list[PlacedObject]:
    """Blend objects into a square image (3, S, S) in place, each within its cell, so that they never overlap."""
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
    """Blend a sprite over a background, (3, h, w) -> (3, h, w)."""
    return ((window * sprite.rest + sprite.colour) >> 8).astype(np.uint8)


def stamp(canvas: NDArray[np.uint8], sprite: Sprite, x: float, y: float) -> None:
    """Blend a sprite into (3, S, S) in place, around a centre in fractions of S; clip it at the edges."""
    size, (height, width) = canvas.shape[1], sprite.rest.shape
    left, top = round(x * size - width / 2), round(y * size - height / 2)
    rows, columns = (slice(max(0, -at), max(0, size - at)) for at in (top, left))  # of the sprite, inside the canvas
    visible = Sprite(sprite.colour[:, rows, columns], sprite.rest[rows, columns])
    window = canvas[:, max(0, top) :, max(0, left) :][:, : visible.rest.shape[0], : visible.rest.shape[1]]  # (3, h, w)
    window[:] = blend(window, visible)


def _inside(centre: float, extent: int, size: int) -> int:
    """The first pixel of an extent around a centre, clamped to the centre's cell."""
    cell = int(centre * GRID_CELLS)
    first, last = -(-cell * size // GRID_CELLS), (cell + 1) * size // GRID_CELLS - extent
    return max(first, min(last, round(centre * size - extent / 2)))
