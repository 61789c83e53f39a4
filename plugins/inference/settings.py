"""Settings of caption generation: mode and length that the user did not set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from core.kinds import StepwiseDecoder, Tokenizer
from core.model import Model
from plugins.generation.settings import Generation
from registry import near

MODES = {
    "beams": "beam",
    "temperature": "sample",
    "top_k": "sample",
    "top_p": "sample",
}  # used in one mode
DEFAULT_MAX_TOKENS = 30


def generation_settings(given: Mapping[str, Any], room: int) -> Generation:
    """Build ``Generation`` from a user's settings, which may imply the mode; at most ``room`` tokens by default.

    Raises:
        ValueError: a setting is unknown or out of range, or some are for beam search and others for sampling.
    """
    known = [field.name for field in dataclasses.fields(Generation)]
    for name in given:
        if name not in known:
            raise ValueError(f"no setting {name!r}.{near(name, known)} There are: {', '.join(known)}")
    modes = {MODES[name]: name for name in given if name in MODES}
    if "mode" not in given and len(modes) > 1:
        raise ValueError(f"{modes['beam']} is for a beam search, {modes['sample']} for draws: give one, or the mode")
    mode = next(iter(modes), "greedy")
    return Generation(**{"mode": mode, "max_length": max(1, min(DEFAULT_MAX_TOKENS, room)), **given})


def max_generated_tokens(model: Model, tokenizer: Tokenizer, length: int, prompts: Sequence[str]) -> int:
    """Count the tokens that the decoder can generate after the longest prompt; ``length`` is the model's limit.

    With a fusion the decoder starts from [CLS] alone: the text encoder encodes the prompts.

    Raises:
        ValueError: a prompt is too long.
    """
    if isinstance(model.decoder, StepwiseDecoder):
        length = model.decoder.text_length
    if model.fusion is not None:
        return length
    longest = int(tokenizer(prompts).mask.sum(1).max())
    if longest >= length:  # the tokenizer may have cut it
        raise ValueError(
            f"a prompt is too long for a model that reads {length} tokens: with its ends it may be {length - 1}"
        )
    return length - longest + 2  # the [SEP] of the prompt is not decoded
