"""Files that begin with a byte order mark, and those in UTF-16, are read like others, whatever they are for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from core.discovery import Catalog, load
from core.model import ModelSpec
from core.recipe.recipe import read
from plugins.data.annotations.read import load_json
from plugins.data.drawing.cutout_files import read_caption
from plugins.hooks.metrics_log import lines as metrics
from plugins.importing.config import read_config
from plugins.inference.verbs import lines_of
from plugins.text.tokenizer import load_tokenizer, train_tokenizer
from plugins.text.weights import read_bert

ENCODINGS = pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
BERT = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "vocab_size": 9,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}


def write(path: Path, text: str, encoding: str) -> str:
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))  # line ends of Windows
    return str(path)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@ENCODINGS
def test_vocabularies(tmp_path, encoding):
    file = write(tmp_path / "vocab.txt", "\n".join(PIECES) + "\n", encoding)
    tokenizer = load_tokenizer(file, 10)
    assert (tokenizer.vocabulary, tokenizer.pad) == (len(PIECES), 0)
    assert tokenizer.decode(tokenizer(["ab a"]).ids[0]) == "ab a"
    train_tokenizer(["a cat"], 10).save(str(tmp_path))
    saved = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    marked = load_tokenizer(write(tmp_path / "marked.json", saved, encoding), 10)
    (tmp_path / "again").mkdir()
    marked.save(str(tmp_path / "again"))
    assert (tmp_path / "again" / "tokenizer.json").read_text(encoding="utf-8") == saved


@ENCODINGS
@pytest.mark.parametrize("packed", [True, False])
def test_merges(tmp_path, encoding, packed):
    content = "#version: 0.2\r\na b\r\nab c</w>\r\n".encode(encoding)
    file = tmp_path / ("merges.txt.gz" if packed else "merges.txt")
    file.write_bytes(gzip.compress(content) if packed else content)
    tokenizer = load_tokenizer(str(file), 10)
    assert tokenizer.vocabulary == 512 + 2 + 2
    assert tokenizer(["abc"]).mask.sum() == 3  # the ends and one piece


@ENCODINGS
def test_lists_of_texts(tmp_path, encoding):
    file = write(tmp_path / "classes.txt", "\nred circle\n \u200b\n  blue\ufeff star\u2028x\n", encoding)
    assert lines_of(file) == ["red circle", "blue star\u2028x"]
    assert read_caption(write(tmp_path / "a.txt", "An abalone.\n", encoding)) == ("an", "abalone")


@ENCODINGS
def test_json(tmp_path, encoding):
    value: Any = {"a": ["\ufeffb", 1]}
    file = write(tmp_path / "a.json", json.dumps(value, ensure_ascii=False), encoding)
    assert read_config(file) == load_json(file) == value
    write(tmp_path / "config.json", json.dumps(BERT), encoding)
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read"):  # the configuration was
        read_bert(str(tmp_path), {"hidden_size": 8})
    write(tmp_path / "sizes.json", '{"image_size": 32, "text_length": 8, "vocabulary": 9}', encoding)
    assert ModelSpec.read(str(tmp_path)).vocabulary == 9
    write(tmp_path / "metrics.jsonl", '{"step": 1}\n{"step": 2}\n', encoding)
    assert [entry["step"] for entry in metrics(str(tmp_path))] == [1, 2]


@ENCODINGS
def test_recipes(tmp_path, encoding, catalog):
    base = Path(__file__).parent.parent / "projects" / "copa" / "pretrain.yaml"
    write(tmp_path / "base.yaml", base.read_text(encoding="utf-8"), encoding)
    file = write(tmp_path / "mine.yaml", "extends: base.yaml\ntrain:\n  steps: 7\n", encoding)
    assert read(file, [], catalog).train.steps == 7
