import json
import random
from pathlib import Path

import pytest
import torch

from plugins.text.tokenizer import SPECIAL, load_tokenizer, train_tokenizer

CAPTIONS = [
    "A small red star is left of a large blue circle.",
    "Two green squares lie above the striped moon.",
    "The large dotted cross stands right of a small yellow heart.",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, length=20)


def test_every_text_is_framed_and_padded(tokenizer):
    text = tokenizer([CAPTIONS[0], "red star", ""])
    assert text.ids.dtype == torch.int64
    assert text.mask.dtype == torch.bool
    assert (text.ids[:, 0] == tokenizer.cls).all()
    last = text.mask.sum(1) - 1
    assert (text.ids.gather(1, last[:, None]) == tokenizer.sep).all()
    assert int(last[2]) == 1
    assert (text.ids[~text.mask] == tokenizer.pad).all()
    assert text.mask[0].all()  # padded to the longest, no further
    assert (tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask) == (0, 2, 3, 4)


def test_round_trip_in_lower_case(tokenizer):
    for caption in CAPTIONS:
        assert tokenizer.decode(tokenizer([caption]).ids[0]) == caption.lower()


def test_long_texts_are_cut_and_end_with_sep(tokenizer):
    text = tokenizer(["red star " * 30, "red"])
    assert text.ids.shape == (2, 20)
    assert int(text.ids[0, -1]) == tokenizer.sep
    assert text.mask[0].all()


def test_a_special_token_spelt_out_is_not_special(tokenizer):
    ids = tokenizer(["red [MASK] star [SEP] [PAD]"]).ids[0].tolist()
    assert tokenizer.mask not in ids
    assert ids.count(tokenizer.sep) == 1
    assert tokenizer.pad not in ids


def test_an_unknown_letter_becomes_unknown(tokenizer):
    assert tokenizer(["red ☃"]).ids[0].tolist()[-2] == SPECIAL.index("[UNK]")


def test_training_is_deterministic(tmp_path):
    generator = random.Random(0)
    words = " ".join(CAPTIONS).split()
    texts = [" ".join(generator.choices(words, k=12)) for _ in range(300)]
    saved = []
    for _ in range(8):
        train_tokenizer(iter(texts), length=20, size=70).save(str(tmp_path))
        saved.append((tmp_path / "tokenizer.json").read_text())
    assert len(set(saved)) == 1
    assert load_tokenizer(str(tmp_path), 20).vocabulary <= 70


@pytest.mark.parametrize("form", ["file", "folder"])
def test_saved_and_loaded_is_the_same(tokenizer, tmp_path, form):
    tokenizer.save(str(tmp_path))
    loaded = load_tokenizer(str(tmp_path if form == "folder" else tmp_path / "tokenizer.json"), length=9)
    expected = tokenizer(["a red star", "the moon"])
    assert torch.equal(loaded(["a red star", "the moon"]).ids, expected.ids)
    assert loaded(CAPTIONS).ids.shape[1] == 9  # the length asked for, not the saved one
    assert loaded.vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_vocab_txt_gives_ids_by_line(tmp_path, form, newline):
    pieces = [*SPECIAL, "red", "star", "##s"]
    (tmp_path / "vocab.txt").write_bytes((newline.join(pieces) + newline).encode())
    loaded = load_tokenizer(str(tmp_path if form == "folder" else tmp_path / "vocab.txt"), length=20)
    assert loaded(["Red stars"]).ids[0].tolist() == [2, 5, 6, 7, 3]
    assert loaded.vocabulary == 8
    assert loaded.decode([2, 5, 6, 7, 3]) == "red stars"


def test_a_cased_vocab_txt_keeps_case(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "Red", "red"]))
    assert load_tokenizer(str(tmp_path), 20)(["Red red"]).ids[0].tolist() == [2, 5, 6, 3]


def test_tokenizer_json_wins_over_vocab_txt(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL))
    assert load_tokenizer(str(tmp_path), 20).vocabulary == tokenizer.vocabulary


def test_agrees_with_the_reference_bert_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pieces = [*SPECIAL, "red", "star", "##s", "a", "left", "##most", ",", "cafe", "-", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    reference = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    ours = load_tokenizer(str(tmp_path), 20)
    for text in ("A red star, leftmost.", "Café-STARS  a\tred", "purple"):
        assert ours([text]).ids[0].tolist() == reference(text)["input_ids"]


def _write(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def test_errors_name_the_file(tokenizer, tmp_path):
    def message(path: str) -> str:
        with pytest.raises(ValueError, match=r".") as err:
            load_tokenizer(path, 20)
        assert str(err.value).startswith(path)
        return str(err.value)

    assert "no such file or folder" in message(str(tmp_path / "absent.json"))
    assert "neither tokenizer.json nor vocab.txt" in message(str(tmp_path))
    assert "not JSON" in message(_write(tmp_path, "broken.json", "{"))
    assert "not a tokenizer" in message(_write(tmp_path, "other.json", "[1, 2]"))
    assert "lacks [CLS]; it must hold" in message(_write(tmp_path, "few.txt", "[PAD]\n[UNK]\n[SEP]\nred\n"))
    repeated = _write(tmp_path, "twice.txt", "\n".join([*SPECIAL, "red", "star", "red"]))
    assert f"{repeated}:8: 'red' stands on line 6 already" in message(repeated)
    tokenizer.save(str(tmp_path))
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    saved["added_tokens"] = []
    del saved["model"]["vocab"]["[MASK]"]
    nomask = _write(tmp_path, "nomask.json", json.dumps(saved))
    loaded = load_tokenizer(nomask, 20)  # only who asks for [MASK] misses it
    assert loaded(["red"]).mask.all()
    with pytest.raises(ValueError, match=r"nomask\.json: the vocabulary has no \[MASK\], which masked language mod"):
        _ = loaded.mask


MERGES = ["#version: 0.2", "r e", "re d</w>", "! !</w>", "d o", "do g</w>"]


def test_clips_merges(tmp_path):
    """A few of them: letters are bytes, words end in </w>; "!" of id 0 is a word where the mask says so."""
    file = _write(tmp_path, "merges.txt", "\n".join(MERGES) + "\n")
    ours = load_tokenizer(file, 8)
    text = ours(["Red  dog!", "!€", "", "dog " * 9])
    end, start = ours.sep, ours.cls
    assert (start, end, ours.pad, ours.vocabulary) == (517, 518, 0, 519)
    red, dog = 513, 516
    assert text.ids[0].tolist() == [start, red, dog, 256, end, 0, 0, 0]
    assert text.ids[1, 1].item() == 0, "'!' inside a run of signs is token 0"
    assert text.mask[1, 1]
    assert text.mask.sum(1).tolist() == [5, 6, 2, 8]
    assert text.ids[3].tolist() == [start, *[dog] * 6, end]
    assert [ours.decode(ids[mask]) for ids, mask in zip(text.ids[:3], text.mask[:3], strict=True)] == [
        "red dog!",
        "!€",
        "",
    ]
    ours.save(str(tmp_path))
    assert torch.equal(load_tokenizer(str(tmp_path), 8)(["Red  dog!"]).ids, ours(["Red  dog!"]).ids)


def test_what_are_no_merges_is_named(tmp_path):
    for text, said in (
        ("#version: 0.2\nr e\nred", ":3: 'red' is no merge of two pieces"),
        ("#version: 0.2\nq xyz", "not a vocabulary of byte pairs"),
    ):
        file = _write(tmp_path, "merges.txt", text)
        with pytest.raises(ValueError, match=r".") as err:
            load_tokenizer(file, 8)
        assert str(err.value).startswith(file)
        assert said in str(err.value)


def test_a_length_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="text length is 2; it must be at least 3"):
        train_tokenizer(CAPTIONS, length=2)
