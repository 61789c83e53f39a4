"""Import of a BERT checkpoint as pretrained weights of text encoders, fusions and decoders."""

from __future__ import annotations

import os
from typing import Any

import torch
import transformers
from torch import Tensor

from core.files import SIZES, write_json
from core.types import Text
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.comparison import compare, random_ids
from plugins.importing.config import HEAD_DIM, describe_guesses, dividing, find_config
from plugins.importing.folder import new_folder, vocabulary_of, write_recipe, write_weights
from plugins.importing.recognition import check_kind
from plugins.text.bert import BertEncoder
from plugins.text.weights import BERT_NAMES, BERT_SETTINGS

EMBEDDING_SIZES = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
OLD_SUFFIXES = {"gamma": "weight", "beta": "bias"}  # names of LayerNorm's tensors in early checkpoints
UNUSED_TENSORS = (r"pooler\..*", r"cls\..*", r"classifier\..*", r"qa_outputs\..*", r"embeddings\.position_ids")
COMPARED_LENGTH = 32  # words


def import_bert(file: str, out: str, vocabulary: str, config: str, command: str) -> str:
    """Import a checkpoint into a folder; returns a message for the user. Arguments as of ``import_open_clip``.

    Raises:
        ValueError: a tensor or setting does not fit, or outputs differ from those of transformers; names the fault.
    """
    original = read_tensors(file)
    file = original.file
    config_file, settings = find_config(
        file, config, ("config.json",), ("model_type", "num_attention_heads", "hidden_size")
    )
    check_kind(original, "bert")
    checkpoint = ForeignCheckpoint(file, {_name(name): tensor for name, tensor in original.tensors.items()})
    tables = {kind: checkpoint.shape(f"embeddings.{kind}_embeddings.weight", 2) for kind in EMBEDDING_SIZES}
    dim, layers = tables["word"][1], checkpoint.layers("encoder.layer")
    sizes = {key: tables[kind][0] for kind, key in EMBEDDING_SIZES.items()}
    sizes |= {"hidden_size": dim, "num_hidden_layers": layers, "intermediate_size": 4 * dim}
    _check_config(config_file, settings, sizes)
    heads = dividing(
        settings, "num_attention_heads", max(1, dim // HEAD_DIM), dim, config_file or f"{file}, without --config"
    )

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
    bert_config: dict[str, Any] = {"model_type": "bert", **sizes, "num_attention_heads": heads, **BERT_SETTINGS}
    text = {"name": "bert", "layers": layers, "embed_dim": dim, "num_heads": heads, "weights": out}
    note = f"{command}\nuse it in a recipe with extends: {out}/recipe.yaml, and data.vocabulary: {out}"
    original.tensors = checkpoint.tensors = {}
    outputs = _run_original(bert_config, tensors)
    with new_folder(out) as folder:
        write_weights(folder, tensors)
        write_json(os.path.join(folder, "config.json"), bert_config)
        write_json(os.path.join(folder, SIZES), {"text_length": length, "vocabulary": rows})
        tokenizer.save(folder)
        write_recipe(folder, {"model": {"text": text}}, note)
        tensors.clear()
        imported = _run_import({**text, "weights": folder}, rows, length)
        compared = compare(f"transformers {transformers.__version__}", outputs, imported, "random words")
    lines = [f"{out}: a BERT of {layers} layers, embed_dim {dim}, num_heads {heads}, {rows:,} words"]
    lines += [f"read: {config_file}"] if config_file else []
    guesses = [] if "num_attention_heads" in settings else [f"{heads} heads, width {dim} / {dim // heads}"]
    guesses += [] if config_file else [f"{key} {value}" for key, value in BERT_SETTINGS.items()]
    lines += describe_guesses(guesses, config_file, "config.json")
    use = f"use: extends: {out}/recipe.yaml in a recipe, or its folder for model.text.weights, model.fusion.weights or "
    use += f"model.decoder.weights, with data.vocabulary: {out}. It has no image encoder and no objectives: the "
    lines += [compared, f"{use}commands for images need training with a recipe that adds them"]
    return "\n".join(lines)


def _check_config(file: str, settings: dict[str, Any], sizes: dict[str, int]) -> None:
    """Check a configuration against the sizes of the tensors and the settings that are computed here.

    Raises:
        ValueError: it is of another model, or a setting differs; names the file and the setting.
    """
    kind = settings.get("model_type", "bert")
    if kind != "bert":
        raise ValueError(
            f"{file}: model_type is {kind!r}: a model of transformers, but no BERT; read is model_type 'bert'"
        )
    for key, known in BERT_SETTINGS.items():
        if settings.get(key, known) != known:
            raise ValueError(f"{file}: {key} is {settings[key]!r}; only {known!r} is known here")
    for key, size in sizes.items():
        if settings.get(key, size) != size:
            raise ValueError(f"{file}: {key} is {settings[key]!r}; the tensors have {size}")


def _run_original(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run transformers' model on random words: states (1, L, D). Its tensors, of any shape, take no further memory."""
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig(**config), add_pooling_layer=False)
    model.load_state_dict(tensors, strict=False, assign=True)
    length = int(config["max_position_embeddings"])
    positions = torch.arange(length).expand(1, -1)  # (1, L); buffers are not among the tensors
    model.embeddings.position_ids, model.embeddings.token_type_ids = positions, torch.zeros_like(positions)
    with torch.no_grad():
        ids = random_ids(int(config["vocab_size"]), min(COMPARED_LENGTH, length))
        states = model.eval()(ids, attention_mask=torch.ones_like(ids)).last_hidden_state  # (1, L, D)
    return {"states": states}


def _run_import(settings: dict[str, Any], vocabulary: int, length: int) -> dict[str, Tensor]:
    """Run the part with the folder's weights on the same words: states (1, L, D)."""
    arguments = {name: value for name, value in settings.items() if name != "name"}
    encoder = BertEncoder(**arguments, vocabulary=vocabulary, text_length=length).eval()
    ids = random_ids(vocabulary, min(COMPARED_LENGTH, length))
    with torch.no_grad():
        return {"states": encoder(Text(ids, torch.ones_like(ids, dtype=torch.bool))).x}


def _name(name: str) -> str:
    stem, _, last = name.removeprefix("bert.").rpartition(".")
    return f"{stem}.{OLD_SUFFIXES.get(last, last)}" if stem else last
