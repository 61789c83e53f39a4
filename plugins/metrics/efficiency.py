"""Cost of inference, pruned and unpruned: MACs are counted, images per second are measured.

Both are of one path, plugins.compute.fvcore_macs.PairInference: vision encoder, text encoder, pruner and fusion for
images each paired with one text. Heads and decoder are not in it (a model without a fusion runs its decoder in the
fusion's place). The texts
are those of held-out pictures, padded to the longest of them; ``patchbay flops`` counts a text of full length.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from plugins.compute.fvcore_macs import PairInference
from plugins.compute.torch_macs import amount, ratio
from plugins.hooks.report_table import columns
from registry.part import NonNegativeInt

logger = logging.getLogger("patchbay")


@dataclass(frozen=True)
class TimingSettings:
    """Measurement of throughput."""

    rounds: NonNegativeInt = 5  # timed rounds, pruned and unpruned interleaved; 0: no timing


@hookimpl
def settings(add: Callable[[str, type], None]) -> None:
    add("evaluate", TimingSettings)


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any]:
    """Sections ``macs`` (for one pair) and ``images_per_second`` (a batch of ``evaluate.batch``, median of rounds)."""
    model, split, batch = evaluation.model, evaluation.settings.split, evaluation.settings.batch
    rounds = evaluation.settings_for(TimingSettings).rounds
    examples = evaluation.examples(split, batch)
    images = evaluation.images(examples)
    text = evaluation.data.tokenizer([example.caption for example in examples]).to(evaluation.device)
    pair = PairInference(model)

    first = slice(0, 1)
    counted = whole = pair.count(images[first], text.rows(first))
    if model.pruners:
        with model.unpruned():
            whole = pair.count(images[first], text.rows(first))
    macs: dict[str, Any] = {"total": counted.total, "unpruned": whole.total, "parts": counted.parts}
    if counted.uncounted:
        macs["uncounted"] = counted.uncounted
        logger.warning("operations of unknown cost count as 0 MACs: %s", ", ".join(sorted(counted.uncounted)))

    def pruned() -> None:
        pair(images, text.ids, text.mask)

    def unpruned() -> None:
        with model.unpruned():
            pair(images, text.ids, text.mask)

    section: dict[str, Any] = {"pruned": None, "unpruned": None}
    spread: dict[str, Any] | None = None
    if rounds:
        calls = {"pruned": pruned, "unpruned": unpruned} if model.pruners else {"unpruned": unpruned}
        times = time_interleaved(calls, rounds, evaluation.device)
        times.setdefault("pruned", times["unpruned"])
        rates = {name: [len(images) / seconds for seconds in times[name]] for name in section}
        section = {name: statistics.median(rate) for name, rate in rates.items()}
        spread = {name: [min(rate), max(rate)] for name, rate in rates.items()}
    return {"macs": macs, "images_per_second": section, "images_per_second_spread": spread}


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    sections = [report.get(name) or {} for name in ("macs", "images_per_second", "images_per_second_spread")]
    if not any(sections):
        return None
    return {"macs": _format_lines(*sections), "images_per_second": [], "images_per_second_spread": []}


def _format_lines(macs: dict[str, Any], speed: dict[str, Any], spread: dict[str, Any]) -> list[str]:
    prunes = macs.get("total") != macs.get("unpruned") if macs else speed.get("pruned") != speed.get("unpruned")
    rows: list[tuple[str, ...]] = [("", "pruned", "unpruned", "ratio")]
    if macs:
        pruned, whole = macs["total"], macs["unpruned"]
        rows.append(("MACs a pair", amount(pruned), amount(whole), ratio(whole, pruned)))
    if speed.get("pruned"):
        fast, slow = speed["pruned"], speed["unpruned"]
        rows.append(("images/s", f"{fast:,.0f}", f"{slow:,.0f}", ratio(fast, slow)))
    if spread:
        ranges = [f"{low:,.0f} to {high:,.0f}" for low, high in (spread["pruned"], spread["unpruned"])]
        rows.append(("  slowest to fastest", *ranges, ""))
    rows = rows if prunes else [row[:2] for row in rows[1:]]
    title = f"Inference for an image with a text: encoders, {'pruner, ' if prunes else ''}fusion"
    lines = [title, *columns(rows)] if rows else [title]
    parts = {name: count for name, count in macs.get("parts", {}).items() if count}
    if parts:
        lines.append(
            f"  MACs {'pruned' if prunes else 'by part'}: "
            + ", ".join(f"{name} {amount(count)}" for name, count in parts.items())
        )
    if macs.get("uncounted"):
        lines.append("  of unknown cost, counted as 0: " + ", ".join(macs["uncounted"]))
    return lines


def time_interleaved(calls: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Measure the seconds of each call in each round.

    The calls take turns, so that a machine that slows down slows all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first round is a warm-up and is not recorded
        for name, call in calls.items():
            start = _now(device)
            call()
            seconds = _now(device) - start
            if turn:
                taken[name].append(seconds)
    return taken


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
