"""Evaluation: the object that metrics receive, and the report made of their sections."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pluggy
import torch
from torch import Tensor

from core.files import REPORT, write_json
from core.kinds import Data
from core.model import Model
from core.runtime import autocast
from core.settings import EvaluateSettings, PluginSettings
from core.types import Example

T = TypeVar("T")


@dataclass
class Evaluation:
    """A model, in eval mode on ``device``, with the data to evaluate it on."""

    model: Model
    data: Data
    settings: EvaluateSettings
    device: torch.device
    precision: str  # "fp32" or "bf16"
    plugin_settings: PluginSettings = field(default_factory=PluginSettings)
    _held_out: dict[tuple[str, int], Sequence[Example]] = field(default_factory=dict, repr=False)

    def examples(self, split: str, count: int) -> Sequence[Example]:
        """Return the first ``count`` examples of a held-out split; they are drawn once."""
        if (split, count) not in self._held_out:
            self._held_out[split, count] = self.data.held_out(split, count)
        return self._held_out[split, count]

    def settings_for(self, cls: type[T]) -> T:
        """Return the recipe's values of a class that a plugin declared in the hook ``settings``.

        Raises:
            LookupError: no plugin declared it.
        """
        return self.plugin_settings.get(cls)

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.precision)

    def images(self, examples: Sequence[Example]) -> Tensor:
        """Stack the images of examples, (B, 3, H, W) uint8 on the device."""
        return torch.stack([example.image for example in examples]).to(self.device)


def measure(hooks: pluggy.PluginManager, evaluation: Evaluation) -> dict[str, Any]:
    """Merge the sections of all plugins: the content of report.json."""
    evaluation.model.eval()
    report: dict[str, Any] = {}
    with torch.no_grad(), evaluation.autocast():
        for section in hooks.hook.evaluate(evaluation=evaluation):
            report.update(section or {})
    return report


def table(hooks: pluggy.PluginManager, report: dict[str, Any]) -> str:
    """Format the report for a terminal. Sections that no plugin formats are printed as ``name.key  value``."""
    sections: dict[str, Sequence[str]] = {}
    for part in reversed([*hooks.hook.tell(report=report), *hooks.hook.format_report(report=report)]):
        sections.update(part or {})
    blocks = ["\n".join(sections[name]) for name in report if sections.get(name)]
    others = [pair for name, value in report.items() if name not in sections for pair in _flat(name, value)]
    if others:
        blocks.append("\n".join(columns([("Other", ""), *others])))
    return "\n\n".join(blocks)


def percent(share: float | None) -> str:
    """Format 0.391 as ``39.1``, None as a dash."""
    return "-" if share is None else f"{100 * share:.1f}"


def columns(rows: Sequence[tuple[str, ...]], least: int = 0) -> list[str]:
    """Align rows: the first column left, the others right and at least ``least`` characters wide."""
    widths = [max(least, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield ``("patches.pointing", "0.96")`` for every leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif value is not None:
        yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


def report_on(hooks: pluggy.PluginManager, evaluation: Evaluation, folder: str) -> dict[str, Any]:
    """Measure, write report.json, draw into the folder and print the closing table; returns the report."""
    evaluation.model.to(evaluation.device)
    report = measure(hooks, evaluation)
    write_json(os.path.join(folder, REPORT), report)
    with torch.no_grad(), evaluation.autocast():
        hooks.hook.draw(evaluation=evaluation, report=report, folder=folder)
    print(table(hooks, report), flush=True)
    return report
