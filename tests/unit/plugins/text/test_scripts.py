"""Characters of scripts without blanks, with their marks."""

from __future__ import annotations

import re

import pytest

from plugins.text.scripts import CHARACTER, MARKS, UNSPACED


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("猫cat、か\u3099ｶﾞー々〇", "猫|か\u3099|ｶﾞ|ー|々|〇"),
        ("น้ำ๓ ฿ๆ", "น้ำ|๓|ๆ"),
        ("ព្រះ។ក", "ព្រះ|ក"),
        ("abc кот 검은 हिन्दी قطة 12", ""),
    ],
)
def test_characters_with_marks(text, characters):
    assert "|".join(re.findall(CHARACTER, text)) == characters


def test_sets():
    assert all(re.match(f"[{MARKS}]", mark) for mark in ("\u0301", "\u0e35", "\u094d", "\ufe0f", "\U000e0100"))
    assert not re.search(f"[{MARKS}]", "aé猫ก한😀_1 .")
    assert not re.search(f"[{UNSPACED}]", "aéкот한हि。、，！「」・ ")
