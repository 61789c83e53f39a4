"""Texts of mirrored images: left and right swapped where they certainly name a side of the image.

Our own rules, for English. Three kinds of words are told apart: words that merely contain the letters (bright,
copyright) change nothing; left and right in a phrase of place (to the left, upper-left, leftmost, right hand) are
swapped; all others are not certain, such as "pizza left on a plate", "right next to", writing on signs, and words of
side in other languages. An image with a text of the last kind must not be mirrored.
"""

from __future__ import annotations

import re

OPPOSITE = {"left": "right", "right": "left"}
_PLACES = "top|bottom|upper|lower|middle|mid|center|centre|far|front|back|rear|near|extreme|outer|inner"
_BODY = "hand|hands|handed|hander|handers|side|sides|sided|arm|leg|foot|feet|eye|ear|shoulder|knee|wing|paw|corner"
_BODY += "|corners|edge|edges|half|lane|lanes|border|margin|panel|part|portion|third|wall|bank|page|column|cheek"
_ENDINGS = "most|ward|wards|hand|handed|hander|handers|side"
_WORD = re.compile(r"[a-z]*(?:left|right)[a-z]*", re.IGNORECASE)
_HARMLESS = re.compile(  # words with these letters that name no side, and never did
    r"(?:a|over|in|out|forth|down|birth|copy|up|f|b|w|play\w*|ship\w*|cart\w*|wheel\w*)right\w*|al(?:l)?right|c?cleft\w*"
    r"|b?bright\w*|leftovers?|right(?:s|eous\w*|ful\w*|ly)"
)
_SIDE = re.compile(rf"({_PLACES})?(left|right)({_ENDINGS})?")
_DETERMINED = re.compile(  # before the word: "to the far", "on its", "from", "facing", "top-", "moves slightly"
    rf"(?:\b(?:to|on|at|from|in|toward|towards|of|by|near)"
    rf"(?: (?:the|its|his|her|their|our|your|my|image|picture|photo))*"
    rf"(?: (?:{_PLACES}|immediate|very))*"
    rf"|\b(?:the|its|his|her|their|our|your|my)(?: (?:{_PLACES}|immediate|very))+"
    rf"|\b(?:{_PLACES})"
    rf"|\b(?:fac|look|turn|mov|head|point|lean|star|gaz|tilt|walk|run|fl|swim|driv|go|drift|slid|roll|glanc)"
    rf"(?:e|es|s|ed|ing|y|ies|ying|ning|ming)?(?: slightly)?)[ _-]$"
)
_FOLLOWED = re.compile(rf"[ _-](?:most|{_BODY})\b|[ _-](?:{_PLACES})\b(?! of)")
_OF = re.compile(r"[ _-]of (?!way\b|course\b)")
_REMAINS = re.compile(r"\b(?:what|whats|what's|all|little|nothing|much|that)(?: (?:is|was|are|were|remains))? $")
_NAMED = re.compile(r" (?:thing|one|star|half)\b")
_IDIOM = re.compile(r" (?:angle|away|time|way|size|answer|direction|track|amount|after|along)")  # after it: no side
_EITHER = re.compile(r" (?:now|place|before|next|behind|turns?\b)")  # after the word: a side only after ``_ON_THE``
_ON_THE = re.compile(r"\b(?:on|to|at) the $")
_ADVERB = re.compile(  # after the word: adverbs and past participles, of which only ``_DETERMINED`` makes sides
    r" (?:on|in|over|to|for|next|by|beside|behind|under|near|at|along|after|before|above|below|outside|inside|out"
    r"|the|a|an|his|her|its|their|my|your|our|this|that|some|up|down|off|into|through|across|past|back|from)\b"
)
_LISTED_BEFORE = re.compile(rf"\b(?:left|right|{_PLACES})(?:,| and| or|, and|, or| to) ?$")
_LISTED_AFTER = re.compile(rf"(?:,| and| or) (?:left|right|{_PLACES})\b")
_WRITING = re.compile(
    r"\b(?:reads?|reading|says?|saying|said|spells?|spelling|written|words?|labell?ed)\b|[\"\u201c\u201d]"
)
_OTHER = re.compile(  # sides in other languages, and turns
    r"\b(?:(?:counter|anti)?-?clockwise|links|linke[rnms]?|rechts|rechte[rnms]?|gauche|droite?|izquierd[ao]s?|derech[ao]s?"
    r"|sinistr[ao]|destr[ao]|esquerd[ao]s?|direit[ao]s?|linker\w*|rechter\w*|v\u00e4nster|h\u00f6ger|venstre|h\u00f8jre|h\u00f8yre"
    r"|lew(?:o|a|y|ej|ym)|praw(?:o|a|y|ej|ym)|vasemm\w*|oikea\w*|solunda|sa\u011f\w*|kiri|kanan)\b"
    r"|\b(?:\u0441)?(?:\u043b\u0435\u0432|\u043f\u0440\u0430\u0432)(?:\u0430|\u043e|\u044b|\u043e\u0439|\u0443\u044e|\u0430\u044f|\u0435\u0435)\w*"
    r"|\b\u0432(?:\u043b\u0435\u0432\u043e|\u043f\u0440\u0430\u0432\u043e)\b"
    r"|[\u5de6\u53f3]|\u0e0b\u0e49\u0e32\u0e22|\u0e02\u0e27\u0e32|\uc67c\ucabd|\uc624\ub978\ucabd"
    r"|\u064a\u0633\u0627\u0631|\u064a\u0645\u064a\u0646|\u05e9\u05de\u05d0\u05dc|\u05d9\u05de\u05d9\u05df"
    r"|\u092c\u093e(?:\u090f|\u092f\u0947)|\u0926\u093e(?:\u090f|\u092f\u0947)",
    re.IGNORECASE,
)


def flip_text(text: str) -> str:
    """Swap left and right for the mirrored image; a text of an uncertain side is returned unchanged."""
    swapped_text = _swap_sides(text)
    return text if swapped_text is None else swapped_text


def is_mirrorable(text: str) -> bool:
    """Return False for a text of an uncertain side: its image must not be mirrored."""
    return _swap_sides(text) is not None


def _swap_sides(text: str) -> str | None:
    if _OTHER.search(text):
        return None
    pieces, end = [], 0
    for match in _WORD.finditer(text):
        word = match[0].lower()
        if _HARMLESS.fullmatch(word):
            continue
        side = _SIDE.fullmatch(word)
        if side is None or not _is_side(side, text[: match.start()].lower(), text[match.end() :].lower()):
            return None
        start, stop = side.span(2)
        start, stop = match.start() + start, match.start() + stop
        pieces += [text[end:start], _match_case(OPPOSITE[side[2]], text[start:stop])]
        end = stop
    return "".join(pieces) + text[end:]


def _is_side(side: re.Match[str], before: str, after: str) -> bool:
    """Return True if a word names a side, from the lower-case text before and after it."""
    if _WRITING.search(before):
        return False
    if side[1] or side[3]:  # a compound: leftmost, bottomleft
        return True
    has_hyphen = before[-1:] in ("-", "_") or after[:1] in ("-", "_")
    if _FOLLOWED.match(after):
        return True
    if has_hyphen and not _DETERMINED.search(before):
        return False
    if _OF.match(after):
        return not _REMAINS.search(before)
    if _IDIOM.match(after):
        return False
    if _EITHER.match(after):
        return bool(_ON_THE.search(before))
    if _DETERMINED.search(before):
        return True
    alone = not before.strip(" .,;:!?()[]") and not re.match(r" *[^\W_]", after)
    if alone or (not before and _NAMED.match(after)):
        return True
    in_list = _LISTED_BEFORE.search(before) or _LISTED_AFTER.match(after)  # as in "left, centre and right"
    return bool(in_list) and not _ADVERB.match(after)


def _match_case(word: str, model: str) -> str:
    """Give a word the case of another one."""
    return word.upper() if model.isupper() else word.capitalize() if model[0].isupper() else word
