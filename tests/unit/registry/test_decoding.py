"""Text files in the encodings of Windows and of other systems, with and without byte order marks."""

from __future__ import annotations

import codecs

import pytest

from registry.decoding import decode

TEXT = "Käse 猫\nsecond \ufeff line\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
        TEXT.replace("\n", "\r").encode(),
    ],
)
def test_every_encoding_gives_the_same_text(content):
    assert decode(content, "a.txt") == TEXT


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE])
def test_a_file_of_a_mark_alone_is_empty(content):
    assert decode(content, "a.txt") == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\n\xe4", "a.txt:2:1: not UTF-8: byte 0xe4"),  # Latin-1
        (codecs.BOM_UTF8 + b"a\xff", "a.txt:1:2: not UTF-8: byte 0xff"),
        ("äö".encode() + b"\x80", "a.txt:1:3: not UTF-8: byte 0x80"),  # columns are letters
        (codecs.BOM_UTF16_LE + "a\nb".encode("utf-16-le") + b"\x00\xd8", "a.txt:2:2: not UTF-16-LE: byte 0x0"),
    ],
)
def test_an_undecodable_byte_is_named_by_encoding_line_and_column(content, message):
    with pytest.raises(ValueError, match=message):
        decode(content, "a.txt")
