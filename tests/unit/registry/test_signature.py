"""Settings of classes and dataclasses, and annotations in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Optional

import pytest

from registry.part import FILLED, Between, Count, Filled, Fraction, Part, Pretrained
from registry.signature import REQUIRED, describe, is_list, is_mapping, settings_of, spell


@dataclass(frozen=True)
class Options:
    size: Count
    names: list[str] = field(default_factory=lambda: ["a"])
    rate: Fraction = 0.5
    computed: int = field(init=False, default=0)


class Layer:
    def __init__(self, width: int, *, rate: Fraction = 0.1, dim: Filled[int]): ...


def test_settings_of_a_dataclass_are_its_arguments():
    settings = settings_of(Options)
    assert {name: default for name, (_, default) in settings.items()} == {"size": REQUIRED, "names": ["a"], "rate": 0.5}
    assert settings["rate"][0] == Fraction
    assert settings_of(Options)["names"][1] is not settings["names"][1]  # a new list each time


def test_settings_of_a_class():
    assert {name: default for name, (_, default) in settings_of(Layer).items()} == {
        "width": REQUIRED,
        "rate": 0.1,
        "dim": REQUIRED,
    }


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "whole number"),
        (float, "number"),
        (bool, "true | false"),
        (str, "text"),
        (type(None), "null"),
        (Fraction, "number between 0 and 1"),
        (Count, "whole number at least 1"),
        (Annotated[float, Between(high=2)], "number at most 2"),
        (Pretrained, "text"),
        (Filled[int], f"whole number, {FILLED}"),
        (int | None, "whole number or null"),
        (Optional[str], "text or null"),  # noqa: UP045
        (Literal["a", 2, True], "a | 2 | true"),
        (Part[Layer], "part (Layer)"),
        (Part[Layer] | None, "part (Layer) or null"),
        (list[int], "list of whole number"),
        (Sequence[Fraction], "list of number between 0 and 1"),
        (tuple[str, ...], "list of text"),
        (tuple[float, float], "list of 2: number, number"),
        (Mapping[str, Part[Layer]], "mapping of names to part (Layer)"),
        (dict[str, bool], "mapping of names to true | false"),
        (list[Options], "list of {size, names, rate}"),
        (Layer, "Layer"),
    ],
)
def test_annotations_in_words(hint, text):
    assert describe(hint) == text


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (1, "1"), ("True", "True"), (None, "None")]
)
def test_values_as_in_yaml(value, text):
    assert spell(value) == text


@pytest.mark.parametrize(
    ("origin", "lists", "maps"),
    [
        (list, True, False),
        (Sequence, True, False),
        (tuple, False, False),
        (dict, False, True),
        (Mapping, False, True),
        (None, False, False),
    ],
)
def test_kinds_of_collections(origin, lists, maps):
    assert is_list(origin) is lists
    assert is_mapping(origin) is maps
