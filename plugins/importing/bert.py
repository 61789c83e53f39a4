"""Import of a BERT checkpoint as pretrained weights of text encoders, fusions and decoders."""

from __future__ import annotations

import os

from core.files import write_json
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.config import HEAD_DIM, dividing, read_config
from plugins.importing.folder import new_folder, vocabulary_of, write_recipe, write_weights
from plugins.text.weights import BERT_NAMES, BERT_SETTINGS

EMBEDDING_SIZES = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
OLD_SUFFIXES = {"gamma": "weight", "beta": "bias"}  # names of LayerNorm's tensors in early checkpoints
UNUSED_TENSORS = (r"pooler\..*", r"cls\..*", r"embeddings\.position_ids")  # heads and buffers that no part uses


def import_bert(file: str, out: str, vocabulary: str, config: str, command: str) -> str:
    """Import a checkpoint into a folder; returns a message for the user. Arguments as of ``import_open_clip``.

    Raises:
        ValueError: a tensor or setting does not fit; names the file, the tensor and the expected shape.
    """
    original = read_tensors(file)
    checkpoint = ForeignCheckpoint(file, {_name(name): tensor for name, tensor in original.tensors.items()})
    tables = {kind: checkpoint.shape(f"embeddings.{kind}_embeddings.weight", 2) for kind in EMBEDDING_SIZES}
    dim, layers = tables["word"][1], checkpoint.layers("encoder.layer")
    settings = read_config(config) if config else {}
    for key, known in BERT_SETTINGS.items():
        if settings.get(key, known) != known:
            raise ValueError(f"{config}: {key} is {settings[key]!r}; only {known!r} is known here")
    heads = dividing(settings, "num_attention_heads", dim // HEAD_DIM, dim, config or f"{file}, without --config")

    names: dict[str, tuple[int, ...]] = {
        f"embeddings.{kind}_embeddings.weight": (rows, dim) for kind, (rows, _) in tables.items()
    }
    names |= {f"embeddings.LayerNorm.{name}": (dim,) for name in ("weight", "bias")}
    for index in range(layers):
        for ours, theirs in BERT_NAMES.items():
            into, to = (dim if ours != "fc2" else 4 * dim), (dim if ours != "fc1" else 4 * dim)
            weight = (to,) if ours.endswith("norm") else (to, into)
            names |= {f"encoder.layer.{index}.{theirs}.weight": weight, f"encoder.layer.{index}.{theirs}.bias": (to,)}
    tensors = {name: checkpoint.take(name, *shape) for name, shape in names.items()}
    checkpoint.refuse_left("a BERT here", *UNUSED_TENSORS)
    rows, length = tables["word"][0], tables["position"][0]
    tokenizer = vocabulary_of(vocabulary, length, rows, file, "embeddings.word_embeddings.weight")
    sizes = {key: tables[kind][0] for kind, key in EMBEDDING_SIZES.items()}
    wide = {"hidden_size": dim, "num_attention_heads": heads, "num_hidden_layers": layers, "intermediate_size": 4 * dim}
    text = {"name": "bert", "layers": layers, "embed_dim": dim, "num_heads": heads, "weights": out}
    note = f"{command}\nuse it in a recipe with extends: {out}/recipe.yaml, and data.vocabulary: {out}"
    with new_folder(out) as folder:
        write_weights(folder, tensors)
        write_json(os.path.join(folder, "config.json"), {"model_type": "bert", **wide, **sizes, **BERT_SETTINGS})
        tokenizer.save(folder)
        write_recipe(folder, {"model": {"text": text}}, note)
    return f"{out}: for model.text.weights, model.fusion.weights or model.decoder.weights, and data.vocabulary"


def _name(name: str) -> str:
    stem, _, last = name.removeprefix("bert.").rpartition(".")
    return f"{stem}.{OLD_SUFFIXES.get(last, last)}" if stem else last
