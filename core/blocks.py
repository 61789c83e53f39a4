"""Running transformer blocks with prunings between them: one function for backbones and single-stream fusions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from registry.part import Count, Part, PartError


class Block(Protocol):
    """A transformer block that can be halted between its attention and its MLP.

    ``mask`` (B, N) bool says which tokens may be attended to; None: all.
    """

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor: ...

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The first half: attention and its residual, (B, N, D) -> (B, N, D)."""

    def mlp(self, x: Tensor) -> Tensor:
        """The second half: MLP and its residual."""

    def attention_maps(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The attention's keys (B, heads, N, D / heads) and its weights (B, heads, N, N) for the block's input."""


Guide = Tensor | Callable[[Tokens], Tensor] | None  # (B, G), or how to read it off the sequence to be pruned


@dataclass(frozen=True)
class Prune:
    """One entry of a ``prune`` list: a pruner and the block, counted from 1, that it stands after (or in)."""

    after_block: Count
    pruner: Part[TokenPruner]


def build_pruners(prune: Sequence[Prune], depth: int, dim: int, guide_dim: int) -> nn.ModuleDict:
    """The pruners of a ``prune`` list by their block, in the order in which they act.

    Raises:
        ValueError: two at one block, or one behind the last.
    """
    places = [entry.after_block for entry in prune]
    if len(set(places)) < len(places) or (places and max(places) > depth):
        raise ValueError(f"prune: after_block {places}; expected different blocks between 1 and depth {depth}")
    ordered = sorted(prune, key=lambda entry: entry.after_block)
    return nn.ModuleDict({str(e.after_block): e.pruner(dim=dim, guide_dim=guide_dim) for e in ordered})


def pruners_by_block(pruners: nn.ModuleDict) -> dict[int, TokenPruner]:
    """What ``build_pruners`` made, as ``run_blocks`` takes it."""
    return {int(block): pruner for block, pruner in pruners.items() if isinstance(pruner, TokenPruner)}


def first_pruned_block(pruners: Mapping[int, TokenPruner], depth: int) -> int:
    """How many blocks run before anything is pruned."""
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
    """Run blocks ``first + 1`` to ``last``, counted from 1; ``pruners[i]`` acts in or after block ``i``.

    A pruner after block ``first`` itself acts too: it is where an earlier call stopped.

    Raises:
        PartError: a pruner returned what is not a shortened sequence; names it and its plugin.
    """
    for i in range(first, len(blocks) + 1 if last is None else last + 1):
        pruner = pruners.get(i)
        inside = pruner is not None and pruner.place == "in_block"
        if i > first and not inside:
            tokens = dataclasses.replace(tokens, x=blocks[i - 1](tokens.x, tokens.mask))
        if pruner is not None and not inside:
            tokens = prune(pruner, tokens, guide, BlockCues())
        elif pruner is not None and i > first:
            before, cues = between_attention_and_mlp(blocks[i - 1], tokens)
            tokens = prune(pruner, before, guide, cues)
            tokens = dataclasses.replace(tokens, x=blocks[i - 1].mlp(tokens.x))
    return tokens


def score(
    blocks: Sequence[Block], pruners: Mapping[int, TokenPruner], tokens: Tokens, guide: Guide = None, first: int = 0
) -> Tensor | None:
    """The first pruner's logits (B, P), from the tokens behind block ``first``; None where there is no pruner."""
    if not pruners:
        return None
    split, pruner, cues = first_pruned_block(pruners, len(blocks)), pruners[min(pruners)], BlockCues()
    tokens = run_blocks(blocks, {}, tokens, first=first, last=split)
    if pruner.place == "in_block":
        tokens, cues = between_attention_and_mlp(blocks[split], tokens)
    return pruner.score(tokens, guide(tokens) if callable(guide) else guide, cues)


def between_attention_and_mlp(block: Block, tokens: Tokens) -> tuple[Tokens, BlockCues]:
    """The tokens between a block's attention and its MLP, and what a pruner there may look at."""
    seen = BlockCues(lambda: block.attention_maps(tokens.x, tokens.mask))
    return dataclasses.replace(tokens, x=block.attend(tokens.x, tokens.mask)), seen


def prune(pruner: TokenPruner, tokens: Tokens, guide: Guide, cues: BlockCues) -> Tokens:
    """Call a pruner and hold it to its contract."""
    pruned = pruner(tokens, guide(tokens) if callable(guide) else guide, cues)

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
