import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.types import Example, Region
from plugins.data.augment import flip_some, jitter, random_crop, region_view, squared
from plugins.data.randaugment import OPERATIONS, rand_augment

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def boxes(draw, side, least=1):
    x0, y0 = draw(st.integers(0, side - least)), draw(st.integers(0, side - least))
    return x0, y0, draw(st.integers(x0 + least, side)), draw(st.integers(y0 + least, side))


def example(*regions, height=64, width=64):
    """Grey, with the first region painted white."""
    image = torch.full((3, height, width), 100, dtype=torch.uint8)
    x0, y0, x1, y1 = (round(n) for n in regions[0])
    image[:, y0:y1, x0:x1] = 255
    return Example("a", image, "", tuple(Region(box, "the white box", "box") for box in regions))


@SETTINGS
@given(boxes(64, least=6), st.integers(0, 10_000), st.sampled_from([64, 96]))
def test_the_transformed_box_is_tight_around_what_it_framed(box, seed, size):
    view = region_view(example(box), 0, np.random.default_rng(seed), size)
    assert view.image.shape == (3, size, size)
    assert view.image.dtype == torch.uint8
    assert view.kept == (0,)
    white = view.image[0] > 178  # halfway: within a source pixel's half of the true edge
    down, across = white.any(1).nonzero().flatten(), white.any(0).nonzero().flatten()
    is_kept = torch.stack([across[0], down[0], across[-1] + 1, down[-1] + 1])
    # a crop is at least half of the side: one source pixel is at most 2 * size / 64 of the view's
    assert (view.boxes[0] - is_kept).abs().max() <= 2 * size / 64


@SETTINGS
@given(boxes(64), st.integers(0, 10_000), st.sampled_from([0.25, 0.5, 1.0]))
def test_the_chosen_box_is_wholly_inside(box, seed, least):
    view = region_view(example(box), 0, np.random.default_rng(seed), 64, least=least)
    x0, y0, x1, y1 = (view.boxes[0] / 64).tolist()
    assert 0 <= x0 < x1 <= 1
    assert 0 <= y0 < y1 <= 1
    # nothing was clipped, and the zoom is bounded: sides grew by a factor in [1, 1 / least]
    for is_kept, true in ((x1 - x0, (box[2] - box[0]) / 64), (y1 - y0, (box[3] - box[1]) / 64)):
        assert true - 1e-5 <= is_kept <= true / least + 1e-5


@SETTINGS
@given(st.integers(0, 10_000))
def test_a_crop_that_must_hold_everything_is_the_picture(seed):
    first = example((0, 0, 64, 64), (8, 16, 24, 40))
    view = region_view(first, 0, np.random.default_rng(seed), 64)
    assert torch.allclose(view.boxes[1], torch.tensor([8.0, 16, 24, 40]))
    assert torch.allclose(view.mirror().boxes[1], torch.tensor([40.0, 16, 56, 40]))


@SETTINGS
@given(boxes(64), st.lists(boxes(64), min_size=1, max_size=4), st.integers(0, 10_000))
def test_a_box_is_kept_when_more_than_half_of_it_is_inside(chosen, others, seed):
    whole = (0, 0, 64, 64)
    scene = example(chosen, *others, whole)
    view = region_view(scene, 0, np.random.default_rng(seed), 64)
    # the crop follows from the chosen box: no clipping happened to it, so its edges fix the map from pixels to shares
    x0, y0, x1, y1 = (view.boxes[0] / 64).tolist()
    wide, high = (chosen[2] - chosen[0]) / (x1 - x0), (chosen[3] - chosen[1]) / (y1 - y0)
    left, top = chosen[0] - x0 * wide, chosen[1] - y0 * high
    for i, (a, b, c, d) in enumerate((chosen, *others, whole)):
        inside = max(0, min(c, left + wide) - max(a, left)) * max(0, min(d, top + high) - max(b, top))
        share = inside / ((c - a) * (d - b))
        if abs(share - 0.5) > 1e-4:
            assert (i in view.kept) == (share > 0.5)
    assert view.boxes.min() >= 0
    assert view.boxes.max() <= 64
    assert len(view.boxes) == len(view.kept)


def test_exactly_half_is_not_kept():
    # both spans are forced: the first box fills half of the picture, and the crop is at least half of it
    scene = example((32, 0, 64, 64), (24, 0, 40, 8))
    is_kept = {}
    for seed in range(300):
        view = region_view(scene, 0, np.random.default_rng(seed), 64, least=0.5)
        left = round(64 - 32 * 64 / float(view.boxes[0, 2] - view.boxes[0, 0]))
        is_kept[left] = 1 in view.kept
    assert is_kept[32] is False
    assert is_kept[31] is True


def test_pictures_that_are_not_square():
    view = region_view(example((100, 10, 120, 40), height=48, width=128), 0, np.random.default_rng(0), 64)
    assert view.image.shape == (3, 64, 64)
    assert view.kept == (0,)


def test_pictures_and_their_texts_are_mirrored_together():
    images = torch.randint(0, 256, (200, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views, texts, _ = flip_some(images, ["left"] * 200, np.random.default_rng(0))
    for before, after, text in zip(images, views, texts, strict=True):
        assert torch.equal(after, before.flip(-1) if text == "right" else before)
    assert 70 < texts.count("right") < 130


def test_jitter_follows_its_definition():
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    brightness, contrast = np.random.default_rng(3).uniform(0.7, 1.3, (2, 5))
    out = jitter(images, np.random.default_rng(3), strength=0.3)
    assert out.dtype == torch.uint8
    for image, got, b, c in zip(images.double(), out, brightness, contrast, strict=True):
        bright = image * b
        grey = (0.299 * bright[0] + 0.587 * bright[1] + 0.114 * bright[2]).mean()
        expected = ((bright - grey) * c + grey).round().clamp(0, 255)
        assert (expected - got).abs().max() <= 1  # rounding in single precision
    assert torch.equal(jitter(images, np.random.default_rng(0), strength=0.0), images)


def test_jitter_keeps_grey_grey():
    grey = torch.full((8, 3, 4, 4), 120, dtype=torch.uint8)
    out = jitter(grey, np.random.default_rng(0), strength=0.5)
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 1], out[:, 2])
    assert len(out[:, 0, 0, 0].unique()) > 4  # each row has its own factors


def gradient(height, width):
    """Red says how far right, green how far down, in 200 steps."""
    across, down = torch.linspace(0, 200, width).expand(height, -1), torch.linspace(0, 200, height).expand(width, -1).T
    return torch.stack([across, down, torch.full((height, width), 50.0)]).round().to(torch.uint8)


@SETTINGS
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from([(90, 120), (160, 80), (64, 64)]))
def test_a_crop_is_a_part_of_the_wanted_size(seed, least, sides):
    image = random_crop(gradient(*sides), np.random.default_rng(seed), 64, least)
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.uint8
    across, down = (int(plane.max()) - int(plane.min()) for plane in image[:2])
    area, ratio = across * down / 200**2, across * sides[1] / (down * sides[0])
    assert least - 0.05 <= area <= 1
    if area < 0.95:  # else it may be the whole picture, of any proportions
        assert 3 / 4 - 0.06 <= ratio <= 4 / 3 + 0.06


def test_crops_differ_and_a_picture_of_one_row_has_some():
    crops = [random_crop(gradient(90, 120), np.random.default_rng(seed), 32, 0.5) for seed in (1, 1, 2)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])
    assert random_crop(gradient(1, 300), np.random.default_rng(0), 32, 0.5).shape == (3, 32, 32)
    assert squared(gradient(30, 300), 32).shape == (3, 32, 32)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_each_operation_keeps_shape_and_greyness(name, sign):
    grey = torch.from_numpy(np.random.default_rng(0).integers(20, 200, (1, 48, 48), np.uint8)).repeat(3, 1, 1)
    made = OPERATIONS[name](grey, sign)
    assert made.shape == grey.shape
    assert made.dtype == torch.uint8
    assert (made[0] == made[1]).all()  # no hue comes from nowhere
    assert (made[1] == made[2]).all()
    assert torch.equal(made, grey) == (name == "identity")


def test_translation_goes_the_way_it_says_by_seven_of_256():
    image = gradient(256, 256)
    moved = OPERATIONS["translate_x"](image, 1)
    assert torch.equal(moved[:, :, 7:], image[:, :, :-7])
    assert (moved[:, :, :7] == 128).all()
    assert torch.equal(OPERATIONS["translate_y"](image, -1)[:, :-7], image[:, 7:])


def test_randaugment_draws_every_operation_and_often_none():
    drawn = [rand_augment(gradient(32, 32), np.random.default_rng(seed)) for seed in range(300)]
    kept = sum(torch.equal(image, gradient(32, 32)) for image in drawn)
    assert 300 * 0.2 < kept < 300 * 0.45  # (1/2 + 1/2 * 1/10)^2 = 0.3
    assert len({image.numpy().tobytes() for image in drawn}) > 40  # of 13 * 13 that differ
    assert torch.equal(drawn[5], rand_augment(gradient(32, 32), np.random.default_rng(5)))


def test_images_of_uncertain_texts_are_not_mirrored():
    images = torch.randint(0, 256, (200, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["pizza left on a plate", "a bright day"] * 100
    views, after, _ = flip_some(images, texts, np.random.default_rng(0))
    assert after == texts
    is_mirrored = [not torch.equal(one, two) for one, two in zip(images, views, strict=True)]
    assert not any(is_mirrored[::2])
    assert 30 < sum(is_mirrored[1::2]) < 70


def test_a_mirrored_view_is_mirrored_back():
    view = region_view(example((2, 3, 9, 12)), 0, np.random.default_rng(3), 64)
    mirror = view.mirror()
    assert torch.equal(mirror.image, view.image.flip(-1))
    again = mirror.mirror()
    assert torch.equal(again.image, view.image)
    torch.testing.assert_close(again.boxes, view.boxes)
