"""The vocabulary of ``coco``: loaded, trained on the captions, or only its size if the file is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from core.files import paths
from core.kinds import Tokenizer
from plugins.data.annotations.image_source import ImageSource
from plugins.data.annotations.read import similar_name
from plugins.data.bad_records import LOG
from plugins.data.batching import CLASS_TEXT
from plugins.text.tokenizer import load_tokenizer, train_tokenizer

MAX_TRAINED_PIECES = 8000
MAX_TRAINING_TEXTS = 100_000  # captions of a source that a vocabulary is trained on, and as many phrases
MAX_CHECKED_CAPTIONS, CHECKED_TOGETHER = 10_000, 500  # of a source, for unknown tokens
ASCII_WORD = re.compile("[A-Za-z0-9]")
BERT_PIECES = 30_522  # BERT-base-uncased


def check_vocabulary(path: str) -> None:
    """Refuse a missing file before any annotation is read.

    Raises:
        ValueError: no such file or folder; names it, the setting, and the remedy.
    """
    if path and not paths.exists(path):
        raise ValueError(
            f"vocabulary: no file or folder {path!r}{similar_name(path)}. Training and evaluation need it: put a "
            "tokenizer.json or a vocab.txt there, or set data.vocabulary to one. data.vocabulary_size is enough for "
            "`patchbay check` only"
        )


def open_vocabulary(path: str, size: int, length: int) -> Tokenizer:
    """Load a vocabulary for texts of at most ``length`` tokens; the file decides its size, not ``size``.

    Raises:
        ValueError: no such file, or not a vocabulary; names it.
    """
    check_vocabulary(path)
    tokenizer = load_tokenizer(path, length)
    _compare(path, tokenizer.vocabulary, size)
    return tokenizer


def assumed_size(path: str, size: int) -> tuple[int, str]:
    """Return the assumed size of a missing vocabulary, and a note for ``patchbay check``."""
    if path:
        pieces, start = size or BERT_PIECES, f"no file or folder {path!r}{similar_name(path)}"
        kind = "data.vocabulary_size" if size else "as in BERT-base"
    else:
        pieces, start = size or MAX_TRAINED_PIECES, "is made from the captions"
        kind = "data.vocabulary_size" if size else "the most"
    return pieces, f"data.vocabulary: {start}; {pieces:,} pieces ({kind}) are assumed"


def train_vocabulary(sources: Sequence[ImageSource], size: int, length: int) -> Tokenizer:
    """Train a vocabulary on the classes and the first captions and phrases of each source's training images."""
    texts: list[str] = []
    for source in sources:
        records = source.records
        captioned, boxed = (source.in_split("train", some) for some in (records.captioned, records.boxed))
        texts += [CLASS_TEXT.format(label=label) for label in records.classes_in(boxed)]
        texts += islice((text for number in captioned for text in records.captions_of(number)), MAX_TRAINING_TEXTS)
        texts += islice((box.phrase for number in boxed for box in records.box_labels(number)), MAX_TRAINING_TEXTS)
    tokenizer = train_tokenizer(texts, length, MAX_TRAINED_PIECES)
    _compare("the vocabulary of the captions", tokenizer.vocabulary, size)
    return tokenizer


def warn_of_unknown_captions(sources: Sequence[ImageSource], tokenizer: Tokenizer) -> None:
    """Log a warning about captions of unknown tokens alone, such as emoji: they train as empty texts."""
    for source in sources:
        # a vocabulary has letters and digits of ASCII; tokenizing all captions would take minutes
        rare = list(islice((c for c in source.records.captions if not ASCII_WORD.search(c)), MAX_CHECKED_CAPTIONS))
        unknown = []
        for start in range(0, len(rare), CHECKED_TOGETHER):
            texts = rare[start : start + CHECKED_TOGETHER]
            decodings = map(tokenizer.decode, tokenizer(texts).ids.tolist())
            unknown += [text for text, decoding in zip(texts, decodings, strict=True) if not decoding]
        if unknown:
            LOG.warning(
                "%s: the vocabulary has no token for %d captions, such as %r. They train as empty texts, unless "
                "data.vocabulary has their letters.",
                source.where,
                len(unknown),
                unknown[0],
            )


def _compare(source: str, pieces: int, size: int) -> None:
    """Log a warning if ``data.vocabulary_size`` differs from the number of pieces, which is the one used."""
    if size not in (0, pieces):
        LOG.warning("%s has %s pieces, which are used; data.vocabulary_size is %s.", source, f"{pieces:,}", f"{size:,}")
