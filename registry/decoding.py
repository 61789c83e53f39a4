"""Text of files in any Unicode encoding: one place for byte order marks and line ends."""

from __future__ import annotations

import json


def decode(content: bytes, path: str) -> str:
    """Decode UTF-8, UTF-16 or UTF-32, without byte order mark and with "\\n" at the ends of lines.

    Raises:
        ValueError: the file is in another encoding or damaged; names its path and the position.
    """
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as err:
        before = err.object[: err.start].decode(err.encoding, "ignore").split("\n")
        problem = f"not {err.encoding.upper()}: byte {err.object[err.start]:#x}: {err.reason}"
        raise ValueError(f"{path}:{len(before)}:{len(before[-1]) + 1}: {problem}") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")
