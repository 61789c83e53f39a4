"""Packed captions and boxes: numbering, clipping, order, and checks of single values."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from plugins.data.annotations.records import Records, box_of, clip, is_number, name_of, plain_path, text_of
from plugins.data.bad_records import BadRecord


def test_captions_and_boxes_are_ordered_by_image_and_then_by_file():
    records = Records()
    first, second, third = (records.image_number(name) for name in ("a.jpg", "b.jpg", "c.jpg"))
    for number, text in ((third, "c1"), (first, "a1"), (third, "c2"), (first, "a2")):
        records.add_caption(number, text)
    records.add_box(third, (0, 0, 2, 2), "a cat", "cat")
    records.add_box(second, (1, 1, 5, 6), "a dog", "dog")
    records.add_box(third, (0, 0, 3, 3), "something", "")
    records.pack()
    assert [records.captions_of(n) for n in range(3)] == [["a1", "a2"], [], ["c1", "c2"]]
    assert [[(b.phrase, b.box[2]) for b in records.box_labels(n)] for n in range(3)] == [
        [],
        [("a dog", 5.0)],
        [("a cat", 2.0), ("something", 3.0)],
    ]
    assert records.captioned.tolist() == [first, third]
    assert records.boxed.tolist() == [second, third]
    assert records.classes == ["cat", "dog"]  # sorted, without the empty class
    assert records.boxes.dtype == np.float32


def test_empty_records_can_be_packed():
    records = Records()
    records.pack()
    assert records.boxes.shape == (0, 4)
    assert (records.captions, records.classes) == ([], [])


def test_a_name_without_a_folder_matches_an_earlier_file_if_it_is_unique():
    records = Records()
    for name in ("train/1.jpg", "val/1.jpg", "val/2.jpg"):
        records.image_number(name)
    assert records.image_number("2.jpg") == 3  # the same file: no match by base name
    records = Records()
    for name in ("train/1.jpg", "val/1.jpg", "val/2.jpg"):
        records.image_number(name)
    records.begin_file()
    assert records.image_number("2.jpg") == 2
    assert records.image_number("1.jpg") == 3  # in two folders, so it is another image
    assert records.image_number("1.jpg") == 3
    assert records.image_number("other/2.jpg") == 4  # a name with a folder matches exactly


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        (".\\a\\./b.png", "a/b.png"),
        ("/a/./b.png", "/a/b.png"),
        ("../a/b.png", "../a/b.png"),
        ("a./.b.png", "a./.b.png"),
    ],
)
def test_spellings_of_a_path_are_one_image(name, path):
    assert plain_path(name) == path
    records = Records()
    assert records.image_number(path) == records.image_number(name) == 0
    assert records.names == [path]


def test_two_splits_of_an_image_are_named_with_both_places_and_it_does_not_train():
    records = Records()
    number = records.image_number("a.png")
    records.set_split(number, "validation", "one.json", "images[0]")
    records.set_split(number, "validation", "one.json", "images[1]")
    expected = "'a.png' is in train here and in validation in images[0]; it is not used for training"
    with pytest.raises(BadRecord) as caught:
        records.set_split(number, "train", "one.json", "images[2]")
    assert (caught.value.kind, str(caught.value)) == ("image in two splits", expected)
    assert records.split == {number: "validation"}
    with pytest.raises(
        BadRecord, match=r"is in test here and in validation in images\[0\] of one\.json; it is not used"
    ):
        records.set_split(number, "test", "two.json", "images[7]")
    with pytest.raises(BadRecord, match=r"is in train here and in test in images\[7\]; it is not used"):
        records.set_split(number, "train", "two.json", "images[8]")
    assert records.split == {number: "test"}


def test_two_files_must_agree_on_the_size():
    records = Records()
    records.size(0, 640, 480)
    records.size(0, 640, 480)
    with pytest.raises(BadRecord, match="is 480 x 640 here and 640 x 480 in another file") as caught:
        records.size(0, 480, 640)
    assert (caught.value.kind, caught.value.place) == ("size differs", ".width")
    assert records.sizes[0] == (640, 480)


def test_a_box_is_clipped_to_the_known_size_only():
    records = Records()
    records.size(0, 10, 8)
    records.add_box(0, (-3, 2, 20, 20), "a", "a")
    records.add_box(1, (-3, 2, 20, 30), "a", "a")
    records.image_number("x"), records.image_number("y")
    records.pack()
    assert records.box_labels(0)[0].box == (0, 2, 10, 8)
    assert records.box_labels(1)[0].box == (0, 2, 20, 30)


@pytest.mark.parametrize("box", [(10, 0, 12, 4), (-5, 0, 0.05, 4), (0, 8, 3, 9)])
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(BadRecord, match="lies outside the image of 10 x 8") as caught:
        clip(box, 10, 8, ".bbox")
    assert caught.value.place == ".bbox"


def test_a_box_left_of_an_image_of_unknown_size_is_refused():
    with pytest.raises(BadRecord, match=r"x0, y0, x1, y1 = -5, 0, -1, 4 lies outside the image$"):
        clip((-5, 0, -1, 4), inf, inf)


def test_corners_of_a_box():
    assert box_of([1, 2, 3.5, 4], "") == (1, 2, 4.5, 6)
    assert box_of((0, 0, 1, 1), "") == (0, 0, 1, 1)


@pytest.mark.parametrize("sides", [None, "1234", [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], [nan, 0, 1, 1], [0] * 5])
def test_what_is_no_box(sides):
    with pytest.raises(BadRecord) as caught:
        box_of(sides, ".bbox")
    assert caught.value.place == ".bbox"


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (-1, 5), (0.05, 5)])
def test_a_box_without_area(width, height):
    with pytest.raises(BadRecord, match=f"is {width:g} wide and {height:g} high; at least 0.1 is needed"):
        box_of([1, 1, width, height], "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, True), (-2.5, True), (True, False), (None, False), ("1", False), (inf, False), (nan, False), (1e7, False)],
)
def test_numbers(value, expected):
    assert is_number(value) is expected


def test_white_space_of_texts_and_names():
    assert text_of("  a\n cat\t on  it ", "caption", "") == "a cat on it"
    assert name_of(" a.jpg", "file name", "") == " a.jpg"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (None, "caption is no text", "expected text, found None"),
        ("", "empty caption", "is empty"),
        (" \n", "empty caption", "is blank"),
        ("x" * 2001, "caption too long", "has 2001 letters; at most 2000 are accepted"),
        ("a\ud800", "caption is no text", "surrogate pair at letter 1"),
    ],
)
def test_texts_that_are_refused(value, kind, message):
    with pytest.raises(BadRecord, match=message) as caught:
        text_of(value, "caption", ".caption")
    assert (caught.value.kind, caught.value.place) == (kind, ".caption")
