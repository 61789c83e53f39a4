"""The vocabulary of annotated images: missing, assumed, trained."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from plugins.data.annotations.image_source import ImageSource, SourceFiles
from plugins.data.annotations.vocabulary import (
    assumed_size,
    check_vocabulary,
    open_vocabulary,
    train_vocabulary,
    warn_of_unknown_captions,
)
from plugins.text.tokenizer import train_tokenizer


def source(folder, split: str = "train") -> ImageSource:
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    images = [
        {"filename": "a.png", "split": "train", "sentences": [{"raw": "zebras gallop"}]},
        {"filename": "b.png", "split": split, "sentences": [{"raw": "quokkas jump"}]},
    ]
    (folder / "a.json").write_text(json.dumps({"images": images}))
    return ImageSource(SourceFiles(str(folder), [str(folder / "a.json")]), "data.sources[0]", 0, 0.0, 0.0)


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    (tmp_path / "vocab.txt").touch()
    with pytest.raises(ValueError, match=r"vocabulary: no file or folder .*vocab\.tx'.*Did you mean 'vocab\.txt'"):
        check_vocabulary(str(tmp_path / "vocab.tx"))
    check_vocabulary("")
    check_vocabulary(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "size", "pieces", "note"),
    [
        ("", 0, 8000, "is made from the captions; 8,000 pieces (the most) are assumed"),
        ("", 50, 50, "is made from the captions; 50 pieces (data.vocabulary_size) are assumed"),
        ("none", 0, 30522, "30,522 pieces (as in BERT-base) are assumed"),
        ("none", 1234, 1234, "1,234 pieces (data.vocabulary_size) are assumed"),
    ],
)
def test_the_assumed_size(path, size, pieces, note):
    assert assumed_size(path, size)[0] == pieces
    assert assumed_size(path, size)[1].endswith(note)


def pieces(tokenizer) -> set[str]:
    return {tokenizer.decode([i]).removeprefix("##") for i in range(tokenizer.vocabulary)}


def test_only_training_captions_are_in_a_trained_vocabulary(tmp_path, caplog):
    tokenizer = train_vocabulary([source(tmp_path, "val")], 7, 20)
    assert f"has {tokenizer.vocabulary:,} pieces, which are used; data.vocabulary_size is 7." in caplog.text
    assert set("zebrasgallop") <= pieces(tokenizer)
    assert not set("qukjm") & pieces(tokenizer)
    assert set("qukjm") <= pieces(train_vocabulary([source(tmp_path)], 0, 20))


def test_a_saved_vocabulary_is_opened_without_a_warning_if_its_size_is_right(tmp_path, caplog):
    tokenizer = train_vocabulary([source(tmp_path)], 0, 20)
    tokenizer.save(str(tmp_path))
    again = open_vocabulary(str(tmp_path), tokenizer.vocabulary, 12)
    assert again(["zebras gallop"]).ids.tolist() == tokenizer(["zebras gallop"]).ids.tolist()
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (["\N{GRINNING FACE}\N{GRINNING FACE}", "a cat", "\N{CAT}\u200d⬛"], 2),
        (["猫", "一只 cat"], 1),  # the second has a token
        (["!!!", "кот", "a \N{CAT}"], 1),
        (["猫"] * 1200, 1200),
        (["a cat"], 0),
    ],
)
def test_captions_without_a_known_token_are_counted_in_a_warning(tmp_path, caplog, texts, count):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    pairs = [{"image": "a.png", "caption": text} for text in texts]
    (tmp_path / "a.json").write_text(json.dumps(pairs))
    images = ImageSource(SourceFiles(str(tmp_path), [str(tmp_path / "a.json")]), "data.sources[0]", 0, 0.0, 0.0)
    warn_of_unknown_captions([images], train_tokenizer(["a cat !"], 10))
    assert (f"data.sources[0]: the vocabulary has no token for {count} captions" in caplog.text) == bool(count)
    caplog.clear()
    warn_of_unknown_captions([images], train_tokenizer(texts, 10))
    assert not caplog.text
