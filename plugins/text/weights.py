"""Load BERT's weights into text encoders, fusions and decoders."""

from __future__ import annotations

import json
import os

import torch
from torch import Tensor

from core.files import read_safetensors, read_text
from plugins.layers import PostNormLayer

# settings of BERT that the shapes of its tensors do not determine
BERT_SETTINGS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}


def read_bert(folder: str, required: dict[str, int], length: int = 0) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Read a BERT's sizes from config.json, and its tensors without the prefix ``bert.``.

    Args:
        folder: with config.json and model.safetensors.
        required: values that the config must have, such as ``{"hidden_size": 768}``.
        length: maximum number of tokens of a text; the model must have as many positions.

    Raises:
        ValueError: a file is missing or unreadable, sizes differ, or a setting differs from BERT's; names the file.
    """
    file = os.path.join(folder, "config.json")
    text = read_text(file)
    try:
        config = json.loads(text)
        keys = ("hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings", "type_vocab_size")
        sizes = {key: int(config[key]) for key in keys}
    except (ValueError, KeyError, TypeError) as err:
        raise ValueError(f"{file}: not the config of a BERT: {type(err).__name__}: {err}") from err
    differ = [key for key, size in required.items() if sizes[key] != size]
    if differ:
        theirs, ours = ({key: numbers[key] for key in differ} for numbers in (sizes, required))
        raise ValueError(f"{file} says {theirs}, this recipe has {ours}")
    if sizes["max_position_embeddings"] < length:
        raise ValueError(f"{file} says {sizes['max_position_embeddings']} positions, texts are up to {length} long")
    for key, known in BERT_SETTINGS.items():
        if config.get(key, known) != known:
            raise ValueError(f"{file} says {key} {config[key]!r}; only {known!r} is known here")
    file = os.path.join(folder, "model.safetensors")
    tensors = read_safetensors(file)
    old = {"gamma": "weight", "beta": "bias"}  # names of LayerNorm's tensors in early checkpoints
    renamed = {}
    for name, tensor in tensors.items():
        stem, _, last = name.removeprefix("bert.").rpartition(".")
        renamed[f"{stem}.{old.get(last, last)}"] = tensor
    return sizes, renamed


BERT_NAMES = {  # ours: BERT's, below encoder.layer.N
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm": "output.LayerNorm",
}


def take(tensors: dict[str, Tensor], name: str, shape: torch.Size, folder: str) -> Tensor:
    """Return a tensor of a BERT, such as the word embeddings (V, D), after a check of its shape.

    Raises:
        ValueError: missing, or of another shape; names folder and tensor.
    """
    if name not in tensors:
        raise ValueError(f"{folder}: model.safetensors has no tensor {name!r}")
    if tensors[name].shape != shape:
        size = tuple(tensors[name].shape)
        raise ValueError(f"{folder}: model.safetensors has {name!r} of shape {size}, this part needs {tuple(shape)}")
    return tensors[name]


@torch.no_grad()
def load_bert_layer(layer: PostNormLayer, tensors: dict[str, Tensor], index: int, folder: str) -> None:
    """Fill a layer's self-attention and MLP from BERT layer ``index``, counted from 0; cross-attention is unchanged."""
    for ours, theirs in BERT_NAMES.items():
        for name, parameter in layer.get_submodule(ours).named_parameters():
            parameter.copy_(take(tensors, f"encoder.layer.{index}.{theirs}.{name}", parameter.shape, folder))
