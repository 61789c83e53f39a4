"""Sprites, layout and blending of composed images, against arithmetic on single pixels."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from plugins.data.drawing import compositing
from plugins.data.drawing.compositing import ObjectSpec, Sprite, blend, layout, make_sprite, paste, stamp

SPEC = ObjectSpec("orange star", "star", "an", ("small", "striped"))


def solid(height: int, width: int, value: int = 200) -> Sprite:
    return make_sprite(np.full((height, width, 4), [value, value, value, 255], np.uint8))


@pytest.mark.parametrize(
    ("spec", "adjectives", "phrase"),
    [
        (SPEC, (), "an orange star"),
        (SPEC, ("small",), "a small orange star"),
        (SPEC._replace(article="the"), ("small", "striped"), "the small striped orange star"),
        (SPEC._replace(article=""), (), "orange star"),
        (SPEC._replace(article=""), ("small",), "small orange star"),
    ],
)
def test_noun_phrases(spec, adjectives, phrase):
    assert spec.phrase(adjectives) == phrase


def test_random_numbers_depend_on_the_key_alone():
    assert compositing.stream("a", 1).random() == compositing.stream("a", 1).random()
    assert compositing.stream("a", 1).random() != compositing.stream("a", 2).random()
    assert compositing.fraction("scene", 3) == compositing.fraction("scene 3")  # the key is its text


def test_hash_fractions_are_uniform():
    values = np.array([compositing.fraction("key", i) for i in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, 10, (0, 1))
    assert abs(counts - 400).max() < 80  # four standard deviations
    assert sum(compositing.chosen(0.3, "key", i) for i in range(4000)) == (values < 0.3).sum()
    assert not any(compositing.chosen(0.0, i) for i in range(50))
    assert all(compositing.chosen(1.0, i) for i in range(50))


def test_a_sprite_is_trimmed_to_its_visible_part():
    rgba = np.zeros((6, 7, 4), np.uint8)
    rgba[2:4, 3:6] = [10, 20, 30, 255]
    rgba[0, 0] = [255, 255, 255, 20]  # below MIN_ALPHA
    sprite = make_sprite(rgba)
    assert sprite.rest.shape == (2, 3)
    assert (sprite.rest == 0).all()
    assert sprite.colour[:, 0, 0].tolist() == [2560, 5120, 7680]


def test_an_invisible_image_is_no_sprite():
    with pytest.raises(ValueError, match="nothing of it is visible"):
        make_sprite(np.full((3, 3, 4), 20, np.uint8))


@pytest.mark.parametrize("alpha", [26, 64, 128, 200, 255])
def test_blending_is_the_weighted_mean(alpha):
    rng = np.random.default_rng(alpha)
    front = rng.integers(0, 256, (5, 5, 3), np.uint8)
    back = rng.integers(0, 256, (3, 5, 5), np.uint8)
    sprite = make_sprite(np.dstack([front, np.full((5, 5), alpha, np.uint8)]))
    exact = front.transpose(2, 0, 1) * (alpha / 255) + back * (1 - alpha / 255)
    result = blend(back, sprite)
    assert result.dtype == np.uint8
    assert abs(result - exact).max() <= 1.5  # alpha has 256 steps, and the result is rounded down


def test_centres_are_in_distinct_cells():
    for seed in range(20):
        centres = layout(Random(seed), 9)
        assert sorted((int(3 * x), int(3 * y)) for x, y in centres) == [(i, j) for i in range(3) for j in range(3)]
        assert all(abs(3 * at % 1 - 0.5) <= 3 * compositing.MAX_JITTER + 1e-9 for pair in centres for at in pair)


@pytest.mark.parametrize("size", [31, 64, 100])
def test_pasted_objects_never_overlap_and_change_nothing_else(size):
    rng, side = Random(size), size // 3
    canvas = np.zeros((3, size, size), np.uint8)
    centres = layout(rng, 9)
    placed = paste(canvas, [(SPEC, solid(side, side - i % 3)) for i in range(9)], centres)
    covered = np.zeros((size, size), int)
    for one in placed:
        x0, y0, x1, y1 = map(int, one.box)
        covered[y0:y1, x0:x1] += 1
        assert one.centre == ((x0 + x1) / 2 / size, (y0 + y1) / 2 / size)
    assert covered.max() == 1
    assert np.array_equal(canvas[0] == 200, covered == 1)


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.0, 0.0), (1.0, 0.5), (0.2, 0.95), (-0.05, 0.5)])
def test_a_stamp_is_clipped_at_the_edges(x, y):
    size, height, width = 20, 6, 4
    canvas = np.zeros((3, size, size), np.uint8)
    stamp(canvas, solid(height, width), x, y)
    rows, columns = np.mgrid[:size, :size]
    left, top = round(x * size - width / 2), round(y * size - height / 2)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    assert np.array_equal(canvas[1] == 200, inside)


def test_a_stamp_far_outside_changes_nothing():
    canvas = np.zeros((3, 20, 20), np.uint8)
    for x, y in ((-2.0, 0.5), (3.0, 0.5), (0.5, -2.0), (0.5, 3.0)):
        stamp(canvas, solid(6, 4), x, y)
    assert not canvas.any()
