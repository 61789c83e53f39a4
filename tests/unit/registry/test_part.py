"""Parts: their settings, sizes that are filled in, bounds and errors."""

from __future__ import annotations

import pytest

from registry import Owner
from registry.part import (
    PRETRAINED,
    VOCABULARY,
    Between,
    Count,
    Filled,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PartError,
    Pretrained,
    Vocabulary,
    is_filled,
    parameters,
    settings_with,
)


class Layer:
    def __init__(self, *, width: Count = 3, weights: Pretrained = "", words: Vocabulary = "", dim: Filled[int]):
        if width > 9:
            raise ValueError(f"width: {width} is above 9")
        self.width, self.dim, self.weights = width, dim, weights
        self.ratio = dim / (width - 5)


class Outer:
    def __init__(self, *, inner: Part[Layer]):
        self.inner = inner(dim=1)


@pytest.mark.parametrize(
    ("bounds", "text", "inside", "outside"),
    [
        (Between(0, 1), "between 0 and 1", (0, 0.5, 1), (-0.001, 1.001)),
        (Between(1), "at least 1", (1, 1e9), (0.99,)),
        (Between(high=2.5), "at most 2.5", (-1e9, 2.5), (2.6,)),
        (Between(0, 0.999999), "between 0 and 0.999999", (0.999999,), (1,)),
    ],
)
def test_bounds_are_included(bounds, text, inside, outside):
    assert str(bounds) == text
    assert all(map(bounds.holds, inside))
    assert not any(map(bounds.holds, outside))


@pytest.mark.parametrize(
    ("hint", "base", "low", "high"),
    [
        (Fraction, float, 0, 1),
        (Count, int, 1, None),
        (NonNegativeInt, int, 0, None),
        (NonNegativeFloat, float, 0, None),
    ],
)
def test_annotations_of_numbers(hint, base, low, high):
    assert hint.__origin__ is base
    assert hint.__metadata__ == (Between(low, high),)


def test_parameters_have_their_resolved_annotations():
    assert list(parameters(Layer)) == ["width", "weights", "words", "dim"]
    assert [name for name, (hint, _) in parameters(Layer).items() if is_filled(hint)] == ["dim"]
    assert parameters(Layer)["width"][1].default == 3

    def function(first: int, *rest: int, last: str = "x", **others: int) -> None: ...

    assert list(parameters(function)) == ["first", "last"]


def test_settings_are_listed_by_mark():
    assert settings_with(Layer, PRETRAINED) == ["weights"]
    assert settings_with(Layer, VOCABULARY) == ["words"]
    assert settings_with(Outer, PRETRAINED) == []


def test_a_part_takes_only_the_sizes_of_its_signature():
    layer = Part(Layer, {"width": 4}, name="layer", kind="pooler")(dim=8, image_size=224)
    assert (layer.width, layer.dim, layer.weights) == (4, 8, "")
    assert layer.origin == "pooler 'layer'"


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (Part(Layer), "part 'Layer'"),
        (Part(Layer, name="l", kind="head"), "head 'l'"),
        (Part(Layer, name="l", owner=Owner("l", "patchbay-vl", "1.0")), "part 'l'"),
        (
            Part(Layer, name="l", owner=Owner("zoo", "their-parts", "2")),
            "part 'l' (plugin 'zoo' of distribution their-parts 2)",
        ),
    ],
)
def test_a_third_partys_part_is_named_with_its_owner(part, text):
    assert str(part) == text


def test_an_error_has_the_place_the_part_and_the_class_unless_it_is_a_value_error():
    where = "recipe.yaml:3:5: model.pooler"
    with pytest.raises(PartError) as caught:
        Part(Layer, {"width": 10}, name="layer", where=where)(dim=1)
    assert str(caught.value) == "recipe.yaml:3:5: model.pooler: part 'layer': width: 10 is above 9"
    with pytest.raises(PartError) as caught:
        Part(Layer, {"width": 5}, name="layer")(dim=1)
    assert str(caught.value) == "part 'layer': ZeroDivisionError: division by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_missing_size_is_an_error_of_the_part():
    with pytest.raises(PartError, match=r"part 'Layer': TypeError: .*'dim'"):
        Part(Layer)()


def test_an_error_of_an_inner_part_is_not_wrapped_again():
    inner = Part(Layer, {"width": 10}, name="inner", where="r.yaml:9:1: a")
    with pytest.raises(PartError) as caught:
        Part(Outer, {"inner": inner}, name="outer", where="r.yaml:1:1: b")()
    assert str(caught.value) == "r.yaml:9:1: a: part 'inner': width: 10 is above 9"
