"""CLIP's byte pairs: pieces in their order, words, quotes and errors with the line."""

from __future__ import annotations

import gzip

import pytest

from plugins.text.clip_bpe import END, HEADER, MERGES, START, from_merges

TEXT = f"{HEADER}\nt h\nth e</w>\nc a\nca t</w>\n"


def tokenizer(tmp_path, text: str = TEXT, name: str = "merges.txt"):
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return from_merges(str(file))


def test_pieces_are_letters_then_merges_then_the_two_ends(tmp_path):
    pieces = tokenizer(tmp_path)
    assert pieces.get_vocab_size() == 512 + 4 + 2
    assert [pieces.token_to_id(name) for name in ("th", "the</w>", "ca", "cat</w>", START, END)] == list(
        range(512, 518)
    )
    assert pieces.token_to_id("!") == 0
    assert pieces.token_to_id("!</w>") == 256


def test_the_file_may_be_compressed_whatever_its_name(tmp_path):
    assert tokenizer(tmp_path, name="a.txt.gz").get_vocab() == tokenizer(tmp_path).get_vocab()
    (tmp_path / "b.txt").write_bytes(gzip.compress(TEXT.encode()))
    assert from_merges(str(tmp_path / "b.txt")).get_vocab_size() == 518


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The CAT", ["the</w>", "cat</w>"]),
        ("thecat", ["th", "e", "cat</w>"]),
        ("the\n  cat!", ["the</w>", "cat</w>", "!</w>"]),
        ("cat's", ["cat</w>", "'", "s</w>"]),
        ("cat\u2019s", ["cat</w>", "'", "s</w>"]),  # a curly quote is straightened
        ("\u201ccat\u201d", ['"</w>', "cat</w>", '"</w>']),
        ("12", ["1</w>", "2</w>"]),  # digits one by one
        ("e\u0301", ["\u00c3", "\u00a9</w>"]),  # composed, two bytes
        ("", []),
    ],
)
def test_words_and_pieces(tmp_path, text, pieces):
    assert tokenizer(tmp_path).encode(text).tokens == pieces


@pytest.mark.parametrize("text", ["the cat", "caf\u00e9 12 !", "\u732b"])
def test_decoding_gives_the_words_again(tmp_path, text):
    both = tokenizer(tmp_path)
    assert both.decode(both.encode(text).ids).strip().replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t h\n", f"not a vocabulary: expected CLIP's merges, whose first line says '{HEADER}'"),
        (f"{HEADER}\nt h\nthe\n", "merges.txt:3: 'the' is no merge of two pieces"),
        (f"{HEADER}\nt h x\n", "merges.txt:2: 't h x' is no merge of two pieces"),
        (f"{HEADER}\n\nt h", "merges.txt:2: '' is no merge"),
        (f"{HEADER}\nth e</w>\n", "not a vocabulary of byte pairs"),
    ],
)
def test_what_is_no_file_of_merges(tmp_path, text, message):
    with pytest.raises(ValueError, match="merges.txt") as caught:  # noqa: RUF043
        tokenizer(tmp_path, text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"\x1f\x8bcut", gzip.compress(TEXT.encode())[:-12]],
    ids=["no UTF-8", "no gzip", "truncated"],
)
def test_unreadable_content(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="a: cannot be read as CLIP's merges"):
        from_merges(str(tmp_path / "a"))
    with pytest.raises(ValueError, match="none: cannot be read as CLIP's merges"):
        from_merges(str(tmp_path / "none"))


def test_clips_own_size():
    assert 512 + MERGES + 2 == 49_408
