"""Prune lists: which pruner acts at which block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from core.kinds import TokenPruner
from registry.part import Count, Part


@dataclass(frozen=True)
class Prune:
    """One entry of a ``prune`` list: a pruner and the number of its block, counted from 1."""

    after_block: Count
    pruner: Part[TokenPruner]


def build_pruners(prune: Sequence[Prune], depth: int, dim: int, guide_dim: int) -> nn.ModuleDict:
    """Build the pruners of a ``prune`` list, by block number, in the order in which they act.

    Args:
        prune: the list, in any order.
        depth: number of blocks.
        dim: D, width of the tokens.
        guide_dim: G, width of the guide.

    Raises:
        ValueError: two pruners at one block, or one after the last block.
    """
    places = [entry.after_block for entry in prune]
    if len(set(places)) < len(places) or (places and max(places) > depth):
        raise ValueError(f"prune: after_block {places}; expected different blocks between 1 and depth {depth}")
    ordered = sorted(prune, key=lambda entry: entry.after_block)
    return nn.ModuleDict({str(e.after_block): e.pruner(dim=dim, guide_dim=guide_dim) for e in ordered})


def pruners_by_block(pruners: nn.ModuleDict) -> dict[int, TokenPruner]:
    """Convert the result of ``build_pruners`` to the argument ``pruners`` of ``run_blocks``."""
    return {int(block): pruner for block, pruner in pruners.items() if isinstance(pruner, TokenPruner)}
