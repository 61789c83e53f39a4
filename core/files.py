"""Every file that a user names is read through here: iopath, so that a plugin can add stores beside the local disk.

What a run writes into its folder is on the local disk, each file whole or not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from iopath.common.file_io import PathManager

paths = PathManager()  # the manager named "patchbay": register handlers on it


def read_text(path: str) -> str:
    """A UTF-8 file's text.

    Raises:
        ValueError: not to be read, or not UTF-8; names the file.
    """
    try:
        with paths.open(path, "r", encoding="utf-8") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError) as err:
        raise ValueError(f"{path}: cannot be read: {err}") from err


@contextmanager
def whole(path: str) -> Iterator[str]:
    """The name to write a file under; it takes its place at ``path`` when written and flushed to the disk."""
    part = path + ".part"
    yield part
    sync(part)
    os.replace(part, path)
    sync(os.path.dirname(path) or ".")


def sync(path: str) -> None:
    """Wait until the disk holds a file's content, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str, text: str) -> None:
    with whole(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
