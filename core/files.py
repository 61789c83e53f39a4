"""Read and write files. Reading uses iopath, so that plugins can add stores; writing is to the local disk, atomic."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from iopath.common.file_io import PathManager

from registry.decoding import decode
from registry.json_text import dumps

if TYPE_CHECKING:
    from torch import Tensor

RECIPE, SIZES, VERSIONS, REPORT = "recipe.yaml", "sizes.json", "versions.json", "report.json"  # in a run's folder
WEIGHTS, STATE = "model.safetensors", "state.json"
paths = PathManager()  # plugins register their handlers on it


def read_text(path: str) -> str:
    """Read a text file; ``registry.decoding`` lists the encodings.

    Raises:
        ValueError: the file cannot be read or decoded; names the file and the position.
    """
    try:
        with paths.open(path, "rb") as file:
            return decode(file.read(), path)
    except OSError as err:
        raise ValueError(f"{path}: cannot be read: {err}") from err


def read_safetensors(path: str) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, by name, onto the CPU.

    Raises:
        ValueError: the file is missing or damaged; names it.
    """
    from safetensors.torch import load_file  # here, because torch takes seconds to import

    try:
        tensors: dict[str, Tensor] = load_file(paths.get_local_path(path))
    except Exception as err:
        raise ValueError(f"{path}: cannot be read as safetensors: {err}") from err
    return tensors


def write_text(path: str, text: str) -> None:
    """Write a file atomically: to PATH.part, flushed to the disk, then renamed."""
    part = path + ".part"
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
    sync(part)
    os.replace(part, path)
    sync(os.path.dirname(path) or ".")


def sync(path: str) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, dumps(value, indent=2) + "\n")
