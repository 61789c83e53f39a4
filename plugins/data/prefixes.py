"""Places where a caption can be cut for prefix language modelling."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.kinds import Tokenizer
from core.types import Text
from plugins.text.scripts import CHARACTER, UNSPACED

_UNIT = re.compile(rf"{CHARACTER}|(?:(?!{CHARACTER})\S)+")  # a character of a script without blanks, or a word
_UNSPACED = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True)
class Cut:
    """A caption in two parts; their ids where they are parts of the whole caption's, otherwise None."""

    prefix: str
    suffix: str
    ids: tuple[list[int], list[int]] | None = None


def list_cuts(caption: str, tokenizer: Tokenizer) -> list[Cut]:
    """List the cuts of a caption with single blanks: before each word, and between characters without a blank.

    Beside a character of a script without blanks, the two parts have the tokens of the whole caption. A place inside a
    token is left out.
    """
    places = [match.start() for match in _UNIT.finditer(caption)] or [0]
    cuts = [Cut(caption[:place].rstrip(), caption[place:]) for place in places]
    if not _UNSPACED.search(caption):
        return cuts
    text = tokenizer([caption, *(part for cut in cuts for part in (cut.prefix, cut.suffix))])
    whole, *parts = (row_ids(text, row) for row in range(len(text.ids)))
    possible = []
    for place, cut, prefix, suffix in zip(places, cuts, parts[::2], parts[1::2], strict=True):
        blank = caption[place - 1 : place] in ("", " ")
        if blank and not _UNSPACED.search(cut.prefix[-1:] + cut.suffix[:1]):
            possible.append(cut)
            continue
        size = len(prefix) - 1  # without [SEP]
        if whole[:size] != prefix[:-1]:
            size = len(whole) - len(suffix) + 1 if whole[-len(suffix) + 1 :] == suffix[1:] else 0
        if 0 < size < len(whole) - 1:
            ids = ([*whole[:size], tokenizer.sep], [tokenizer.cls, *whole[size:]])
            possible.append(Cut(cut.prefix, cut.suffix, ids))
        elif blank:
            possible.append(cut)
    return possible


def row_ids(text: Text, row: int) -> list[int]:
    """Return the ids of a row of (B, L) without padding."""
    ids: list[int] = text.ids[row][text.mask[row]].tolist()
    return ids
