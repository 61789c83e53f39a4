"""Captions cut for prefix language modelling, in scripts with and without blanks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from core.types import Prefixed
from plugins.data.batching import cut_captions
from plugins.data.prefixes import list_cuts, row_ids
from plugins.text.tokenizer import SPECIAL, SubwordTokenizer, load_tokenizer, train_tokenizer

ENGLISH = ["a black-and-white cat, it's on a sofa.", "two dogs", "x"]
UNSPACED = [
    "一只黑色的猫坐在红色的沙发上。",
    "赤いソファーの上に黒い猫が座っている",
    "แมวสีดำนั่งอยู่บนโซฟา",
    "ឆ្មាខ្មៅអង្គុយលើសាឡុង",
]
MIXED = ["一只cat和3只 dogs。", "a 猫 sits", "แมว 3 ตัว", "猫🐈 on 😀", "猫", "검은 고양이", ""]
TRAINED = train_tokenizer([*ENGLISH, *UNSPACED, *MIXED], 60, 2000)


def pieces_of(texts: list[str]) -> SubwordTokenizer:
    """BERT's kind with pieces of two letters, so that places between characters lie inside tokens."""
    letters = sorted(set("".join(texts)) - {" "})
    pairs = sorted(
        {text[i : i + 2] for text in texts for i in range(0, len(text) - 1, 2) if " " not in text[i : i + 2]}
    )
    pieces = [*SPECIAL, *letters, *pairs, *(f"##{piece}" for piece in [*letters, *pairs])]
    tokenizer = Tokenizer(models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return SubwordTokenizer(tokenizer, 60)


def clip(folder) -> SubwordTokenizer:
    """Byte pairs, whose last piece of a word is another than inside."""
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    return load_tokenizer(str(folder / "merges.txt"), 200)


def ids_of(tokenizer: SubwordTokenizer, text: str) -> list[int]:
    return row_ids(tokenizer([text]), 0)


def sample_cuts(text: str, tokenizer: SubwordTokenizer, count: int = 300) -> Prefixed:
    return cut_captions([text] * count, tokenizer, np.random.default_rng(0))


def lengths(cut: Prefixed) -> list[int]:
    return (cut.prefix.mask.sum(1) - 2).unique().tolist()


@pytest.mark.parametrize("text", UNSPACED)
def test_every_place_between_tokens_is_drawn(text):
    assert lengths(sample_cuts(text, TRAINED)) == list(range(len(ids_of(TRAINED, text)) - 2))


@pytest.mark.parametrize("text", [*UNSPACED, *MIXED[:4]])
@pytest.mark.parametrize("kind", ["trained", "pieces", "clip"])
def test_both_parts_are_parts_of_the_whole_captions_tokens(kind, text, tmp_path):
    tokenizer = {"trained": lambda: TRAINED, "pieces": lambda: pieces_of([text]), "clip": lambda: clip(tmp_path)}[
        kind
    ]()
    whole = ids_of(tokenizer, text)
    cut = sample_cuts(text, tokenizer)
    for row in range(len(cut.prefix.ids)):
        prefix, suffix = row_ids(cut.prefix, row), row_ids(cut.suffix, row)
        assert (prefix[0], prefix[-1], suffix[0], suffix[-1]) == (tokenizer.cls, tokenizer.sep) * 2
        assert [*prefix[:-1], *suffix[1:]] == whole
        assert len(suffix) > 2
    assert len(lengths(cut)) > 1
    assert (cut.suffix.ids[~cut.suffix.mask] == tokenizer.pad).all()


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ("a black-and-white cat, it's.", ["", "a", "a black-and-white", "a black-and-white cat,"]),
        ("一只cat和3只 dogs", ["", "一", "一只", "一只cat", "一只cat和", "一只cat和3", "一只cat和3只"]),
        ("แมว 3 ตัว", ["", "แ", "แม", "แมว", "แมว 3", "แมว 3 ตั"]),
        ("猫🐈 on 😀", ["", "猫", "猫🐈", "猫🐈 on"]),
        ("검은 고양이", ["", "검은"]),
        ("猫", [""]),
        ("", [""]),
    ],
)
def test_the_places(text, prefixes):
    assert [cut.prefix for cut in list_cuts(text, TRAINED)] == prefixes


def test_places_inside_a_token_or_a_character_are_left_out():
    tokenizer = pieces_of(["แมวดำนอน"])
    assert [cut.prefix for cut in list_cuts("แมวดำนอน", tokenizer)] == ["", "แม", "แมวดำน"]


def test_a_long_caption_is_cut_before_its_truncation():
    tokenizer = train_tokenizer(UNSPACED, 8)
    whole = ids_of(tokenizer, UNSPACED[0])
    assert len(whole) == 8
    assert lengths(sample_cuts(UNSPACED[0], tokenizer)) == [0, 1, 2, 3, 4, 5]


@given(st.lists(st.sampled_from(["a", "cat,", "it's", "black-and-white", "été", "кот", "..."]), max_size=8))
@settings(deadline=None, max_examples=50)
def test_words_are_cut_as_strings(words):
    """With the same random numbers as a draw among the words."""
    rng, expected = np.random.default_rng(0), np.random.default_rng(0)
    text = "  ".join(words)
    cut = cut_captions([text, text], TRAINED, rng)
    places = [int(expected.integers(max(1, len(words)))) for _ in range(2)]
    prefix, suffix = TRAINED([" ".join(words[:n]) for n in places]), TRAINED([" ".join(words[n:]) for n in places])
    for ours, theirs in ((cut.prefix, prefix), (cut.suffix, suffix)):
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.mask, theirs.mask)
