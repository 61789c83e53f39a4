"""What the benchmarks share: COPA at its default size, and the table that closes the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.measure import ROUNDS, Row, machine, table
from core.discovery import load
from core.recipe import read
from core.run import build

RECIPE = Path(__file__).parents[2] / "projects" / "copa" / "pretrain.yaml"
BATCH = 16
ROWS, LINES = pytest.StashKey[list[Row]](), pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def copa():
    """The default recipe's objects and its first batch of 16."""
    built = build(read(str(RECIPE), [f"train.batch={BATCH}"], load()))
    return built, built.data.batch(0, size=BATCH, seed=0, reads=built.objectives.batch_fields)


@pytest.fixture
def timed(benchmark):
    """Call something once untimed, then in timed rounds; returns what it returned last."""
    return lambda call: benchmark.pedantic(call, rounds=ROUNDS or 3, warmup_rounds=1)


@pytest.fixture
def add_row(request):
    return request.config.stash.setdefault(ROWS, []).append


@pytest.fixture
def tell(request):
    """A line for the end of the run."""
    return request.config.stash.setdefault(LINES, []).append


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("against open_clip: medians (ranges)")
        for line in [machine(), *lines]:
            terminalreporter.write_line(line)
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("pruned against unpruned")
        for line in table(rows):
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
