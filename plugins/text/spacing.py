"""Usual spacing of decoded texts: subword tokenizers lose the blanks around punctuation.

The rules are those of English and of common signs elsewhere. Where a vocabulary does not record it, they cannot restore
which of two usual spellings a text had: a dash between two words becomes a hyphen.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from plugins.text.scripts import HAN, MARKS, UNSPACED

BLANK = "▁"  # token of a blank beside a character of a script without blanks

APOSTROPHES = frozenset("'’‘")
CLITICS = frozenset({"s", "t", "m", "d", "re", "ve", "ll"})
ELISIONS = frozenset(  # besides single letters: qu'il, dell'acqua
    "qu jusqu lorsqu puisqu quelqu presqu aujourd un dell nell all sull dall coll quell bell sant ma".split()  # noqa: SIM905
)
DASHED = frozenset("a an the this that these there it they we is are was with while his her their its".split())  # noqa: SIM905
JOINING = frozenset("_/\\·‐‑־׳״")
OPENING = frozenset("¿¡§@#")
CURRENCY = frozenset("$€£¥₩₹₽")
ALONE = frozenset("=*^`|•&+<>~%")  # keep their blanks, with the exceptions of _ties
DOMAINS = frozenset({"com", "org", "net"})
WIDE = "\u3001-\u3020\u3030\u303d\u30a0\u30fb\uff01-\uff65\uffe0-\uffee"  # punctuation as wide as a Han character

_PART = re.compile(rf"([{re.escape(string.punctuation)}]|[^\W_]+(?:[{MARKS}]|[^\W_])*|\S)")
_DIGITS = re.compile(r"(?<=\d) (?=\d|(?:st|nd|rd|th|s|d|k|am|pm)\b|x \d)|(?<=\d x) (?=\d)")

# where two neighbours touch, a blank between them was added by the tokenizer
MARKED_SEAM = re.compile(rf"[{UNSPACED}{BLANK}{WIDE}\u3099\u309a]")  # vocabularies that record blanks beside these
BERT_SEAM = re.compile(rf"[{HAN}{WIDE}]")
CLIP_SEAM = re.compile(rf"[{MARKS}{WIDE}]|\d[{HAN}]|[{HAN}]\d")


def join_words(text: str, seam: re.Pattern[str] = BERT_SEAM) -> str:
    """Remove the blanks that a tokenizer put around punctuation and between characters.

    Args:
        text: words and punctuation marks with a blank between any two; where there is none, none is added.
        seam: one of the above, found in a pair of neighbouring characters whose blank is the tokenizer's.
    """
    if seam is CLIP_SEAM:  # CLIP's tokenizer separates digits
        text = _DIGITS.sub("", text)
    parts: list[str] = []
    has_blank: list[bool] = []  # a blank before the part
    for word in text.split():
        pieces = _PART.findall(word)
        parts += pieces
        has_blank += [True] + [False] * (len(pieces) - 1)
    ties = _quotes(parts)
    for i in range(len(parts)):
        if i not in ties:
            ties[i] = _ties(parts, i)
    result = "".join(parts[:1])
    for i in range(1, len(parts)):
        touches = ties[i - 1][1] or ties[i][0] or seam.search(parts[i - 1][-1] + parts[i][0])
        result += parts[i] if touches or not has_blank[i] else f" {parts[i]}"
    return (result.replace(BLANK, " ") if seam is MARKED_SEAM else result).strip()


def _at(parts: Sequence[str], i: int) -> str:
    return parts[i].lower() if 0 <= i < len(parts) else ""


def _is_word(part: str) -> bool:
    return bool(part) and part[0].isalnum()


def _ties(parts: Sequence[str], i: int) -> tuple[bool, bool]:
    """Return True for each side, before and after, where part ``i`` joins its neighbour."""
    part, left, right, next_but_one = parts[i], _at(parts, i - 1), _at(parts, i + 1), _at(parts, i + 2)
    words = _is_word(left) and _is_word(right)
    numbers = left[-1:].isdigit() and right[:1].isdigit()
    if part in CURRENCY:
        return left[-1:].isdigit() and not right[:1].isdigit(), right[:1].isdigit()
    if _is_word(part) or unicodedata.category(part[0])[0] not in "PS" or len(part) > 1:
        return False, False
    if part == ".":
        initial = left.isalpha() and len(left) == 1 and right.isalpha() and len(right) == 1 and next_but_one == "."
        return True, numbers or initial or (words and (left == "www" or right in DOMAINS))
    if part == ",":
        return True, numbers and len(right) == 3 and right.isdigit()
    if part == ":":
        return True, numbers
    if part == "-":
        if not words:
            return left == "-", right == "-" or (not _is_word(left) and right[:1].isdigit())
        if right in DASHED and next_but_one != "-":
            return False, False
        return True, right not in ("and", "or", "to") or next_but_one == "-"  # two- and three-storey
    if part == "/" and left == "w" and right != "o":  # w/ cheese
        return True, False
    if part == "%":
        return left[-1:].isdigit(), False
    if part == "+":
        return left[-1:].isdigit() and not numbers, False
    if part == "&":
        letters = len(left) == len(right) == 1 and left.isalpha() and right.isalpha() and not {left, right} & {"a", "i"}
        return letters, letters  # r&b
    if part == "~":
        return False, right[:1].isdigit()
    if part in "<>":  # <tag>
        return part == ">" and _at(parts, i - 2) == "<", part == "<" and next_but_one == ">"
    if part in JOINING:
        return words or part == "_", words or part == "_"
    category = unicodedata.category(part)
    if part in OPENING or category in ("Ps", "Pi"):
        return part == "“" and "„" in parts[:i], part != "“" or "„" not in parts[:i]
    if category == "Pd":
        return numbers, numbers
    return category[0] == "P" and part not in ALONE, False


def _quotes(parts: Sequence[str]) -> dict[int, tuple[bool, bool]]:
    """Return the ties of apostrophes and straight quotes by their place."""
    ties: dict[int, tuple[bool, bool]] = {}
    marks = [i for i, part in enumerate(parts) if part == '"']
    numbers = [i for i in marks if _at(parts, i - 1)[-1:].isdigit()]
    inches = [i for i in numbers if _at(parts, i - 2) in APOSTROPHES]  # 5'10"
    if (len(marks) - len(inches)) % 2:  # 12"
        inches += [i for i in numbers if i not in inches][-1:]
    ties |= dict.fromkeys(inches, (True, False))
    _pair([i for i in marks if i not in ties], ties, parts)

    marks = [i for i, part in enumerate(parts) if part in APOSTROPHES]
    ties |= dict.fromkeys((i for i in marks if _is_inside_word(parts, i)), (True, True))
    marks = [i for i in marks if i not in ties]
    plural = [_at(parts, i - 1).endswith("s") and len(_at(parts, i - 1)) > 2 for i in marks]  # the dogs' bowls
    quotes: list[int] = []
    for k, i in enumerate(marks):
        rest = plural[k + 1 :]
        if plural[k] and len(quotes) % 2 == 0 and (rest[:1] != [False] or len(rest) % 2 == 0):
            ties[i] = (True, False)
        else:
            quotes.append(i)
    _pair(quotes, ties, parts)
    return ties


def _pair(quotes: Sequence[int], ties: dict[int, tuple[bool, bool]], parts: Sequence[str]) -> None:
    """Make every other quote an opening one; one without a partner is part of a word where it may be."""
    for k, i in enumerate(quotes):
        left, right = _at(parts, i - 1), _at(parts, i + 1)
        if k % 2 or not right:
            ties[i] = (True, False)
        elif k < len(quotes) - 1 or not _is_word(left) or parts[i] == '"' or right[0].isdigit() or right in ("n", "em"):
            ties[i] = (False, True)
        else:
            ties[i] = (True, left != "po" and _is_word(right))


def _is_inside_word(parts: Sequence[str], i: int) -> bool:
    """Return True for the apostrophe of it's, o'clock, l'homme or 5'10."""
    left, right = _at(parts, i - 1), _at(parts, i + 1)
    if not (_is_word(left) and _is_word(right)):
        return False
    if right in CLITICS:
        is_quoted_letter = (
            len(right) == 1 and _at(parts, i + 2) in APOSTROPHES and not (right == "t" and left[-1] == "n")
        )
        return not is_quoted_letter
    if left[-1].isdigit():
        return right[0].isdigit()
    is_letter = len(left) == 1 and left not in "ai" and _at(parts, i - 2) not in APOSTROPHES
    return is_letter or left in ELISIONS
