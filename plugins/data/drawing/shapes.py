"""Shapes, colours, textures and backgrounds of the embedded scenes, all computed. S is the image's side in pixels."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from plugins.data.drawing.compositing import Sprite, make_sprite

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]

COLOURS = {  # different hues, so that changed brightness or contrast does not confuse them
    "red": (228, 34, 40),
    "orange": (255, 136, 10),
    "yellow": (255, 232, 50),
    "green": (50, 190, 70),
    "cyan": (60, 220, 235),
    "blue": (50, 85, 240),
    "purple": (160, 60, 215),
    "white": (248, 248, 248),
}
SIZES = {"small": 12 / 64, "large": 18 / 64}  # side as a fraction of S
TEXTURES = ("plain", "striped", "dotted")
MARK_BRIGHTNESS = 0.5  # of a texture's marks, relative to the colour
SAMPLES_PER_PIXEL = 4  # along each axis


def _polygon(x: Plane, y: Plane, corners: list[tuple[float, float]]) -> Mask:
    """Mask of the inside of a polygon, by crossing number."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _star(x: Plane, y: Plane) -> Mask:
    angles = np.pi * np.arange(10) / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.43)
    return _polygon(
        x, y, [(float(r * np.sin(a)), float(0.08 - r * np.cos(a))) for a, r in zip(angles, radii, strict=True)]
    )


def _heart(x: Plane, y: Plane) -> Mask:
    u, v = x * 1.18, 0.15 - y * 1.15
    return (u**2 + v**2 - 0.72) ** 3 - 1.4 * u**2 * v**3 < 0


# masks over x and y in [-1, 1], y down; all but the crescent are their own mirror image
SHAPES: dict[str, Callable[[Plane, Plane], Mask]] = {
    "circle": lambda x, y: x**2 + y**2 < 0.92,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.84,
    "triangle": lambda x, y: (y < 0.86) & (abs(x) < 0.55 * (y + 0.96)),
    "diamond": lambda x, y: 1.45 * abs(x) + abs(y) < 1,
    "star": _star,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.96),
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.3),
    "heart": _heart,
    "crescent": lambda x, y: (x**2 + y**2 < 1) & ((x - 0.55) ** 2 + (y + 0.1) ** 2 > 0.62),
    "arrow": lambda x, y: ((y < -0.02) & (abs(x) < 0.98 * (y + 1))) | ((y >= -0.02) & (y < 1) & (abs(x) < 0.32)),
}


def _grid(side: int) -> tuple[Plane, Plane]:
    """x and y in [-1, 1] at sub-pixel centres, each (side, side)."""
    at = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(at, at)
    return x, y


def draw_shape(shape: str, colour: str, size: str, texture: str, image_size: int) -> Sprite:
    """Draw an anti-aliased shape for an image of ``image_size`` pixels."""
    return draw_scaled(shape, colour, SIZES[size], texture, image_size)


def draw_scaled(shape: str, colour: str, share: float, texture: str, image_size: int) -> Sprite:
    """Draw an anti-aliased shape whose side is a fraction ``share`` of the image's."""
    side = max(4, round(share * image_size))
    x, y = _grid(side * SAMPLES_PER_PIXEL)
    mask = SHAPES[shape](x, y)
    period = max(3.0, image_size / 16)  # pixels from one mark to the next
    u, v = (x + 1) / 2 * side / period, (y + 1) / 2 * side / period
    marks = np.zeros(mask.shape, bool)
    if texture == "striped":
        marks = v % 1 >= 0.5
    elif texture == "dotted":
        marks = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.36**2
    shade = np.where(marks, MARK_BRIGHTNESS, 1.0) * mask
    alpha = mask.reshape(side, SAMPLES_PER_PIXEL, side, SAMPLES_PER_PIXEL).mean((1, 3))
    light = shade.reshape(side, SAMPLES_PER_PIXEL, side, SAMPLES_PER_PIXEL).mean((1, 3)) / np.maximum(alpha, 1e-9)
    rgb = light[..., None] * np.array(COLOURS[colour])
    return make_sprite(np.rint(np.concatenate([rgb, 255 * alpha[..., None]], 2)).clip(0, 255).astype(np.uint8))


def _blurred(rng: np.random.Generator, side: int, cells: int) -> Plane:
    """Smooth noise in [0, 1], (side, side), from random values on a coarse grid."""
    coarse = rng.random((cells + 1, cells + 1))
    at = np.arange(side) / side * cells
    low, part = at.astype(int), at % 1
    part = part * part * (3 - 2 * part)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part)


def _pattern(rng: np.random.Generator, kind: int, side: int) -> Plane:
    """Draw brightness in about [0, 1], (side, side)."""
    x, y = _grid(side)
    turn = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(turn) + y * np.sin(turn)
    if kind == 0:  # a slope of light
        return (along + 1.2) / 2.4
    if kind == 1:  # clouds
        return 0.6 * _blurred(rng, side, 3) + 0.3 * _blurred(rng, side, 7) + 0.1 * _blurred(rng, side, 15)
    if kind == 2:  # soft waves
        bend = _blurred(rng, side, 3)
        return 0.5 + 0.4 * np.sin(along * rng.uniform(4, 10) + 4 * bend)
    if kind == 3:  # large tiles of uneven brightness
        count = int(rng.integers(3, 8))
        tile = ((x + 1) / 2 * count).astype(int), ((y + 1) / 2 * count).astype(int)
        return 0.15 + 0.6 * rng.random((count, count))[tile] + 0.15 * (along + 1) / 2
    if kind == 4:  # a spot of light
        far = np.hypot(x - rng.uniform(-0.7, 0.7), y - rng.uniform(-0.7, 0.7))
        return np.exp(-(far**2) * rng.uniform(0.8, 2))
    return 0.55 * _blurred(rng, side, 4) + 0.45 * _blurred(rng, side, side // 2)  # rough ground


def draw_background(number: int, side: int) -> NDArray[np.uint8]:
    """Draw background ``number``, (3, side, side), in muted colours, so that every shape stands out."""
    rng = np.random.default_rng([7, number])
    hue = rng.random()
    dark = colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.45), rng.uniform(0.1, 0.3))
    light = colorsys.hsv_to_rgb((hue + rng.uniform(-0.2, 0.2)) % 1, rng.uniform(0.05, 0.35), rng.uniform(0.35, 0.62))
    field = _pattern(rng, number % 6, side) + rng.normal(0, 0.03, (side, side))
    ends = np.array([dark, light])[..., None, None]  # (2, 3, 1, 1)
    picture = ends[0] + (ends[1] - ends[0]) * field.clip(0, 1)  # (3, side, side)
    return np.rint(255 * picture).astype(np.uint8)
