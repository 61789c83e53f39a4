"""An Evaluation from the keys of the recipe's section ``evaluate``, for tests of metrics."""

from __future__ import annotations

from typing import Any

import torch

from core import discovery
from core.evaluation import Evaluation
from core.kinds import Data
from core.model import Model
from registry.sections import PluginSettings
from registry.signature import settings_of

CLASSES = [entry.cls for entry in discovery.load().settings.sections["evaluate"]]


def evaluation(model: Model, data: Data, precision: str = "fp32", **settings: Any) -> Evaluation:
    """Evaluate on the CPU; core's settings come first, then those of each plugin."""
    owned = [{key: settings.pop(key) for key in settings_of(cls) if key in settings} for cls in CLASSES]
    assert not settings, f"no settings of the section evaluate: {settings}"
    first, *others = (cls(**values) for cls, values in zip(CLASSES, owned, strict=True))
    added = PluginSettings({"evaluate": others})
    return Evaluation(model.eval(), data, first, torch.device("cpu"), precision, added)
