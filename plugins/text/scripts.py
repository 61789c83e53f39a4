"""Characters of the scripts that are written without blanks between words, as sets for regular expressions.

The sets are contents of brackets, for Python's ``re`` and for the tokenizers library.
"""

from __future__ import annotations

import unicodedata

HAN = "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_JAPANESE = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d\U0001aff0-\U0001b16f"
_BOPOMOFO_YI = "\u3105-\u312f\u31a0-\u31bf\ua000-\ua48c"
_SOUTH_EAST_ASIA = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf\U00011700-\U0001174f"  # Tai Le, New Tai Lue, Tai Tham, Tai Viet, Ahom
    "\ua980-\ua9df\u1b00-\u1b7f"  # Javanese, Balinese
)
_TIBETAN = "\u0f00-\u0fff"
UNSPACED = HAN + _JAPANESE + _BOPOMOFO_YI + _SOUTH_EAST_ASIA + _TIBETAN

# written as letters, but part of the character before: Thai and Lao am, half-width voicing marks
_TRAILING = "\u0e33\u0eb3\uff9e\uff9f"
_STACKERS = "\u17d2\u1039\u1a60"  # put the next letter below the one before


def _marks() -> str:
    """Return the ranges of all combining marks below the emoji."""
    ranges: list[list[int]] = []
    for code in range(0x300, 0x1F000):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


MARKS = _marks() + "\U000e0100-\U000e01ef" + _TRAILING
_LETTER = rf"(?=[^\W_])(?![{MARKS}])[{UNSPACED}]"
CHARACTER = rf"{_LETTER}[{MARKS}]*(?:(?<=[{_STACKERS}]){_LETTER}[{MARKS}]*)*"  # with what is written above and below it
