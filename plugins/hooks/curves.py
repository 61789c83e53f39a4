"""curves.png in the run's folder: each loss over the steps, as logged and smoothed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from core.files import paths
from core.hookspecs import hookimpl
from core.training.trainer import Trainer
from plugins.hooks.metrics_log import lines

MAX_COLUMNS = 3  # panels in a row


@hookimpl
def training_ends(trainer: Trainer) -> None:
    logged = lines(trainer.folder)
    names = ["loss", *trainer.weights] if len(trainer.weights) > 1 else list(trainer.weights)
    figure = plot([line["step"] for line in logged], {name: [line[name] for line in logged] for name in names})
    with paths.open(os.path.join(trainer.folder, "curves.png"), "wb") as file:
        figure.savefig(file, dpi=120)


def plot(steps: Sequence[int], losses: dict[str, Sequence[float]]) -> Figure:
    """One panel for each loss: values thin, running mean thick, its last value in the title."""
    across = min(MAX_COLUMNS, len(losses))
    down = math.ceil(len(losses) / across)
    figure = Figure(figsize=(3.9 * across, 2.7 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for panel, (name, values) in zip(axes, losses.items(), strict=False):
        mean = running_mean(values)
        panel.plot(steps, values, color="#9ecae1", linewidth=0.9)
        panel.plot(steps, mean, color="#08519c", linewidth=1.8)
        panel.set_title(f"{name}   {mean[-1]:.3g}", fontsize=11, loc="left")
        panel.set_xlabel("step", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.margins(x=0.01)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[len(losses) :]:
        panel.set_axis_off()
    return figure


def running_mean(values: Sequence[float], window: float = 0.04) -> list[float]:
    """Centred running mean; ``window`` is its width as a fraction of the values. At the ends it is narrower."""
    half = max(1, round(len(values) * window / 2)) if len(values) > 2 else 0
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
