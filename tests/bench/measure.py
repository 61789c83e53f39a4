"""Counting what goes through a model's blocks, and timing pruned against unpruned in turn."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from core.model import Model
from plugins.metrics.efficiency import time_interleaved

ROUNDS = int(os.environ.get("PATCHBAY_BENCH_ROUNDS", "0"))  # 0: as few as each benchmark can do with

Shape = tuple[int, int]  # rows, tokens


@contextmanager
def traffic(blocks: dict[str, nn.Module]) -> Iterator[dict[str, list[Shape]]]:
    """What each block is called with while the context lasts: rows and tokens, call by call."""
    seen: dict[str, list[Shape]] = {name: [] for name in blocks}

    def watch(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name].append((int(inputs[0].shape[0]), int(inputs[0].shape[1])))

        return note

    handles = [block.register_forward_pre_hook(watch(name)) for name, block in blocks.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def copas_blocks(model: Model) -> dict[str, nn.Module]:
    """One block of each stretch of COPA in which the number of rows or tokens differs."""
    vit, split = model.backbone.vit, model.backbone.split
    blocks = {"trunk": vit.blocks[0], "finish": vit.blocks[split], "text": model.text.bert.encoder.layer[0]}
    blocks |= {"fusion": model.fusion.layers[0], "connected": model.fusion.layers[model.fusion.stride]}
    return blocks if model.decoder is None else {**blocks, "decoder": model.decoder.multimodal[0]}


def spread(model: Model, call: Callable[[], None], rounds: int) -> str:
    """The time of ``call`` unpruned divided by pruned, the two taking turns: median, and range in so many rounds."""

    def unpruned() -> None:
        with model.unpruned():
            call()

    device = next(model.parameters()).device
    taken = time_interleaved({"pruned": call, "unpruned": unpruned}, rounds, device)
    ratios = [slow / fast for fast, slow in zip(taken["pruned"], taken["unpruned"], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {rounds})"


@dataclass(frozen=True)
class Row:
    """A line of the closing table."""

    what: str
    pruned: int  # MACs of one pair
    unpruned: int
    forward: str
    training: str

    @property
    def cells(self) -> tuple[str, ...]:
        macs = f"{self.unpruned / 1e9:.2f} G", f"{self.pruned / 1e9:.2f} G", f"{self.unpruned / self.pruned:.2f}"
        return (self.what, *macs, self.forward, self.training)


HEADINGS = ("", "MACs unpruned", "pruned", "ratio", "time ratio, forward", "time ratio, forward and backward")


def table(rows: list[Row]) -> list[str]:
    """Lines of text: the machine, then the rows in columns."""
    cells = [HEADINGS, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    legend = (
        "Ratios: unpruned divided by pruned; of times the median, and the range in so many rounds. MACs: of one pair."
    )
    return [machine(), legend, *lines]


def machine() -> str:
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.M)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    processor = found[1] if found else platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return f"{processor}, {threads}{load}, torch {torch.__version__}, fp32"
