"""The folder of an import: complete under its name, or absent."""

from __future__ import annotations

import os

import pytest
import torch
import yaml
from safetensors.torch import load_file

from plugins.importing.folder import new_folder, vocabulary_of, write_recipe, write_weights

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red"]


def test_the_folder_has_its_name_only_when_complete(tmp_path):
    out = tmp_path / "new" / "model"
    with new_folder(str(out)) as folder:
        assert not out.exists()
        write_weights(folder, {"a": torch.arange(6.0).view(2, 3).T})
        write_recipe(folder, {"model": {"b": 1, "a": [1, 2]}}, "first\nsecond")
    assert sorted(os.listdir(out)) == ["model.safetensors", "recipe.yaml"]
    assert os.listdir(out.parent) == ["model"]
    assert load_file(out / "model.safetensors")["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    text = (out / "recipe.yaml").read_text()
    assert text.startswith("# first\n# second\nmodel:\n")
    assert list(yaml.safe_load(text)["model"]) == ["b", "a"]  # the order given


def test_an_error_leaves_nothing(tmp_path):
    def fail():
        with new_folder(str(tmp_path / "model")) as folder:
            write_weights(folder, {"a": torch.ones(1)})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_replaced_and_a_full_one_or_a_file_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(str(tmp_path / "empty")) as folder:
        write_recipe(folder, {}, "")
    assert os.listdir(tmp_path / "empty") == ["recipe.yaml"]
    (tmp_path / "file").write_text("x")
    for name in ("empty", "file"):
        with pytest.raises(ValueError, match=f"{name}: is there already"), new_folder(str(tmp_path / name)):
            pass
    assert (tmp_path / "file").read_text() == "x"


def test_the_vocabulary_has_a_piece_for_each_embedding(tmp_path):
    file = str(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    assert vocabulary_of(file, 8, len(PIECES), "x.pt", "words").vocabulary == len(PIECES)
    message = r"^x\.pt: 'words' has 30,522 rows, but .*vocab\.txt holds 6 pieces: not this model's vocabulary$"
    with pytest.raises(ValueError, match=message):
        vocabulary_of(file, 8, 30522, "x.pt", "words")
    with pytest.raises(ValueError, match=r"^x\.pt: holds no vocabulary: name it with --vocabulary FILE$"):
        vocabulary_of("", 8, 6, "x.pt", "words")
