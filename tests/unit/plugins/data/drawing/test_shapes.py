"""Shapes, textures and backgrounds of scenes: areas, symmetry, colours and contrast."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest

from plugins.data.drawing import shapes
from plugins.data.drawing.shapes import COLOURS, SHAPES, SIZES, TEXTURES, draw_background, draw_scaled, draw_shape

AT = (np.arange(400) + 0.5) / 200 - 1
X, Y = np.meshgrid(AT, AT)

AREAS = {  # of the square [-1, 1] x [-1, 1], by the formulas of geometry
    "circle": pi * 0.92,
    "square": 1.68**2,
    "triangle": 1.82 * 0.55 * 1.82,
    "diamond": 2 / 1.45,
    "cross": 2 * (1.92 * 0.6) - 0.6**2,
    "ring": pi * 0.7,
    "star": 5 * 1.08 * 0.43 * np.sin(pi / 5),
    "arrow": 0.98 * 0.98**2 + 0.64 * 1.02,
}


@pytest.mark.parametrize("shape", AREAS)
def test_areas(shape):
    area = SHAPES[shape](X, Y).mean() * 4
    assert area == pytest.approx(AREAS[shape], rel=0.01)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "crescent"])
def test_shapes_are_their_own_mirror_image(shape):
    mask = SHAPES[shape](X, Y)
    assert (mask != mask[:, ::-1]).mean() < 1e-4  # rounding at the outline


def test_masks_are_inside_their_square_and_differ():
    masks = [SHAPES[name](X, Y) for name in SHAPES]
    assert all(0.15 < mask.mean() < 0.75 for mask in masks)
    overlaps = [(a & b).sum() / (a | b).sum() for i, a in enumerate(masks) for b in masks[:i]]
    assert max(overlaps) < 0.85


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_shape_has_its_colour(colour):
    sprite = draw_shape("square", colour, "large", "plain", 128)
    centre = sprite.colour[:, sprite.rest.shape[0] // 2, sprite.rest.shape[1] // 2]
    assert tuple(centre // 256) == COLOURS[colour]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_fractions_of_the_image(size):
    for image_size in (64, 128, 224):
        sprite = draw_shape("square", "red", size, "plain", image_size)
        expected = 0.84 * SIZES[size] * image_size  # the square covers 0.84 of its frame
        assert abs(sprite.rest.shape[0] - expected) <= 2
        assert sprite.rest.shape[0] == sprite.rest.shape[1]
    assert max(draw_scaled("circle", "red", 0.001, "plain", 64).rest.shape) == 4  # at least 4 pixels


def test_textures_darken_half_of_a_shape_or_less():
    plain, striped, dotted = (draw_shape("square", "white", "large", t, 256).colour.mean() for t in TEXTURES)
    assert striped / plain == pytest.approx(0.75, abs=0.05)  # half of it at half the brightness
    assert dotted / plain == pytest.approx(1 - 0.5 * pi * 0.36**2, abs=0.05)


@pytest.mark.parametrize("number", range(6))
def test_backgrounds_are_fixed_and_darker_than_every_shape(number):
    image = draw_background(number, 48)
    assert (image.shape, image.dtype) == ((3, 48, 48), np.uint8)
    assert np.array_equal(image, draw_background(number, 48))
    assert not np.array_equal(image, draw_background(number + 6, 48))
    assert image.max() < max(shapes.COLOURS["blue"])
    assert image.std() > 3
