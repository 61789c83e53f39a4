"""Characters that are not visible: removed from texts, except where they change the letters beside them."""

from __future__ import annotations

import re
import unicodedata

# displayed as a space: braille's blank, Hangul fillers
BLANKS = "\u2800\u3164\uffa0"
# control characters, except white space; soft hyphen, zero-width space, word joiner, marks of direction and of bytes
IGNORED = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f"
)
# between or after letters and emoji: joiners, variation selectors, fillers of syllables, tags of flags
JOINERS = "\u200c\u200d"
SELECTORS = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0080-\U000e0fff"
VIRAMA = 9  # combining class: a joiner after it selects the form of a letter at the end of a word, too

_ANY = re.compile(f"[{BLANKS}{IGNORED}{JOINERS}{SELECTORS}]")
_BLANK = re.compile(f"[{BLANKS}]")
_IGNORED = re.compile(f"[{IGNORED}]")
_LEADING = re.compile(rf"(?<!\S)[{JOINERS}{SELECTORS}]+")
_TRAILING = re.compile(rf"[{JOINERS}]+(?!\S)")


def remove_invisible(text: str) -> str:
    """Remove invisible characters; blanks become spaces. Joiners inside words, as in Persian and emoji, are kept."""
    if not _ANY.search(text):
        return text
    text = _LEADING.sub("", _IGNORED.sub("", _BLANK.sub(" ", text)))
    return _TRAILING.sub(_final_joiner, text)


def _final_joiner(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    return match.group()[0] if before and unicodedata.combining(before) == VIRAMA else ""
