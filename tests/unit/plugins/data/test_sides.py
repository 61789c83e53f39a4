"""Left and right in the texts of mirrored images: swapped, unchanged, or not certain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.data.sides import flip_text, is_mirrorable

SWAPPED = [
    ("a star left of a circle", "a star right of a circle"),
    ("Left of it, on the right.", "Right of it, on the left."),
    ("LEFT", "RIGHT"),
    ("the leftmost giraffe drinks", "the rightmost giraffe drinks"),
    ("people on both sides, rightmost one waves", "people on both sides, leftmost one waves"),
    ("a bus facing leftward", "a bus facing rightward"),
    ("a left-handed batter", "a right-handed batter"),
    ("the right-hand side", "the left-hand side"),
    ("a Lefthanded man", "a Righthanded man"),
    ("upper-left corner", "upper-right corner"),
    ("bottom_left corner", "bottom_right corner"),
    ("the cat is to the LEFT", "the cat is to the RIGHT"),
    ("a man with his left hand raised", "a man with his right hand raised"),
    ("from left to right", "from right to left"),
    ("left, center and right", "right, center and left"),
    ("a cat on the right next to a dog", "a cat on the left next to a dog"),
    ("traffic cones in the far right lane of a freeway", "traffic cones in the far left lane of a freeway"),
    ("A baby stares to the left while taking a picture", "A baby stares to the right while taking a picture"),
    ("a dog running right", "a dog running left"),
    ("a red circle moves left.", "a red circle moves right."),
    ("a stop sign on the left", "a stop sign on the right"),
]
UNCHANGED = [
    "a bright copyright sign",
    "Cattle are grazing in a bright green pasture",
    "a brightly colored skirt",
    "an upright piano",
    "leftover food",
    "a cleft rock",
    "human rights march",
    "a playwright in Wright's house",
    "above",
    "",
]
UNCERTAIN = [
    "two slices of pizza left on a plate",
    "a man left his bike right next to a bench",
    "a bag left behind",
    "the window left open",
    "what is left of a sandwich",
    "traffic is moving right along",
    "a right angle",
    "in the right place",
    "on the right track",
    "all right",
    "Righty tighty",
    "a sign that reads no left turn",
    'a sign with "turn left"',
    "a clockwise spiral",
    "eine Katze links vom Sofa",
    "un chat \u00e0 gauche",
    "un perro a la izquierda",
    "\u4e00\u53ea\u732b\u5728\u5de6\u8fb9",
    "\u043a\u043e\u0442 \u0441\u043b\u0435\u0432\u0430",
    "\u0e41\u0e21\u0e27\u0e17\u0e32\u0e07\u0e0b\u0e49\u0e32\u0e22",
]
WORDS = ["left", "right", "Left", "RIGHT", "leftmost", "bright", "copyright", "a", "the", "on", "to", "of", "next"]
WORDS += ["hand", ",", ".", "upper-left", "thing", "moves"]


@pytest.mark.parametrize(("text", "mirrored"), SWAPPED)
def test_sides_are_swapped_with_their_case(text, mirrored):
    assert flip_text(text) == mirrored
    assert flip_text(mirrored) == text
    assert is_mirrorable(text)


@pytest.mark.parametrize("text", UNCHANGED)
def test_words_that_contain_the_letters_stay(text):
    assert flip_text(text) == text
    assert is_mirrorable(text)


@pytest.mark.parametrize("text", UNCERTAIN)
def test_texts_of_an_uncertain_side_are_not_mirrored(text):
    assert not is_mirrorable(text)
    assert flip_text(text) == text


@given(st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join))
def test_flipping_twice_gives_the_text(text):
    assert flip_text(flip_text(text)) == text
