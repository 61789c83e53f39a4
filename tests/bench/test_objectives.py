"""A training step, forward and backward, by objective; the rows that each sends through the blocks."""

from __future__ import annotations

import pytest

from bench.measure import copas_blocks, traffic
from core.objectives import Objectives

OBJECTIVES = ("itc", "itm", "mlm", "prefix_lm", "pta")


def rows(built, batch, name):
    """Rows through trunk, later blocks, text encoder, fusion, decoder: the closed form under ``leak_free``."""
    size = len(batch.images)
    share = getattr(built.objectives.parts[name], "fraction", 1.0)
    m = max(1, round(share * size))  # rows that take part
    r = len(batch.regions.images)
    return {
        "itc": (size, size, size, 0, 0),
        "itm": (size, size + 3 * m, size, 3 * m, 0),  # the similarities, then m matches and 2 m hard negatives
        "mlm": (size, m, m, m, 0),
        "prefix_lm": (size, m, m, m, m),
        "pta": (r, 0, r, 0, 0),  # blocks 1 to k alone
    }[name]


@pytest.mark.parametrize("chosen", [*OBJECTIVES, "all"])
def test_step(timed, copa, chosen):
    built, batch = copa
    names = OBJECTIVES if chosen == "all" else (chosen,)
    parts = {name: built.objectives.parts[name] for name in names}
    objectives = Objectives(built.model, parts, dict.fromkeys(names, 1.0)).train()

    def step():
        objectives.zero_grad(set_to_none=True)
        total, losses = objectives(batch)
        total.backward()
        return losses

    with traffic(copas_blocks(built.model)) as seen:
        losses = step()
    assert set(losses) == set(names)
    alone = [rows(built, batch, name) for name in names]
    trunk, finish, text, fusion, decoder = map(sum, zip(*alone, strict=True))
    size = len(batch.images)
    if chosen == "all":  # the batch's pictures and captions are encoded once for all who read them
        trunk, finish, text = trunk - 3 * size, finish - size, text - size
    total = {name: sum(n for n, _ in calls) for name, calls in seen.items()}
    assert total == {
        "trunk": trunk, "finish": finish, "text": text, "fusion": fusion, "connected": fusion, "decoder": decoder
    }  # fmt: skip
    timed(step)
