"""What the configurations beside checkpoints say, checked; every fault names the file and the setting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from core.files import read_text

HEAD = 64  # width of a tower's attention head in the public configurations


def read_config(file: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: not to be read, or no object; names the file.
    """
    text = read_text(file)
    try:
        config = json.loads(text)
    except json.JSONDecodeError as err:
        raise ValueError(f"{file}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from err
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected a JSON object, got a {type(config).__name__}")
    return config


def section(config: dict[str, Any], name: str, file: str) -> dict[str, Any]:
    """The object of that name, or an empty one.

    Raises:
        ValueError: it is something else.
    """
    found = config.get(name)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{file}: {name} is {found!r}; expected a JSON object")
    return found or {}


def dividing(said: dict[str, Any], name: str, usual: int, width: int, file: str) -> int:
    """The number of that name, of heads or of a head's width, or the usual one.

    Raises:
        ValueError: it does not divide the width.
    """
    number = said.get(name, usual)
    if type(number) is not int or number < 1 or width % number:
        raise ValueError(f"{file}: {name} is {number!r}; expected a number that divides the width {width}")
    return number


def check_pixels(said: dict[str, Any], name: str, expected: Sequence[float], file: str) -> None:
    """
    Raises:
        ValueError: the pixels' mean or deviation, "preprocess_cfg.mean", is there and another.
    """
    given = said.get(name.rpartition(".")[2])
    if given is not None and given != list(expected):
        raise ValueError(f"{file}: {name} is {given!r}; pixels that the model reads have {list(expected)}")
