"""Ids that are whole numbers in any spelling, and look-ups among them."""

from __future__ import annotations

from math import inf, nan

import pytest

from plugins.data.annotations.ids import IdTable, id_of
from plugins.data.bad_records import BadRecord


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1), (1.0, 1), (-0.0, 0), ("1", "1"), ("", ""), (10**17 + 1, 10**17 + 1), (2.0**53 - 1, 2**53 - 1)],
)
def test_ids(value, expected):
    key = id_of({"id": value}, "id")
    assert (key, type(key)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "record without id"),
        (None, "record without id"),
        ([1], "record without id"),
        (nan, "record without id"),
        (inf, "id is no whole number"),
        (1.5, "id is no whole number"),
        (1e17, "id is not exact"),  # as is 1e17 + 1
        (-(2.0**53), "id is not exact"),
    ],
)
def test_values_that_are_no_id(value, kind):
    with pytest.raises(BadRecord, match=r"\w") as caught:
        id_of({"image_id": value}, "image_id")
    assert (caught.value.kind, caught.value.place) == (kind, ".image_id")


def table(*keys) -> IdTable[int]:
    values: IdTable[int] = IdTable()
    for i, key in enumerate(keys):
        values[key] = i
    return values


@pytest.mark.parametrize(
    ("keys", "key", "place"),
    [
        ((1, 2), "2", 1),
        (("1", "2"), 2, 1),
        (("001", "002"), 2, 1),
        ((" 1", "2.0"), 2, 1),
        ((1, "1"), "1", 1),  # the same spelling has priority
        (("a", "b"), "b", 1),
        (("٢", "2"), 2, 1),  # other digits are text
    ],
)
def test_an_id_is_found_in_another_spelling(keys, key, place):
    assert table(*keys).find(key, "image", "") == place


@pytest.mark.parametrize(
    ("keys", "key", "kind"),
    [((1, "1"), "01", "ambiguous image"), (("01", "1.0"), 1, "ambiguous image"), ((1,), "1a", "unknown image")],
)
def test_an_id_that_is_not_found(keys, key, kind):
    with pytest.raises(BadRecord, match="id") as caught:
        table(*keys).find(key, "image", ".image_id")
    assert (caught.value.kind, caught.value.place) == (kind, ".image_id")


def test_ids_that_are_added_after_a_look_up_are_found():
    values = table(1)
    assert values.find("1", "image", "") == 0
    values[2] = 5
    assert values.find("2", "image", "") == 5
    assert (values.get(2), values.get("2")) == (5, None)
