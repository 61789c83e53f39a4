"""CLIP's byte-pair vocabulary (Radford et al. 2021, section 2.4), in the file format of OpenAI and open_clip."""

from __future__ import annotations

import gzip
import zlib

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from core.files import paths
from registry.decoding import decode

START, END = "<start_of_text>", "<end_of_text>"
MERGES = 49152 - 256 - 2  # that CLIP uses of the file: with 512 letters and the two ends 49,408 pieces
HEADER = "#version: 0.2"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def from_merges(file: str) -> tokenizers.Tokenizer:
    """Build the tokenizer of a file of merges, such as ``bpe_simple_vocab_16e6.txt.gz``.

    Equal to open_clip's except for ftfy's repair of broken text and HTML entities: here only quotes are straightened
    and letters are composed (NFC).

    Raises:
        ValueError: no such file, or not a file of merges; names it and the line.
    """
    lines = _read(file).rstrip("\n").split("\n")
    if HEADER not in lines[0]:
        raise ValueError(f"{file}: not a vocabulary: expected CLIP's merges, whose first line says {HEADER!r}")
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines[1 : MERGES + 1], 2):
        pieces = line.split()
        if len(pieces) != 2:
            raise ValueError(f"{file}:{number}: {line!r} is no merge of two pieces")
        merges.append((pieces[0], pieces[1]))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # 256, one for each byte
    pieces_by_id = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    vocabulary = {piece: i for i, piece in enumerate(pieces_by_id)}
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>")
    except Exception as err:  # the library raises no narrower class
        raise ValueError(f"{file}: not a vocabulary of byte pairs: {err}") from err
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
            normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
            normalizers.Lowercase(),
        ]
    )
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    return tokenizer


def _read(file: str) -> str:
    try:
        with paths.open(file, "rb") as handle:
            content = handle.read()
        return decode(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content, file)
    except (OSError, EOFError, zlib.error, ValueError) as err:
        raise ValueError(f"{file}: cannot be read as CLIP's merges: {err}") from err
