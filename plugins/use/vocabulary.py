"""The vocabulary that a run or an import leaves in its folder."""

from __future__ import annotations

from core.hookspecs import hookimpl
from core.kinds import Tokenizer
from plugins.data.tokenizer import load_tokenizer


@hookimpl(trylast=True)
def read_tokenizer(folder: str, length: int) -> Tokenizer:
    return load_tokenizer(folder, length)
