"""Numbered scenes: combinations, twins and single objects."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch

from plugins.data.drawing.scene_painter import BACKGROUNDS, CLASSES, COLOURS, TRAINING, WITHHELD, Painter
from plugins.data.drawing.shapes import SHAPES


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(32, seed=5)


def test_ten_combinations_are_withheld_one_for_each_shape():
    assert len(WITHHELD) == 10
    assert len(TRAINING) == 70
    assert not set(WITHHELD) & set(TRAINING)
    assert [shape for shape, _ in WITHHELD] == list(SHAPES)
    assert max(Counter(colour for _, colour in WITHHELD).values()) == 2
    assert {colour for _, colour in WITHHELD} == set(COLOURS)
    assert len(set(CLASSES)) == 70


def test_held_out_backgrounds_are_not_in_training():
    numbers = {split: set(range(*span)) for split, span in BACKGROUNDS.items()}
    assert not numbers["train"] & (numbers["validation"] | numbers["test"])
    assert not numbers["validation"] & numbers["test"]
    assert numbers["withheld"] == numbers["test"]


def test_a_scene_depends_on_seed_split_and_number_only(painter):
    scene = painter.scene("train", 7)
    again = Painter(32, seed=5).scene("train", 7)
    assert torch.equal(scene.image, again.image)
    assert (scene.caption, scene.regions, scene.questions) == (again.caption, again.regions, again.questions)
    for other in (Painter(32, seed=6).scene("train", 7), painter.scene("test", 7), painter.scene("train", 9)):
        assert not torch.equal(scene.image, other.image)
    assert scene.key == "train scene 7"


def test_twins_have_the_same_places_and_colours_and_no_common_object(painter):
    twins = 0
    for pair in range(60):
        one, other = (painter.scene("validation", 2 * pair + i) for i in range(2))
        colours = [[noun.split()[0] for noun in scene.facts.objects] for scene in (one, other)]
        if [o.centre for o in one.facts.objects.values()] == [o.centre for o in other.facts.objects.values()]:
            twins += 1
            assert colours[0] == colours[1]
            assert not set(one.facts.objects) & set(other.facts.objects)
    assert 5 <= twins <= 27  # a quarter of 60, within four standard deviations


@pytest.mark.parametrize("twins", [0.0, 1.0])
def test_the_share_of_twins_changes_training_scenes_alone(twins):
    """All pairs have equal colours and other shapes with 1, none with 0; held-out scenes stay."""
    painter, plain = Painter(32, seed=5, twins=twins), Painter(32, seed=5)
    same = 0
    for pair in range(20):
        scenes = [painter.scene("train", 2 * pair + i).facts.objects for i in range(2)]
        colours, shapes = ([[noun.split()[i] for noun in scene] for scene in scenes] for i in range(2))
        same += colours[0] == colours[1] and all(one != other for one, other in zip(*shapes, strict=True))
        for split in ("validation", "test", "withheld"):
            assert torch.equal(painter.scene(split, pair).image, plain.scene(split, pair).image)
    assert same == 20 * twins


def test_withheld_scenes_have_a_withheld_object_first_and_training_scenes_none(painter):
    withheld = {f"{colour} {shape}" for shape, colour in WITHHELD}
    for number in range(20):
        assert next(iter(painter.scene("withheld", number).facts.objects)) in withheld
        assert not withheld & set(painter.scene("train", number).facts.objects)


def test_single_objects_take_each_class_in_turn(painter):
    singles = [painter.single("test", number) for number in range(len(CLASSES))]
    assert {label for single in singles for label in single.labels} == set(CLASSES)
    withheld = [painter.single("withheld", number).labels[0] for number in range(10)]
    assert set(withheld) == {f"{colour} {shape}" for shape, colour in WITHHELD}


@pytest.mark.parametrize("number", range(5))
def test_a_single_object_is_inside_its_box_with_its_class(painter, number):
    single = painter.single("train", number)
    (region,) = single.regions
    x0, y0, x1, y1 = region.box
    assert 0 <= x0 < x1 <= 32
    assert 0 <= y0 < y1 <= 32
    assert single.labels[0].endswith(f" {region.label}")
    assert region.phrase.endswith(single.labels[0])
    assert not single.absent.endswith(single.labels[0])


def test_a_canvas_is_a_copy(painter):
    first = painter.canvas(Random(0), 3)
    first[:] = 0
    assert painter.canvas(Random(0), 3).any()
