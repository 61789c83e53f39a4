"""How captions are to be written, from the settings that somebody gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from core.kinds import StepwiseDecoder, Tokenizer
from core.model import Model
from plugins.generation.settings import Generation
from registry import near

MODES = {"beams": "beam", "temperature": "sample", "top_k": "sample", "top_p": "sample"}  # what they are read by
USUAL = 30  # words


def generation(given: Mapping[str, Any], room: int) -> Generation:
    """The mode that the settings speak of, where they do not name it; no more words than there is ``room`` for.

    Raises:
        ValueError: an unknown setting, one out of range, or some for a beam search and others for draws.
    """
    known = [field.name for field in dataclasses.fields(Generation)]
    for name in given:
        if name not in known:
            raise ValueError(f"no setting {name!r}.{near(name, known)} There are: {', '.join(known)}")
    modes = {MODES[name]: name for name in given if name in MODES}
    if "mode" not in given and len(modes) > 1:
        raise ValueError(f"{modes['beam']} is for a beam search, {modes['sample']} for draws: give one, or the mode")
    mode = next(iter(modes), "greedy")
    return Generation(**{"mode": mode, "max_length": max(1, min(USUAL, room)), **given})


def longest_written(model: Model, tokenizer: Tokenizer, length: int, prompts: Sequence[str]) -> int:
    """How many words the decoder can write behind the longest of the prompts; it reads ``length`` at most.

    With a fusion it starts from [CLS] alone, for the text encoder reads the prompts.

    Raises:
        ValueError: a prompt leaves no room.
    """
    if isinstance(model.decoder, StepwiseDecoder):
        length = model.decoder.text_length
    if model.fusion is not None:
        return length
    longest = int(tokenizer(prompts).mask.sum(1).max())
    if longest >= length:  # it may have been cut
        raise ValueError(
            f"a prompt is too long for a model that reads {length} tokens: with its ends it may be {length - 1}"
        )
    return length - longest + 2  # a prompt is read without its [SEP]
