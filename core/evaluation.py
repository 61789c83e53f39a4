"""Evaluation: the object that metrics receive, and the report made of their sections."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from core.settings import EvaluateSettings
from core.types import Example
from registry.sections import PluginSettings

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


def report_on(hooks: pluggy.PluginManager, evaluation: Evaluation, folder: str) -> dict[str, Any]:
    """Measure, write report.json, draw into the folder; returns the report."""
    evaluation.model.to(evaluation.device)
    report = measure(hooks, evaluation)
    write_json(os.path.join(folder, REPORT), report)
    with torch.no_grad(), evaluation.autocast():
        hooks.hook.draw(evaluation=evaluation, report=report, folder=folder)
    hooks.hook.report_written(hooks=hooks, report=report, folder=folder)
    return report
