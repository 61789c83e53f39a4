"""curves.png in the run's folder: each loss over the steps, as logged and smoothed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.files import paths
from core.hookspecs import hookimpl
from core.training.trainer import Trainer
from plugins.hooks.metrics_log import lines

MAX_COLUMNS = 3  # panels in a row
WINDOW = 0.04  # width of the running mean, as a fraction of the values
LOG_RATIO = 20  # of the greatest to the smallest value, from which a panel's axis is logarithmic
THIN, THICK = {"color": "#6baed6", "linewidth": 0.9}, {"color": "#08306b", "linewidth": 1.8}


@hookimpl
def training_ends(trainer: Trainer) -> None:
    logged = lines(trainer.folder)
    names = ["loss", *trainer.weights] if len(trainer.weights) > 1 else list(trainer.weights)
    figure = plot([line["step"] for line in logged], {name: [line[name] for line in logged] for name in names})
    with paths.open(os.path.join(trainer.folder, "curves.png"), "wb") as file:
        figure.savefig(file, dpi=120)


def plot(steps: Sequence[int], losses: dict[str, Sequence[float]]) -> Figure:
    """One panel for each loss: values thin, running mean thick, its last value in the title; one legend for all."""
    across = min(MAX_COLUMNS, len(losses))
    down = math.ceil(len(losses) / across)
    figure = Figure(figsize=(max(3.9 * across, 5.2), 2.7 * down + 0.4), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for panel, (name, values) in zip(axes, losses.items(), strict=False):
        mean = running_mean(values)
        thin = panel.plot(steps, values, **THIN, marker="." if len(steps) == 1 else None)
        thick = panel.plot(steps, mean, **THICK)
        panel.set_title(f"{name}   {mean[-1]:.3g}", fontsize=11, loc="left")
        panel.set_xlabel("step", fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        label = "weighted sum" if name == "loss" and len(losses) > 1 else "loss"
        if min(values) > 0 and max(values) > LOG_RATIO * min(values):
            panel.set_yscale("log")
            label += " (log scale)"
        panel.set_ylabel(label, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.margins(x=0.01)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[len(losses) :]:
        panel.set_axis_off()
    width = 2 * half_width(len(steps)) + 1
    smooth = f"running mean of {width} logged values, the last one in the title" if width > 1 else "not smoothed"
    figure.legend(
        [*thin, *thick], ["as logged", smooth], loc="outside lower center", ncols=2, fontsize=9, frameon=False
    )
    return figure


def half_width(count: int, window: float = WINDOW) -> int:
    """Number of neighbours on each side in the running mean of ``count`` values; up to 2 values are not smoothed."""
    return max(1, round(count * window / 2)) if count > 2 else 0


def running_mean(values: Sequence[float], window: float = WINDOW) -> list[float]:
    """Centred running mean; ``window`` is its width as a fraction of the values. At the ends it is narrower."""
    half = half_width(len(values), window)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
