"""Text of files in any Unicode encoding: one place for byte order marks and line ends."""

from __future__ import annotations

import codecs

MARKS = {  # UTF-32's first: in UTF-16, the first of them is a mark and a NUL character
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode(content: bytes, path: str) -> str:
    """Decode UTF-8, or UTF-16 or UTF-32 with a byte order mark, and remove the mark; lines end with "\\n".

    Raises:
        ValueError: the file is in another encoding or damaged; names its path and the position.
    """
    try:
        encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8-sig")
        text = content.decode(encoding)
    except UnicodeDecodeError as err:
        before = err.object[: err.start].decode(err.encoding, "ignore").split("\n")
        problem = f"not {err.encoding.upper()}: byte {err.object[err.start]:#x}: {err.reason}"
        raise ValueError(f"{path}:{len(before)}:{len(before[-1]) + 1}: {problem}") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")
