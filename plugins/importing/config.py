"""Configuration files of checkpoints, with checks whose errors name file and setting."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from core.files import paths, read_text

NO_CONFIG = "no configuration was given or found beside the file"
HEAD_DIM = 64  # width of a tower's attention head in most public configurations
PUBLIC_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # so400m, ViT-H, g and bigG: width of the tower, heads


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


def find_config(file: str, config: str, names: Sequence[str], keys: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return name and content of the configuration that is named, or lies beside a checkpoint; ("", {}) without one.

    Args:
        file: the checkpoint.
        config: the file named by --config, or "".
        names: of the files beside the checkpoint.
        keys: one of them marks the configuration of the library; others beside the checkpoint are left alone.

    Raises:
        ValueError: the configuration cannot be read; names it.
    """
    if config:
        return config, read_config(config)
    for name in names:
        beside = os.path.join(os.path.dirname(file), name)
        if paths.isfile(beside):
            content = read_config(beside)
            if any(key in content for key in keys):
                return beside, content
    return "", {}


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


def pixels(config: dict[str, Any], name: str, default: Sequence[float], file: str) -> tuple[float, ...]:
    """Return the pixels' mean or deviation by its path, "preprocess_cfg.mean", or the default if it is not set.

    Raises:
        ValueError: the value is not three numbers between 0 and 1, or a deviation is 0.
    """
    value = config.get(name.rpartition(".")[2])
    if value is None:
        return tuple(default)
    numbers: list[Any] = value if isinstance(value, list) and len(value) == 3 else [None]
    least = 1e-6 if name.endswith("std") else 0.0
    if not all(type(number) in (int, float) and least <= number <= 1 for number in numbers):
        raise ValueError(f"{file}: {name} is {value!r}; expected three numbers between {least:g} and 1")
    return tuple(map(float, value))


def guess_heads(width: int) -> tuple[int, str]:
    """Guess the heads of an image encoder; returns the number, and a phrase that states it with the width."""
    if width in PUBLIC_HEADS:
        heads = PUBLIC_HEADS[width]
        return heads, f"{heads} heads, as in the public models of width {width} ({width // heads} each)"
    heads = max(1, width // HEAD_DIM)
    heads = next(number for number in range(heads, 0, -1) if width % number == 0)
    return heads, f"{heads} heads, width {width} / {width // heads}"


def describe_guesses(guesses: Sequence[str], config_file: str, expected: str) -> list[str]:
    """Format a line that lists guesses, and why no configuration determines them; no line if nothing is guessed."""
    reason = f"{config_file} has none" if config_file else f"{NO_CONFIG}: --config, {expected}"
    return [f"guessed: {'; '.join(guesses)}; {reason}"] if guesses else []
