"""Run transformer blocks with token pruners between them. Letters as in core.types."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from core.compat.names import block as by_new_names
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from registry.part import PartError


class Block(Protocol):
    """A transformer block; all but ``__call__`` serves pruners between its attention and its MLP (``in_block``).

    ``mask`` (B, N) bool is True for the tokens that may be attended to; None: all of them.
    """

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The whole block, (B, N, D) -> (B, N, D)."""

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The first half: attention and its residual, (B, N, D) -> (B, N, D)."""

    def mlp(self, x: Tensor) -> Tensor:
        """The second half: MLP and its residual, (B, N, D) -> (B, N, D)."""

    def attention_maps(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The keys (B, heads, N, D / heads) and attention weights (B, heads, N, N) of the block's input x (B, N, D)."""


Guide = Tensor | Callable[[Tokens], Tensor] | None  # (B, G), or a function that computes it from the sequence to prune


def first_pruned_block(pruners: Mapping[int, TokenPruner], depth: int) -> int:
    """Number of blocks that run before the first pruner; ``depth`` if there is none."""
    if not pruners:
        return depth
    first = min(pruners)
    return first - 1 if pruners[first].place == "in_block" else first


def run_blocks(
    blocks: Sequence[Block],
    pruners: Mapping[int, TokenPruner],
    tokens: Tokens,
    guide: Guide = None,
    first: int = 0,
    last: int | None = None,
) -> Tokens:
    """Run blocks ``first + 1`` to ``last`` and their pruners: (B, N, D) -> (B, K, D).

    Args:
        pruners: by block number, from 1: ``pruners[i]`` acts in or after block i.
        tokens: the output of block ``first``.
        first: number of blocks that have run. A pruner that stands after block ``first`` acts in this call.
        last: number of the last block to run; None: all.

    Raises:
        PartError: a pruner returned something other than a shortened sequence; names the pruner and its plugin.
    """
    for i in range(first, len(blocks) + 1 if last is None else last + 1):
        pruner = pruners.get(i)
        inside = pruner is not None and pruner.place == "in_block"
        if i > first and not inside:
            tokens = dataclasses.replace(tokens, x=blocks[i - 1](tokens.x, tokens.mask))
        if pruner is not None and not inside:
            tokens = prune(pruner, tokens, guide, BlockCues())  # (B, N, D) -> (B, K, D)
        elif pruner is not None and i > first:
            before, cues = between_attention_and_mlp(blocks[i - 1], tokens)
            tokens = prune(pruner, before, guide, cues)  # (B, N, D) -> (B, K, D)
            tokens = dataclasses.replace(tokens, x=by_new_names(blocks[i - 1]).mlp(tokens.x))
    return tokens


def score(
    blocks: Sequence[Block], pruners: Mapping[int, TokenPruner], tokens: Tokens, guide: Guide = None, first: int = 0
) -> Tensor | None:
    """The first pruner's logits (B, P) for the output of block ``first``, (B, N, D); None if there is no pruner."""
    if not pruners:
        return None
    split, pruner, cues = first_pruned_block(pruners, len(blocks)), pruners[min(pruners)], BlockCues()
    tokens = run_blocks(blocks, {}, tokens, first=first, last=split)
    if pruner.place == "in_block":
        tokens, cues = between_attention_and_mlp(blocks[split], tokens)
    return pruner.score(tokens, guide(tokens) if callable(guide) else guide, cues)


def between_attention_and_mlp(block: Block, tokens: Tokens) -> tuple[Tokens, BlockCues]:
    """Run a block's attention: (B, N, D) -> (B, N, D), with the keys and attention for a pruner at that place."""
    block = by_new_names(block)
    cues = BlockCues(lambda: block.attention_maps(tokens.x, tokens.mask))
    return dataclasses.replace(tokens, x=block.attend(tokens.x, tokens.mask)), cues


def prune(pruner: TokenPruner, tokens: Tokens, guide: Guide, cues: BlockCues) -> Tokens:
    """Call a pruner and check its result: (B, N, D) -> (B, K, D).

    Raises:
        PartError: the result is not a shortened sequence; names the pruner and its plugin.
    """
    pruned = pruner(tokens, guide(tokens) if callable(guide) else guide, cues)  # (B, K, D)

    def error(problem: str) -> PartError:
        return PartError(f"{pruner.origin or type(pruner).__name__}: {problem}")

    if not isinstance(pruned, Tokens):
        raise error(f"returned {type(pruned).__name__} instead of Tokens; return tokens.keep(index)")
    batch, width = tokens.x.shape[0], tokens.x.shape[2]
    if pruned.x.ndim != 3 or pruned.x.shape[0] != batch or pruned.x.shape[2] != width:
        raise error(f"returned states of shape {tuple(pruned.x.shape)}; expected ({batch}, tokens kept, {width})")
    num_patches, dropped = tokens.patches[1] - tokens.patches[0], tokens.x.shape[1] - pruned.x.shape[1]
    start, stop = pruned.patches
    if not 0 <= start < stop <= pruned.x.shape[1] or (stop - start) + dropped != num_patches:
        raise error(f"returned patches {pruned.patches} of {pruned.x.shape[1]} tokens: only patches may be dropped")
    if pruned.scores is not None and tuple(pruned.scores.shape) != (batch, num_patches):
        raise error(f"returned scores of shape {tuple(pruned.scores.shape)}; expected ({batch}, {num_patches})")
    return pruned
