"""The folder that an import leaves: put in place when it is whole."""

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
    """A folder to write into, which gets its name ``out`` at the end; a fault leaves nothing behind.

    Raises:
        ValueError: ``out`` holds something already, or is a file.
    """
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise ValueError(f"{out}: is there already; name a folder that is new or empty")
    parent, name = os.path.split(os.path.abspath(out))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=parent) as aside:
        made = os.path.join(aside, name)
        os.mkdir(made)  # with the user's own mode, which a temporary folder has not
        yield made
        os.replace(made, out)


def write_recipe(folder: str, recipe: Mapping[str, Any], comment: str) -> None:
    """recipe.yaml, with lines of comment on top."""
    lines = "".join(f"# {line}\n" for line in comment.split("\n"))
    written = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    write_text(os.path.join(folder, RECIPE), lines + written)


def write_weights(folder: str, tensors: Mapping[str, Tensor]) -> None:
    """model.safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, os.path.join(folder, WEIGHTS))


def vocabulary_of(file: str, length: int, pieces: int, checkpoint: str, tensor: str) -> SubwordTokenizer:
    """The vocabulary that belongs to a checkpoint's word embeddings.

    Raises:
        ValueError: none was named, it is no vocabulary, or one of another size.
    """
    if not file:
        raise ValueError(f"{checkpoint}: holds no vocabulary: name it with --vocabulary FILE")
    tokenizer = load_tokenizer(file, length)
    if tokenizer.vocabulary != pieces:
        held = f"{file} holds {tokenizer.vocabulary:,} pieces"
        raise ValueError(f"{checkpoint}: {tensor!r} has {pieces:,} rows, but {held}: not this model's vocabulary")
    return tokenizer
