"""Running transformer blocks with prunings between them: one function for backbones and single-stream fusions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from core.kinds import TokenPruner
from core.part import PartError
from core.types import Tokens


class Block(Protocol):
    """A transformer block that can be halted between its attention and its MLP."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def attend(self, x: Tensor) -> Tensor:
        """The first half: attention and its residual, (B, N, D) -> (B, N, D)."""

    def feed(self, x: Tensor) -> Tensor:
        """The second half: MLP and its residual."""

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The attention's keys (B, heads, N, D / heads) and its weights (B, heads, N, N) for the block's input."""


class Cues:
    """Keys and attention of the block that an ``in_block`` pruner stands in, computed when first asked for."""

    def __init__(self, look: Callable[[], tuple[Tensor, Tensor]] | None = None):
        self._look = look
        self._seen: tuple[Tensor, Tensor] | None = None

    def _get(self) -> tuple[Tensor, Tensor]:
        if self._look is None:
            raise ValueError("keys and attention are known only to a pruner with place = 'in_block'")
        if self._seen is None:
            self._seen = self._look()
        return self._seen

    @property
    def keys(self) -> Tensor:
        """(B, heads, N, D / heads)"""
        return self._get()[0]

    @property
    def attention(self) -> Tensor:
        """(B, heads, N, N), rows sum to 1"""
        return self._get()[1]


def split_point(pruners: Mapping[int, TokenPruner], depth: int) -> int:
    """How many blocks run before anything is pruned."""
    if not pruners:
        return depth
    first = min(pruners)
    return first - 1 if pruners[first].place == "in_block" else first


def run_blocks(
    blocks: Sequence[Block],
    pruners: Mapping[int, TokenPruner],
    tokens: Tokens,
    guide: Tensor | None = None,
    first: int = 0,
    last: int | None = None,
) -> Tokens:
    """Run blocks ``first + 1`` to ``last``, counted from 1; ``pruners[i]`` acts in or after block ``i``.

    A pruner after block ``first`` itself acts too: it is where an earlier call stopped.

    Raises:
        PartError: a pruner returned what is not a shortened sequence; names it and its plugin.
    """
    for i in range(first, len(blocks) + 1 if last is None else last + 1):
        pruner = pruners.get(i)
        inside = pruner is not None and pruner.place == "in_block"
        if i > first and not inside:
            tokens = dataclasses.replace(tokens, x=blocks[i - 1](tokens.x))
        if pruner is not None and not inside:
            tokens = prune(pruner, tokens, guide, Cues())
        elif pruner is not None and i > first:
            block, x = blocks[i - 1], tokens.x
            tokens = dataclasses.replace(tokens, x=block.attend(x))
            tokens = prune(pruner, tokens, guide, Cues(lambda block=block, x=x: block.look(x)))  # type: ignore[misc]
            tokens = dataclasses.replace(tokens, x=block.feed(tokens.x))
    return tokens


def prune(pruner: TokenPruner, tokens: Tokens, guide: Tensor | None, cues: Cues) -> Tokens:
    """Call a pruner and hold it to its contract."""
    pruned = pruner(tokens, guide, cues)

    def fail(what: str) -> PartError:
        return PartError(f"{pruner.origin or type(pruner).__name__}: {what}")

    if not isinstance(pruned, Tokens):
        raise fail(f"returned {type(pruned).__name__} instead of Tokens; end with tokens.keep(index)")
    batch, width = tokens.x.shape[0], tokens.x.shape[2]
    if pruned.x.ndim != 3 or pruned.x.shape[0] != batch or pruned.x.shape[2] != width:
        raise fail(f"returned states of shape {tuple(pruned.x.shape)}; expected ({batch}, tokens kept, {width})")
    start, stop = pruned.patches
    gone = tokens.x.shape[1] - pruned.x.shape[1]
    if not 0 <= start < stop <= pruned.x.shape[1] or (stop - start) + gone != tokens.patches[1] - tokens.patches[0]:
        raise fail(f"returned patches {pruned.patches} of {pruned.x.shape[1]} tokens: only patches may be dropped")
    shown = tokens.patches[1] - tokens.patches[0]
    if pruned.scores is not None and tuple(pruned.scores.shape) != (batch, shown):
        raise fail(f"returned scores of shape {tuple(pruned.scores.shape)}; expected ({batch}, {shown})")
    return pruned
