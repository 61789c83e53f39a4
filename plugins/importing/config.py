"""Configuration files of checkpoints, with checks whose errors name file and setting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from core.files import read_text

HEAD_DIM = 64  # width of a tower's attention head in the public configurations


def read_config(file: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file cannot be read or is not a JSON object; names it.
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
    """Return the object of that name, or an empty one.

    Raises:
        ValueError: the value is not an object.
    """
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{file}: {name} is {value!r}; expected a JSON object")
    return value or {}


def dividing(config: dict[str, Any], name: str, default: int, width: int, file: str) -> int:
    """Return a number of heads, or the width of a head, that divides ``width``; ``default`` if it is not set.

    Raises:
        ValueError: the number does not divide the width.
    """
    number = config.get(name, default)
    if type(number) is not int or number < 1 or width % number:
        raise ValueError(f"{file}: {name} is {number!r}; expected a number that divides the width {width}")
    return number


def check_pixels(config: dict[str, Any], name: str, expected: Sequence[float], file: str) -> None:
    """Check the mean or deviation by which pixels are normalized.

    Raises:
        ValueError: the pixels' mean or deviation, "preprocess_cfg.mean", is set and differs.
    """
    given = config.get(name.rpartition(".")[2])
    if given is not None and given != list(expected):
        raise ValueError(f"{file}: {name} is {given!r}; pixels that the model reads have {list(expected)}")
