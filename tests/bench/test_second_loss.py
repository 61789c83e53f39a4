"""What CoCa's second loss costs: both against the contrast alone and captions alone, in MACs and in measured time.

PATCHBAY_BENCH_ROUNDS=9 pytest -s tests/bench/test_second_loss.py prints the table. The paper, at 6 + 6 layers and by
time on TPUs: 1.18x of the contrast alone, 1.009x of captions alone.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch

from bench.measure import ROUNDS, machine
from core import discovery
from core.loading import build_model
from core.model import ModelSpec
from core.objectives import Objectives
from core.recipe import Recipe, read
from core.run import assemble
from core.types import Batch, DataSpec, Text
from plugins.compute import dry_run
from plugins.metrics.efficiency import time_interleaved

COCA = Path(__file__).parents[2] / "projects" / "coca"
ONE = ("itc", "caption")
SIZES = {  # recipe, layers in each half, what its data would say, pairs to a step
    "pretrain.yaml, 2 + 2 layers": ("pretrain.yaml", 2, DataSpec(64, 40, 217), 64),
    "base.yaml, 6 + 6 layers": ("base.yaml", 6, DataSpec(288, 76, 64_000), 4),
    "base.yaml, 12 + 12 layers": ("base.yaml", 12, DataSpec(288, 76, 64_000), 4),
}
LINES: list[str] = []


def recipe(name: str, layers: int, pairs: int) -> Recipe:
    halves = [f"model.decoder.{half}={layers}" for half in ("unimodal", "multimodal")]
    return read(str(COCA / name), [*halves, f"train.batch={pairs}", "train.precision=fp32"], discovery.load())


def macs(chosen: Recipe, sizes: DataSpec) -> dict[str, int]:
    """Of a step, forward and backward, by shapes alone."""
    made = dry_run.build_dry_run(chosen, sizes)
    costs = {"both": made.cost(), **made.alone()}
    return {which: cost.forward + cost.backward for which, cost in costs.items()}


def batch(sizes: DataSpec, pairs: int) -> Batch:
    """Noise, and texts of full length: what is timed is the greatest share that a caption can have."""
    images = torch.randint(0, 256, (pairs, 3, sizes.image_size, sizes.image_size), dtype=torch.uint8)
    ids = torch.randint(5, sizes.vocabulary, (pairs, sizes.text_length))
    return Batch(images, Text(ids, torch.ones_like(ids, dtype=torch.bool)))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_second_loss(size, request):
    name, layers, sizes, pairs = size
    chosen = recipe(name, layers, pairs)
    counted = macs(chosen, sizes)
    ratios = [counted["both"] / counted[loss] for loss in ONE]
    assert 1 < ratios[1] < 1.05 < ratios[0] < 2, "the contrast comes almost free with the captions, not the reverse"

    both, drawn = assemble(chosen, build_model(chosen.model, ModelSpec.of(sizes))).train(), batch(sizes, pairs)
    alone = {loss: Objectives(both.model, {loss: both.parts[loss]}, both.weights).train() for loss in ONE}
    steps = {"both": both, **alone}

    def step(losses: Objectives) -> None:
        losses.zero_grad(set_to_none=True)
        losses(drawn)[0].backward()

    taken = time_interleaved(
        {which: lambda losses=losses: step(losses) for which, losses in steps.items()}, ROUNDS or 1, _CPU
    )
    cells = [request.node.callspec.id, f"{pairs}", *(f"{ratio:.3f}" for ratio in ratios), *_times(taken)]
    LINES.append("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)))


def _times(taken: dict[str, list[float]]) -> list[str]:
    """Of both against each: median and range of the ratios of rounds; then the seconds of a step of both."""
    found = []
    for loss in ONE:
        ratios = [together / one for together, one in zip(taken["both"], taken[loss], strict=True)]
        found.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return [*found, f"{statistics.median(taken['both']):.2f} s"]


_CPU = torch.device("cpu")
HEADINGS = ("", "pairs", "MACs: itc", "caption", "time: itc alone", "caption alone", "a step of both")
WIDTHS = (27, 5, 9, 7, 24, 24, 14)


@pytest.fixture(scope="module", autouse=True)
def _table():
    yield
    heads = "  ".join(f"{cell:<{width}}" for cell, width in zip(HEADINGS, WIDTHS, strict=True))
    legend = (
        f"Forward and backward of both losses divided by those of one alone; times in {ROUNDS or 1} rounds, in turn."
    )
    print("\n" + "\n".join([machine(), legend, heads, *LINES]))
