"""Invisible characters: removed where they change nothing, kept where a script or an emoji needs them."""

from __future__ import annotations

import pytest

from plugins.text.invisible import remove_invisible


@pytest.mark.parametrize(
    "text",
    [
        *("\u200b", "\u200c\u200d", "\ufeff", "\u2060\u00ad", "\x00", "\x7f\x9f", "\u200e\u202b\u2069", "\u180e"),
        *("\ufe0f", "\u3164", "\uffa0", "\u2800\u2800", "\u115f\u1160", "\U000e0001\U000e0061", "\u00a0\u3000 \u2028"),
        *("\u034f", "\u061c", " \u200b \u200d "),
    ],
)
def test_texts_without_a_visible_character_become_blank(text):
    assert not remove_invisible(text).strip()


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian: the letters are not joined
        "क\u094d\u200dष",  # Hindi: a half form
        "അവന\u0d4d\u200d",  # Malayalam: a joiner ends the word
        "\u1112\u1160\u11ab",  # Hangul: a filler is the vowel
        "葛\U000e0100城",  # a variant of an ideograph
        "\N{CAT}\u200d⬛",
        "I ❤\ufe0f you",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # flag of England
        "a\tb\nc \u00a0d",  # white space
    ],
)
def test_characters_that_a_script_or_an_emoji_needs_are_kept(text):
    assert remove_invisible(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffa cat", "a cat"),
        ("a c\u00adat\u200b", "a cat"),
        ("\u200dcat\u200c dog\u200d", "cat dog"),
        ("\u200e\u05d7\u05ea\u05d5\u05dc\u200f", "\u05d7\u05ea\u05d5\u05dc"),  # marks of direction around Hebrew
        ("a\u2800cat", "a cat"),
        ("a\x00 \x1bcat", "a cat"),
    ],
)
def test_other_invisible_characters_are_removed(text, expected):
    assert remove_invisible(text) == expected
