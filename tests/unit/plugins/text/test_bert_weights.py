"""BERT's files: sizes, names of tensors, and errors that name the file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from plugins.layers import PostNormLayer
from plugins.text.weights import BERT_NAMES, load_bert_layer, read_bert, take

CONFIG = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "vocab_size": 11,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}


def write(folder, tensors=None, **changes) -> str:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(tensors or {"bert.embeddings.LayerNorm.gamma": torch.ones(8)}, folder / "model.safetensors")
    return str(folder)


def test_sizes_and_names(tmp_path):
    tensors = {
        "bert.embeddings.word_embeddings.weight": torch.zeros(11, 8),
        "bert.embeddings.LayerNorm.gamma": torch.ones(8),
        "embeddings.LayerNorm.beta": torch.full((8,), 2.0),  # without the prefix
    }
    sizes, renamed = read_bert(write(tmp_path, tensors), {"hidden_size": 8, "vocab_size": 11}, 16)
    assert sizes == CONFIG
    assert sorted(renamed) == [
        "embeddings.LayerNorm.bias",
        "embeddings.LayerNorm.weight",
        "embeddings.word_embeddings.weight",
    ]
    assert renamed["embeddings.LayerNorm.bias"].tolist() == [2.0] * 8


@pytest.mark.parametrize(
    ("changes", "required", "length", "message"),
    [
        ({}, {"hidden_size": 9, "vocab_size": 11}, 0, "says {'hidden_size': 8}, this recipe has {'hidden_size': 9}"),
        ({}, {}, 17, "says 16 positions, texts are up to 17 long"),
        ({"hidden_act": "relu"}, {}, 0, "says hidden_act 'relu'; only 'gelu' is known here"),
        ({"layer_norm_eps": 1e-5}, {}, 0, "says layer_norm_eps 1e-05; only 1e-12 is known here"),
        ({"vocab_size": None}, {}, 0, "not the config of a BERT: TypeError"),
        ({"vocab_size": "x"}, {}, 0, "not the config of a BERT: ValueError"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, changes, required, length, message):
    with pytest.raises(ValueError, match="config") as caught:
        read_bert(write(tmp_path, **changes), required, length)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert message in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        read_bert(str(tmp_path), {})
    folder = write(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read as safetensors"):
        read_bert(folder, {})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json: not the config of a BERT: KeyError: 'hidden_size'"):
        read_bert(folder, {})


def test_a_tensor_is_checked_by_name_and_shape():
    tensors = {"a": torch.zeros(2, 3)}
    assert take(tensors, "a", torch.Size([2, 3]), "f") is tensors["a"]
    with pytest.raises(ValueError, match=r"f: model.safetensors has no tensor 'b'"):
        take(tensors, "b", torch.Size([2, 3]), "f")
    with pytest.raises(ValueError, match=r"has 'a' of shape \(2, 3\), this part needs \(3, 2\)"):
        take(tensors, "a", torch.Size([3, 2]), "f")


def test_a_layer_gets_the_tensors_of_its_number():
    torch.manual_seed(0)
    layers = [PostNormLayer(8, 2, 0.0) for _ in range(2)]
    tensors = {
        f"encoder.layer.{i}.{theirs}.{name}": parameter.detach().clone()
        for i, layer in enumerate(layers)
        for ours, theirs in BERT_NAMES.items()
        for name, parameter in layer.get_submodule(ours).named_parameters()
    }
    fresh = PostNormLayer(8, 2, 0.0)
    load_bert_layer(fresh, tensors, 1, "f")
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), layers[1].parameters(), strict=True))
    with pytest.raises(ValueError, match=r"no tensor 'encoder\.layer\.2\.attention\.self\.query\.weight'"):
        load_bert_layer(fresh, tensors, 2, "f")
