"""Pruners: every registered one with any settings and shapes, and the pure functions that they end with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.blocks import prune
from core.contracts import check_pruner
from core.discovery import load
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.selection import fuse_dropped, kept_count, top_patches
from properties.drawing import PROFILE, part_settings
from registry.part import Part

CATALOG = load()
PRUNERS = list(CATALOG.registries[TokenPruner])
SEEDS = st.integers(0, 2**31)
RATES = st.floats(0, 1, exclude_min=True)


@st.composite
def parts(draw: st.DrawFn, name: str) -> Part[TokenPruner]:
    """A pruner with some of its settings; ``keep`` is above 0."""
    cls = CATALOG.registries[TokenPruner][name].cls
    drawn = draw(part_settings(CATALOG, cls))
    assume(drawn.get("keep_rate", 1) > 0)
    return Part(cls, drawn, name, "token pruner")


@st.composite
def sequences(draw: st.DrawFn, masked: bool = False) -> Tokens:
    """(B, 1 + P + E, D) states with [CLS] before the patches and E others behind, some already pruned once."""
    torch.manual_seed(draw(SEEDS))
    batch, patches, extra, dim = (draw(st.integers(*span)) for span in ((1, 4), (1, 20), (0, 2), (1, 8)))
    length, source = 1 + patches + extra, None
    if draw(st.booleans()):
        source = torch.stack([torch.randperm(40)[:patches] for _ in range(batch)])  # (B, P), of 40 patches
        source[:, -1] = -1  # the token fused by an earlier pruning
    return Tokens(
        torch.randn(batch, length, 2 * dim),
        pooled=torch.randn(batch, 2 * dim) if draw(st.booleans()) else None,
        mask=torch.rand(batch, length) < 0.7 if masked and draw(st.booleans()) else None,
        patches=(1, 1 + patches),
        source=source,
    )


def cues(tokens: Tokens) -> BlockCues:
    """Keys and attention of one head over the states themselves."""
    keys = tokens.x.unsqueeze(1)  # (B, 1, N, D)
    return BlockCues(lambda: (keys, (keys @ keys.transpose(-2, -1)).softmax(-1)))


def build(part: Part[TokenPruner], tokens: Tokens, guide_dim: int) -> tuple[TokenPruner, Tensor]:
    """The pruner, in eval mode, and a guide (B, G)."""
    torch.manual_seed(0)
    pruner = part(dim=int(tokens.x.shape[2]), guide_dim=guide_dim).eval()
    return pruner, torch.randn(len(tokens.x), guide_dim)


def run(pruner: TokenPruner, tokens: Tokens, guide: Tensor, seed: int = 0) -> Tokens:
    torch.manual_seed(seed)
    with torch.no_grad():
        return prune(pruner, tokens, guide, cues(tokens) if pruner.place == "in_block" else BlockCues())


@settings(PROFILE, max_examples=10)
@given(data=st.data())
@pytest.mark.parametrize("name", PRUNERS)
def test_the_contract_with_any_settings(name, data):
    check_pruner(data.draw(parts(name)))


@PROFILE
@given(data=st.data(), tokens=sequences(), guide_dim=st.integers(1, 9))
@pytest.mark.parametrize("name", PRUNERS)
def test_patches_stay_what_and_in_the_order_they_were(name, data, tokens, guide_dim):
    part = data.draw(parts(name))
    pruner, guide = build(part, tokens, guide_dim)
    out = run(pruner, tokens, guide)
    start, stop = tokens.patches
    count, (first, last) = kept_count(stop - start, part.settings.get("keep_rate", pruner.keep_rate)), out.patches
    fused = last - first - count
    assert first == start and fused in (0, 1)
    assert torch.equal(out.x[:, :start], tokens.x[:, :start])
    assert torch.equal(out.x[:, last:], tokens.x[:, stop:])
    assert out.pooled is tokens.pooled and out.mask is None
    before = torch.arange(stop - start).expand(len(tokens.x), -1) if tokens.source is None else tokens.source
    for row in range(len(tokens.x)):
        kept = out.source[row, :count].tolist()
        places = [before[row].tolist().index(patch) for patch in kept]
        assert places == sorted(set(places))
        assert torch.equal(out.patch_states[row, :count], tokens.patch_states[row, places])
        assert out.source[row, count:].tolist() == [-1] * fused
    assert out.x.isfinite().all()
    assert out.scores is None or out.scores.shape == (len(tokens.x), stop - start)


@PROFILE
@given(data=st.data(), tokens=sequences(), guide_dim=st.integers(1, 9))
@pytest.mark.parametrize("name", PRUNERS)
def test_all_kept_is_as_it_was(name, data, tokens, guide_dim):
    part = data.draw(parts(name))
    pruner, guide = build(Part(part.cls, {**part.settings, "keep_rate": 1.0}), tokens, guide_dim)
    out, patches = run(pruner, tokens, guide), tokens.patches[1] - tokens.patches[0]
    assert torch.equal(out.patch_states[:, :patches], tokens.patch_states)
    assert not out.patch_states[:, patches:].any()  # nothing is left to be fused


@PROFILE
@given(data=st.data(), tokens=sequences(), guide_dim=st.integers(1, 9))
@pytest.mark.parametrize("name", PRUNERS)
def test_rows_are_pruned_apart(name, data, tokens, guide_dim):
    pruner, guide = build(data.draw(parts(name)), tokens, guide_dim)
    out = run(pruner, tokens, guide)
    if not all(torch.equal(run(pruner, tokens, guide, seed).scores, out.scores) for seed in (1, 2)):
        return  # a random one: its rows share one stream of numbers
    order = torch.tensor(data.draw(st.permutations(range(len(guide)))))
    mixed = run(pruner, tokens.rows(order), guide[order])
    torch.testing.assert_close(mixed.scores, out.scores[order])
    clear = clear_rows(out.scores[order], kept_count(int(out.scores.shape[1]), pruner.keep_rate))
    assert torch.equal(mixed.source[clear], out.source[order][clear])
    torch.testing.assert_close(mixed.x[clear], out.x[order][clear])


def clear_rows(scores: Tensor, count: int) -> Tensor:
    """(B,) bool: rows in which rounding cannot change which ``count`` scores are the best."""
    ordered = scores.sort(descending=True).values
    if count == ordered.shape[1]:
        return torch.ones(len(scores), dtype=torch.bool)
    return ordered[:, count - 1] - ordered[:, count] > 1e-5


@PROFILE
@given(data=st.data(), tokens=sequences(), guide_dim=st.integers(1, 9))
def test_prunings_in_turn_number_the_patches_of_the_picture(data, tokens, guide_dim):
    """Each keeps a subset of what the one before it kept."""
    for _ in range(3):
        pruner, guide = build(data.draw(parts(data.draw(st.sampled_from(PRUNERS)))), tokens, guide_dim)
        out = run(pruner, tokens, guide)
        if tokens.source is not None:
            for row, before in zip(out.source.tolist(), tokens.source.tolist(), strict=True):
                assert set(row) - {-1} <= set(before)
        tokens = out


@PROFILE
@given(data=st.data(), tokens=sequences(masked=True), extra=st.integers(0, 2))
def test_keep_takes_any_indices(data, tokens, extra):
    """In any order, more than once too: states, mask and source go together, everything else stays."""
    batch, (start, stop) = len(tokens.x), tokens.patches
    count = data.draw(st.integers(1, stop - start + 2))
    rows = st.lists(st.integers(0, stop - start - 1), min_size=count, max_size=count)
    index = data.draw(st.lists(rows, min_size=batch, max_size=batch))
    fused = torch.randn(batch, extra, int(tokens.x.shape[2])) if extra else None
    scores = torch.randn(batch, stop - start)
    out = tokens.keep(torch.tensor(index), fused, scores)
    assert out.patches == (start, start + count + extra)
    assert out.scores is scores and out.pooled is tokens.pooled
    for row, chosen in enumerate(index):
        places = [*range(start), *(start + i for i in chosen), *range(stop, tokens.x.shape[1])]
        seats = [i for i in range(out.x.shape[1]) if not start + count <= i < start + count + extra]
        assert torch.equal(out.x[row, seats], tokens.x[row, places])
        assert (out.mask is None) == (tokens.mask is None)
        if out.mask is not None:
            assert torch.equal(out.mask[row, seats], tokens.mask[row, places])
            assert out.mask[row, start + count : start + count + extra].all()
        sources = chosen if tokens.source is None else [int(tokens.source[row, i]) for i in chosen]
        assert out.source[row].tolist() == [*sources, *[-1] * extra]
        assert fused is None or torch.equal(out.patch_states[row, count:], fused[row])


@PROFILE
@given(data=st.data(), tokens=sequences(masked=True))
def test_keeping_twice_is_keeping_the_second_of_the_first(data, tokens):
    patches = tokens.patches[1] - tokens.patches[0]
    first = torch.stack([torch.randperm(patches)[: max(1, patches - 1)] for _ in range(len(tokens.x))])  # (B, K)
    second = torch.stack([torch.randperm(int(first.shape[1]))[:1] for _ in range(len(tokens.x))])  # (B, 1)
    one, other = tokens.keep(first).keep(second), tokens.keep(first.gather(1, second))
    assert torch.equal(one.x, other.x) and torch.equal(one.source, other.source) and one.patches == other.patches
    assert one.mask is None or torch.equal(one.mask, other.mask)


@PROFILE
@given(patches=st.integers(1, 2000), rates=st.tuples(RATES, RATES))
def test_the_count_kept_grows_with_the_rate(patches, rates):
    low, high = (kept_count(patches, rate) for rate in sorted(rates))
    assert 1 <= low <= high <= patches
    assert abs(high - max(rates) * patches) < 1 or high == 1
    assert kept_count(patches, 1.0) == patches
    whole = [kept_count(patches, i / patches) for i in range(1, patches + 1)]  # i patches of P, despite rounding
    assert whole == list(range(1, patches + 1))


@PROFILE
@given(
    scores=st.integers(1, 9).flatmap(
        lambda p: st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=p, max_size=p), min_size=1, max_size=3)
    ),
    keep=RATES,
)
def test_no_dropped_patch_has_a_better_score(scores, keep):
    kept = top_patches(torch.tensor(scores), keep).tolist()
    for row, chosen in zip(scores, kept, strict=True):
        assert len(chosen) == max(1, math.ceil(keep * len(row) - 1e-9))
        assert chosen == sorted(set(chosen))
        dropped = [score for i, score in enumerate(row) if i not in chosen]
        assert min(row[i] for i in chosen) >= max(dropped, default=-math.inf)


@PROFILE
@given(tokens=sequences(), data=st.data(), normalise=st.booleans())
def test_the_fused_token_is_a_weighted_sum_of_the_dropped(tokens, data, normalise):
    states = tokens.patch_states.double()
    batch, patches, dim = states.shape
    weights = torch.rand(batch, patches, dtype=torch.float64)
    kept: Any = [data.draw(st.sets(st.integers(0, patches - 1), min_size=1)) for _ in range(1)] * batch
    fused = fuse_dropped(states, weights, torch.tensor([sorted(chosen) for chosen in kept]), normalise)
    for row in range(batch):
        rest = [i for i in range(patches) if i not in kept[row]]
        total = sum((weights[row, i] * states[row, i] for i in rest), torch.zeros(dim, dtype=torch.float64))
        if normalise:
            total = total / max(sum(float(weights[row, i]) for i in rest), 1e-6)
        torch.testing.assert_close(fused[row, 0], total)
