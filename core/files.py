"""Every file that a user names goes through here: iopath, so that a plugin can add stores beside the local disk."""

from __future__ import annotations

import json
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


def write_text(path: str, text: str) -> None:
    with paths.open(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
