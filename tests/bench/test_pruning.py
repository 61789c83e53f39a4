"""Pruned against unpruned: deterministic counts are asserted, measured ratios are printed.

pytest tests/bench -s
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import torch

from core.discovery import load
from core.flops import Pair
from core.recipe import read
from core.run import build

RECIPE = Path(__file__).parents[2] / "projects" / "copa" / "pretrain.yaml"
BATCH = 16


@pytest.fixture(scope="module")
def copa():
    torch.manual_seed(0)
    catalog = load()
    built = build(read(str(RECIPE), [f"train.batch={BATCH}"], catalog))
    step = built.data.batch(0, size=BATCH, seed=0, reads=built.objectives.reads)
    return built, step


def forward(built, batch):
    model = built.model.eval()
    with torch.no_grad():
        words = model.read(batch.text)
        model.fusion(words, model.look(model.backbone.trunk(batch.images), words.pooled))


def train(built, batch):
    built.objectives.train()
    total, _ = built.objectives(batch)
    total.backward()
    built.objectives.zero_grad(set_to_none=True)


@pytest.mark.parametrize("what", [forward, train], ids=["forward", "training_step"])
@pytest.mark.parametrize("pruned", [True, False], ids=["pruned", "unpruned"])
def test_time(benchmark, copa, what, pruned):
    built, batch = copa
    built.model.backbone.pruning = pruned
    try:
        benchmark.pedantic(what, args=(built, batch), rounds=3, warmup_rounds=1)
    finally:
        built.model.backbone.pruning = True


def test_ratios(copa, capsys):
    """The two in turn in one process, so that a noisy machine hits both."""
    built, batch = copa
    with torch.no_grad():
        pair = Pair(built.model.eval())
        few = pair.count(batch.images[:1], batch.text.rows(slice(0, 1))).total
        with built.model.unpruned():
            all_ = pair.count(batch.images[:1], batch.text.rows(slice(0, 1))).total
    assert few < 0.9 * all_, "pruning must save MACs"
    lines = [f"MACs of a pair: pruned {few / 1e6:.1f} M, unpruned {all_ / 1e6:.1f} M, ratio {all_ / few:.2f}"]
    for what in (forward, train):
        ratios = []
        for _ in range(5):
            seconds = []
            for pruned in (True, False):
                built.model.backbone.pruning = pruned
                start = time.perf_counter()
                what(built, batch)
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
        built.model.backbone.pruning = True
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        lines.append(f"{what.__name__}: unpruned / pruned time {middle:.2f} (from {low:.2f} to {high:.2f}, 5 rounds)")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
