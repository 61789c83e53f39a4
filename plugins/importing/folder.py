"""The folder that an import writes: renamed to its name when complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from core.files import RECIPE, WEIGHTS, write_text
from plugins.text.tokenizer import SubwordTokenizer, load_tokenizer


@contextmanager
def new_folder(out: str) -> Iterator[str]:
    """Make a temporary folder that is renamed to ``out`` at the end; an error leaves nothing behind.

    Raises:
        ValueError: ``out`` holds something already, or is a file.
    """
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise ValueError(f"{out}: is there already; name a folder that is new or empty")
    parent, name = os.path.split(os.path.abspath(out))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=parent) as aside:
        unfinished = os.path.join(aside, name)
        os.mkdir(unfinished)  # with the user's default permissions, unlike a temporary folder
        yield unfinished
        os.replace(unfinished, out)


def write_recipe(folder: str, recipe: Mapping[str, Any], comment: str) -> None:
    """Write recipe.yaml, with lines of comment at its head."""
    lines = "".join(f"# {line}\n" for line in comment.split("\n"))
    written = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    write_text(os.path.join(folder, RECIPE), lines + written)


def write_weights(folder: str, tensors: Mapping[str, Tensor]) -> None:
    """Write model.safetensors; tensors of any shape."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, os.path.join(folder, WEIGHTS))


def vocabulary_of(file: str, length: int, pieces: int, checkpoint: str, tensor: str) -> SubwordTokenizer:
    """Load the vocabulary of a checkpoint's word embeddings.

    Raises:
        ValueError: no file was named, it is not a vocabulary, or its size differs.
    """
    if not file:
        raise ValueError(f"{checkpoint}: holds no vocabulary: name it with --vocabulary FILE")
    tokenizer = load_tokenizer(file, length)
    if tokenizer.vocabulary != pieces:
        size = f"{file} holds {tokenizer.vocabulary:,} pieces"
        raise ValueError(f"{checkpoint}: {tensor!r} has {pieces:,} rows, but {size}: not this model's vocabulary")
    return tokenizer
