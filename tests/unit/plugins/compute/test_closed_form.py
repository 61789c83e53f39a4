"""Formulas for MACs against torch's counter on plain modules, and pruning block by block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.kinds import TokenPruner
from plugins.compute.closed_form import (
    NoFormula,
    attention,
    conv_stem,
    detector,
    fusing,
    layer,
    linear_stem,
    mlp,
    pruned_blocks,
)
from plugins.compute.torch_macs import count
from plugins.pruners.evit import AttentivePruner
from plugins.pruners.random import RandomPruner
from plugins.pruners.tpd import TextAwarePatchDetector


def counted(module, *shapes):
    return count(module.eval(), tuple(torch.zeros(shape) for shape in shapes), {}).total


class Attention(nn.Module):
    """Attention with separate maps, heads aside: MACs do not depend on their number."""

    def __init__(self, dim, source_dim):
        super().__init__()
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key, self.value = nn.Linear(source_dim, dim), nn.Linear(source_dim, dim)

    def forward(self, x, source):
        weights = (self.query(x) @ self.key(source).transpose(1, 2)).softmax(-1)  # (B, N, M)
        return self.out(weights @ self.value(source))


@pytest.mark.parametrize(
    ("queries", "keys", "dim", "source"), [(5, 5, 8, 8), (1, 9, 8, 8), (4, 7, 8, 12), (1, 1, 2, 1)]
)
def test_attention(queries, keys, dim, source):
    assert attention(queries, keys, dim, source) == counted(
        Attention(dim, source), (1, queries, dim), (1, keys, source)
    )


def test_the_source_is_as_wide_as_the_queries_by_default():
    assert attention(3, 4, 8) == attention(3, 4, 8, 8)


@pytest.mark.parametrize("ratio", [4, 2.5, 0.3])
def test_mlp(ratio):
    hidden = int(10 * ratio)
    module = nn.Sequential(nn.Linear(10, hidden), nn.GELU(), nn.Linear(hidden, 10))
    assert mlp(7, 10, ratio) == counted(module, (1, 7, 10))


def test_layer():
    for tokens, dim in ((1, 4), (6, 8), (197, 64)):
        assert layer(tokens, dim) == 12 * tokens * dim**2 + 2 * tokens**2 * dim


@pytest.mark.parametrize(("side", "patch", "dim"), [(32, 8, 6), (48, 16, 5), (30, 8, 6)])
def test_linear_stem(side, patch, dim):
    assert linear_stem(side, patch, dim) == counted(nn.Conv2d(3, dim, patch, patch), (1, 3, side, side))


@pytest.mark.parametrize("widths", [(), (8,), (8, 16), (8, 12, 16)])
def test_conv_stem(widths):
    layers, channels = [], 3
    for width in widths:
        layers.append(nn.Conv2d(channels, width, 3, 2, 1))
        channels = width
    layers.append(nn.Conv2d(channels, 10, 1))
    assert conv_stem(32, widths, 10) == counted(nn.Sequential(*layers), (1, 3, 32, 32))


@pytest.mark.parametrize(("patches", "dim", "guide"), [(16, 8, 6), (1, 8, 8), (9, 1, 3)])
def test_detector(patches, dim, guide):
    half = max(dim // 2, 1)
    module = nn.Sequential(nn.Linear(dim + guide, dim), nn.Linear(dim, half), nn.Linear(half, 1))
    assert detector(patches, dim, guide) == counted(module, (1, patches, dim + guide))


def test_fusing():
    class Sum(nn.Module):
        def forward(self, weights, patches):
            return weights @ patches

    assert fusing(16, 8) == counted(Sum(), (1, 1, 16), (1, 16, 8))


# pruned blocks


def test_without_pruners_all_blocks_are_equal():
    assert pruned_blocks(16, 1, 8, 3, {}, 3) == (3 * layer(17, 8), 0)
    assert pruned_blocks(16, 1, 8, 0, {}, 3) == (0, 0)


def test_a_random_pruner_after_a_block_shortens_the_later_ones():
    got = pruned_blocks(16, 1, 8, 3, {1: RandomPruner(keep_rate=0.3)}, 3)
    assert RandomPruner.place == "after_block"
    assert got == (layer(17, 8) + 2 * layer(1 + 5, 8), 0)  # ceil(0.3 * 16) = 5


def test_two_pruners_multiply():
    pruners = {1: RandomPruner(keep_rate=0.5), 2: RandomPruner(keep_rate=0.5)}
    assert pruned_blocks(16, 0, 8, 3, pruners, 3)[0] == layer(16, 8) + layer(8, 8) + layer(4, 8)


def test_a_keep_rate_of_one_changes_nothing():
    assert pruned_blocks(16, 1, 8, 3, {2: RandomPruner(keep_rate=1)}, 3) == pruned_blocks(16, 1, 8, 3, {}, 3)


@pytest.mark.parametrize(("fuse", "extra"), [("none", 0), ("sum", 1), ("mean", 1)])
def test_a_detector_adds_its_network_and_a_fused_token(fuse, extra):
    pruner = TextAwarePatchDetector(dim=8, guide_dim=6, keep_rate=0.5, fuse=fuse)
    blocks, choosing = pruned_blocks(16, 1, 8, 2, {1: pruner}, 3)
    assert blocks == layer(17, 8) + layer(1 + 8 + extra, 8)
    assert choosing == detector(16, 8, 6) + extra * fusing(16, 8)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("recomputed", [2, 3])
def test_an_attentive_pruner_computes_the_attention_again(fuse, recomputed):
    pruner = AttentivePruner(keep_rate=0.5, fuse=fuse)
    assert pruner.place == "in_block"
    blocks, choosing = pruned_blocks(16, 1, 8, 2, {1: pruner}, recomputed)
    left = 1 + 8 + fuse
    first = attention(17, 17, 8) + mlp(left, 8) + recomputed * 17 * 8**2  # pruned between attention and MLP
    assert blocks == first + layer(left, 8)
    assert choosing == 17**2 * 8 + fuse * fusing(16, 8)


def test_the_ratio_of_the_mlp_counts():
    assert pruned_blocks(4, 0, 8, 1, {}, 3, ratio=2)[0] == attention(4, 4, 8) + mlp(4, 8, 2)


def test_an_unknown_pruner_is_named():
    class Other(TokenPruner):
        def forward(self, tokens, guide, cues):
            return tokens

    with pytest.raises(NoFormula, match="Other"):
        pruned_blocks(4, 0, 8, 1, {1: Other()}, 3)


def test_a_pruner_derived_from_a_known_one_has_no_formula_either():
    class Derived(RandomPruner):
        pass

    with pytest.raises(NoFormula, match="Derived"):
        pruned_blocks(4, 0, 8, 1, {1: Derived()}, 3)
