"""JSON that every reader accepts: no NaN, numbers of numpy and torch, escapes for undecodable bytes of file names."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from registry.terminal import CONTROL


def dumps(value: Any, indent: int | None = None, ascii_only: bool = True) -> str:
    """Format a value as JSON. NaN and infinity, which JSON lacks, become null.

    An undecodable byte of a file name is escaped (``\\udcff``), so that Python reads back the same name.

    Raises:
        TypeError: the value contains an object that is neither a number, text, list nor mapping.
    """
    text = json.dumps(_plain(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: Any) -> Any:
    """Convert to the types of JSON; arrays and tensors, also those of one number, by their method ``tolist``."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
