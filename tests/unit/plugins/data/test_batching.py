import re
from math import ceil

import numpy as np
import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from core.types import Batch, Example, Region, Struct, Text
from plugins.data.batching import (
    BatchOptions,
    cut_captions,
    draw_pairs,
    draw_regions,
    find_truths,
    make_batch,
    mask_words,
)
from plugins.data.drawing import captions
from plugins.objectives.pta import patch_labels
from plugins.text.tokenizer import train_tokenizer

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
ALL = frozenset({"masked", "prefixed", "regions"})
SHAPES = ("star", "circle", "square", "moon", "heart")


class Pictures:
    """A fake source: picture n has the constant colour n and says its number."""

    image_size = 32
    train_size = 200
    boxed = range(0, 200, 20)

    def draw(self, number: int) -> Example:
        rng = np.random.default_rng(number)
        regions = []
        for k in range(int(rng.integers(2, 5))):
            x0, y0 = (float(n) for n in rng.integers(0, 20, 2))
            regions.append(Region((x0, y0, x0 + 8, y0 + 10), f"the left thing {k}", str(rng.choice(SHAPES))))
        image = torch.full((3, 32, 32), number, dtype=torch.uint8)
        return Example(str(number), image, f"n {number} is left of a {regions[0].label}", tuple(regions))

    def examples(self, size, rng):
        return [self.draw(number) for number in draw_pairs(self.train_size, size, rng)]

    def boxed_example(self, number, rng):
        return self.draw(number)


SOURCE = Pictures()
TOKENIZER = train_tokenizer(
    [SOURCE.draw(n).caption for n in range(200)] + [f"This is a {s}. the left right thing 0123" for s in SHAPES],
    16,
    400,
)


def batch(step=0, **changes):
    arguments = {name: changes.pop(name, value) for name, value in {"size": 16, "seed": 1, "reads": ALL}.items()}
    options = BatchOptions(**({"region_batch_size": 8, "mask": 0.15} | changes))
    return make_batch(SOURCE, TOKENIZER, options, step, **arguments)


def tensors(struct: Struct) -> list[torch.Tensor]:
    found = []
    struct.map(lambda t: found.append(t) or t)
    return found


def same(one: Struct, two: Struct) -> bool:
    a, b = tensors(one), tensors(two)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_same_arguments_give_the_same_batch():
    assert same(batch(3), batch(3))
    assert not same(batch(3), batch(4))
    assert not same(batch(3), batch(3, seed=2))


def test_a_loader_can_pin_a_batch(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 0)
    made = batch()
    pinned = pin_memory(made)
    assert isinstance(pinned, Batch)
    for old, new in zip(tensors(made), tensors(pinned), strict=True):
        assert new is not old
        assert torch.equal(new, old)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_draw_the_same_batches(workers):
    loader = DataLoader(range(4), batch_size=None, num_workers=workers, collate_fn=batch)
    for step, drawn in enumerate(loader):
        assert same(drawn, batch(step))


def test_what_is_read_only_adds_to_the_batch():
    bare, full = batch(reads=frozenset()), batch()
    assert (bare.masked, bare.prefixed, bare.regions) == (None, None, None)
    assert torch.equal(bare.images, full.images)
    assert torch.equal(bare.text.ids, full.text.ids)
    for part in ALL:
        alone = batch(reads=frozenset({part}))
        assert same(getattr(alone, part), getattr(full, part))
        assert all(getattr(alone, other) is None for other in ALL - {part})


def test_shapes_and_types():
    made = batch()
    assert made.images.shape == (16, 3, 32, 32)
    assert made.images.dtype == torch.uint8
    assert made.masked.positions.shape == made.masked.targets.shape == made.masked.weights.shape
    assert made.prefixed.prefix.ids.shape[0] == made.prefixed.suffix.ids.shape[0] == 16
    assert made.regions.images.shape == (8, 3, 32, 32)
    assert made.regions.images.dtype == torch.uint8
    assert made.regions.boxes.shape[0] == 8
    assert made.regions.boxes.dtype == torch.float32
    assert made.regions.text.ids.shape[0] == 8
    assert made.regions.blank.dtype == torch.bool


@pytest.mark.parametrize("size", [1, 15, 16, 200])
def test_numbers_come_in_pairs_without_repetition(size):
    captions = [TOKENIZER.decode(ids) for ids in batch(size=size, reads=frozenset()).text.ids]
    numbers = [int(re.match(r"n (\d+)", caption)[1]) for caption in captions]
    assert len(set(numbers)) == len(numbers) == size
    for even, odd in zip(numbers[::2], numbers[1::2], strict=False):
        assert even % 2 == 0
        assert odd == even + 1


def test_more_pictures_than_there_are():
    with pytest.raises(ValueError, match="a batch of 201 images needs 202 to draw from; there are 200"):
        batch(size=201)


def test_flip_is_a_choice():
    words = [TOKENIZER.decode(ids) for ids in batch(size=64, flip=False, reads=frozenset()).text.ids]
    assert all("left" in caption for caption in words)
    words = [TOKENIZER.decode(ids) for ids in batch(size=64, reads=frozenset()).text.ids]
    assert 16 < sum("right" in caption for caption in words) < 48


@SETTINGS
@given(
    st.lists(st.integers(0, 14), min_size=1, max_size=8), st.sampled_from([0.0, 0.15, 0.5, 1.0]), st.integers(0, 999)
)
def test_masking(lengths, share, seed):
    text = TOKENIZER(["star " * n for n in lengths])
    made = mask_words(text, TOKENIZER, share, np.random.default_rng(seed))
    used = made.weights.bool()
    assert made.positions.shape[1] == max(1, ceil(share * text.ids.shape[1]))
    for row, words in enumerate(lengths):
        chosen = made.positions[row][used[row]].tolist()
        assert len(chosen) == len(set(chosen)) == (min(words, max(1, round(share * words))))
        assert all(1 <= position <= words for position in chosen)  # never [CLS], [SEP] or padding
        untouched = [i for i in range(text.ids.shape[1]) if i not in chosen]
        assert torch.equal(made.text.ids[row, untouched], text.ids[row, untouched])
    assert torch.equal(made.targets, text.ids.gather(1, made.positions))
    assert torch.equal(made.text.mask, text.mask)


def test_masking_is_80_10_10():
    ids = torch.full((400, 22), 50)
    ids[:, 0], ids[:, -1] = TOKENIZER.cls, TOKENIZER.sep
    made = mask_words(Text(ids, torch.ones_like(ids, dtype=torch.bool)), TOKENIZER, 0.5, np.random.default_rng(0))
    shown = made.text.ids.gather(1, made.positions)[made.weights.bool()]
    assert len(shown) == 4000
    assert (shown == TOKENIZER.mask).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (shown == 50).float().mean() == pytest.approx(0.1, abs=0.02)
    random = shown[(shown != TOKENIZER.mask) & (shown != 50)]
    assert len(random.unique()) > 50
    assert not set(random.tolist()) & {TOKENIZER.pad, TOKENIZER.cls, TOKENIZER.sep}
    # every position is as likely as any other
    counts = made.positions[made.weights.bool()].bincount(minlength=22)[1:21]
    assert counts.min() > 140
    assert counts.max() < 260


@SETTINGS
@given(st.lists(st.sampled_from(["star", "left", "right", "moon."]), min_size=1, max_size=12), st.integers(0, 999))
def test_prefix_and_suffix_make_up_the_caption(words, seed):
    made = cut_captions([" ".join(words)], TOKENIZER, np.random.default_rng(seed))
    prefix, suffix = made.prefix.ids[0].tolist(), made.suffix.ids[0].tolist()
    for ids in (prefix, suffix):
        assert ids[0] == TOKENIZER.cls
        assert ids[-1] == TOKENIZER.sep
    assert len(suffix) > 2  # there is always a word to predict
    if len(words) < 8:  # short enough not to be cut
        assert [*prefix[:-1], *suffix[1:]] == TOKENIZER([" ".join(words)]).ids[0].tolist()


def test_every_cut_is_drawn():
    made = cut_captions(["star moon star"] * 100, TOKENIZER, np.random.default_rng(0))
    assert made.prefix.mask.sum(1).unique().tolist() == [2, 3, 4]


def test_an_empty_caption_is_no_error():
    made = cut_captions([""], TOKENIZER, np.random.default_rng(0))
    assert made.prefix.ids.tolist() == made.suffix.ids.tolist() == [[TOKENIZER.cls, TOKENIZER.sep]]


class TwoStars:
    """One picture: two stars and a moon that fills it, so that every crop is the whole."""

    image_size, boxed = 32, (1,)

    def boxed_example(self, number, rng):
        assert number == 1
        regions = (
            Region((2, 2, 10, 10), "left thing", "star"),
            Region((20, 18, 28, 30), "right thing", "star"),
            Region((0, 0, 32, 32), "thing", "moon"),
        )
        return Example("1", torch.zeros(3, 32, 32, dtype=torch.uint8), "", regions)


def test_a_region_text_goes_with_its_boxes():
    made = draw_regions(TwoStars(), TOKENIZER, 300, np.random.default_rng(0), flip=True, blank=0.2)
    kinds = dict.fromkeys(["blank", "class", "phrase"], 0)
    for ids, boxes, blank in zip(made.text.ids, made.boxes, made.blank, strict=True):
        said, n = TOKENIZER.decode(ids), int((boxes[:, 2] > boxes[:, 0]).sum())
        assert (boxes[n:] == 0).all()
        kinds["blank" if blank else "class" if said.startswith("this is a") else "phrase"] += 1
        if blank:
            assert said == ""
            assert n >= 1
        elif said == "this is a star.":
            assert n in (1, 2)
        elif said in ("this is a moon.", "left thing", "right thing", "thing"):
            assert n == 1
        else:
            raise AssertionError(said)
        if n == 1 and said == "thing":
            assert boxes[0].tolist() == [0, 0, 1, 1]
    assert kinds["blank"] == pytest.approx(60, abs=25)
    assert kinds["class"] == pytest.approx(60, abs=25)
    assert kinds["phrase"] == pytest.approx(180, abs=35)


class Stars:
    """Three stars called so, in something that has a phrase and no class."""

    image_size, boxed = 32, (0,)

    def boxed_example(self, number, rng):
        stars = [Region((x, 4, x + 6, 12), "star", "star") for x in (2, 12, 22)]
        return Example(
            "0", torch.zeros(3, 32, 32, dtype=torch.uint8), "", (Region((0, 0, 32, 32), "thing", ""), *stars)
        )


def test_a_phrase_goes_with_all_regions_that_have_it_and_stands_for_a_class_that_is_not_there():
    made = draw_regions(Stars(), TOKENIZER, 200, np.random.default_rng(0), flip=True, blank=0.0)
    counts: dict[str, list[int]] = {}
    for ids, boxes in zip(made.text.ids, made.boxes, strict=True):
        counts.setdefault(TOKENIZER.decode(ids), []).append(int((boxes[:, 2] > boxes[:, 0]).sum()))
    assert set(counts) == {"thing", "star", "this is a star."}
    assert set(counts["thing"]) == {1}
    assert 30 < len(counts["thing"]) < 70  # one in four
    for said in ("star", "this is a star."):
        assert max(counts[said]) == 3
        assert min(counts[said]) >= 1  # a crop may lose the others


def test_a_blank_row_has_the_boxes_of_all_regions():
    made = draw_regions(SOURCE, TOKENIZER, 40, np.random.default_rng(0), flip=True, blank=1.0)
    assert made.blank.all()
    assert made.text.ids.tolist() == [[TOKENIZER.cls, TOKENIZER.sep]] * 40
    assert made.boxes.shape[1] == 4  # the most regions of any picture
    assert not draw_regions(SOURCE, TOKENIZER, 40, np.random.default_rng(0), flip=True, blank=0.0).blank.any()


def test_left_and_right_follow_the_mirror():
    class Halves:
        image_size, boxed = 32, (0,)

        def boxed_example(self, number, rng):
            sides = Region((0, 0, 10, 32), "left", "left"), Region((22, 0, 32, 32), "right", "right")
            return Example("0", torch.zeros(3, 32, 32, dtype=torch.uint8), "", sides)

    made = draw_regions(Halves(), TOKENIZER, 60, np.random.default_rng(0), flip=True, blank=0.0)
    for ids, box in zip(made.text.ids, made.boxes[:, 0], strict=True):
        # the thing said to be on the left touches the left edge of its view, mirrored or not
        if "left" in TOKENIZER.decode(ids):
            assert float(box[0]) == 0
            assert float(box[2]) < 0.7
        else:
            assert float(box[2]) == pytest.approx(1)
            assert float(box[0]) > 0.3
    lefts = sum("left" in TOKENIZER.decode(ids) for ids in made.text.ids)
    assert 15 < lefts < 45


def test_no_boxes_no_region_part():
    class Unboxed(Pictures):
        boxed = ()

    arguments = {"size": 4, "seed": 0, "reads": ALL}
    without, with_regions = BatchOptions(0, 0.15), BatchOptions(8, 0.15)
    assert make_batch(Unboxed(), TOKENIZER, with_regions, 0, **arguments).regions is None
    assert make_batch(SOURCE, TOKENIZER, without, 0, **arguments).regions is None
    assert make_batch(SOURCE, TOKENIZER, with_regions, 0, **arguments).regions is not None


@st.composite
def box_rows(draw):
    cell = st.integers(0, 64)
    rows, count = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    made = []
    for _ in range(rows * count):
        xs, ys = (sorted(draw(st.lists(cell, min_size=2, max_size=2, unique=True))) for _ in range(2))
        unused = draw(st.booleans())
        made.append([0, 0, 0, 0] if unused else [xs[0], ys[0], xs[1], ys[1]])
    return torch.tensor(made, dtype=torch.float32).view(rows, count, 4)


@SETTINGS
@given(box_rows(), st.sampled_from([(8, 8), (4, 16), (7, 5), (1, 1)]))
def test_patch_labels_against_a_loop(boxes, grid):
    down, across = grid
    expected = torch.zeros(len(boxes), down * across)
    for row, of_row in enumerate(boxes.tolist()):
        for x0, y0, x1, y1 in of_row:
            for r in range(down):
                for c in range(across):  # in integers: pixels of 64, times the grid's size
                    wide = min(x1 * across, (c + 1) * 64) - max(x0 * across, c * 64)
                    high = min(y1 * down, (r + 1) * 64) - max(y0 * down, r * 64)
                    if wide > 0 and high > 0:
                        expected[row, r * across + c] = 1
    assert torch.equal(patch_labels(boxes / 64, grid), expected)


def test_a_box_that_ends_on_a_patch_border_does_not_touch_the_next():
    side = 224
    for patch in range(14):
        edges = torch.tensor([[[patch * 16, 0, (patch + 1) * 16, side]]]) / side
        columns = patch_labels(edges * 1.0000001, (14, 14)).view(14, 14)
        assert columns.sum(0).nonzero().flatten().tolist() == [patch]


@pytest.mark.parametrize(("flip", "least", "most"), [(True, 15, 45), (False, 60, 60)])
def test_regions_are_mirrored_on_request_only(flip, least, most):
    class Left:
        image_size, boxed = 32, (0,)

        def boxed_example(self, number, rng):
            return Example("0", torch.zeros(3, 32, 32, dtype=torch.uint8), "", (Region((0, 0, 10, 32), "left", ""),))

    regions = draw_regions(Left(), TOKENIZER, 60, np.random.default_rng(0), flip=flip, blank=0.0)
    assert least <= sum("left" in TOKENIZER.decode(ids) for ids in regions.text.ids) <= most


def test_truths_of_single_objects_are_equal_combinations():
    """Captions of labelled images say shape and colour, or the shape alone, which are true of more images."""
    batch = small.data(labelled=1.0).batch(0, size=40, seed=0, reads=frozenset({"truths"}))
    assert batch.truths.shape == (40, 2, 40) and batch.truths.dtype == torch.uint8
    rows = torch.arange(40)
    assert (batch.truths[rows, :, rows] == 2).all()
    assert torch.equal(batch.truths[:, 1], batch.truths[:, 0].T)
    assert (batch.truths == 1).any(), "40 images of 70 combinations"
    assert small.data().batch(0, size=4, seed=0, reads=frozenset()).truths is None


def test_truths_follow_the_mirrored_rows():
    """A caption that names a side is true of its image and, mirrored, of the mirrored image, and of no mixture."""
    source = small.data()
    sides = [e for e in source.held_out("test", 40) if any("of" in way for _, way, _ in e.facts.relations)][:6]
    for flips in (np.zeros(12, bool), np.ones(12, bool), np.arange(12) >= 6):
        truths = find_truths(source, [*sides, *sides], flips, captions.mirror)[:, 0]  # each scene twice
        scenes = torch.arange(6)
        same_side = bool(flips[0] == flips[6])
        assert (truths[scenes, scenes + 6] == same_side).all() and (truths[scenes + 6, scenes] == same_side).all()


def test_mirrored_facts_are_those_of_the_mirrored_caption():
    for example in small.data().held_out("test", 30):
        mirror = captions.mirror(example)
        assert captions.describes(mirror, mirror)
        swaps = {"left of": "right of", "right of": "left of"}
        ways = [swaps.get(way, way) for _, way, _ in example.facts.relations]
        assert [way for _, way, _ in mirror.facts.relations] == ways
        for noun, one in example.facts.objects.items():
            x, y = mirror.facts.objects[noun].centre
            assert (x, y) == pytest.approx((1 - one.centre[0], one.centre[1]))
