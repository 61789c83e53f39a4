"""patches.png and patches_withheld.png: the pruner's scores on held-out images for a right and a wrong text.

Each row has the image with its boxes, the patch scores for the phrase of one object, the patches kept for that phrase,
and the scores for the phrase of an absent object, on the same scale. Letters: B images, P patches, H x W pixels.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from torch import Tensor

from core.evaluation import Evaluation
from core.files import paths
from core.hookspecs import hookimpl
from core.model import Model
from core.types import Example, Region
from plugins.metrics.patches import score
from plugins.metrics.settings import ExampleSettings

TARGET_COLOUR = "#39ff6a"  # of the boxes that the phrase describes
DROPPED_BRIGHTNESS = 0.18  # fraction of the brightness that a dropped patch keeps
COLOUR_MAP = "inferno"


@dataclass(frozen=True)
class Row:
    """Content of one row of a sheet."""

    example: Example
    right: Tensor  # (rows, columns) scores of the patches, 0 .. 1
    wrong: Tensor  # the same for the absent object's phrase
    kept: Tensor  # (rows, columns) bool


@hookimpl
def draw(evaluation: Evaluation, report: dict[str, Any], folder: str) -> list[str] | None:
    """Draw a sheet of ``evaluate.pictures`` rows for the measured split and one for ``withheld``.

    None for a model whose first pruner scores no patches.
    """
    chosen = evaluation.settings_for(ExampleSettings)
    count = chosen.pictures
    if evaluation.model.lacks("scores") or count == 0:
        return None
    written = []
    splits = {"patches.png": evaluation.settings.split, "patches_withheld.png": "withheld"}
    for name, split in splits.items():
        if split not in evaluation.data.splits():
            continue
        held_out = evaluation.examples(split, chosen.examples)
        examples = [example for example in held_out if example.regions and example.absent][:count]
        if examples:
            path = os.path.join(folder, name)
            with paths.open(path, "wb") as file:
                sheet(rows(evaluation, examples), f"{split} image", evaluation.model).savefig(file, dpi=130)
            written.append(path)
    return written


@torch.no_grad()
def rows(evaluation: Evaluation, examples: Sequence[Example]) -> list[Row]:
    """Score and prune the images, guided by the phrase of the first region of each."""
    model = evaluation.model
    grid = model.backbone.grid
    with evaluation.autocast():
        right, wrong = score(evaluation, examples)
        text = evaluation.data.tokenizer([example.regions[0].phrase for example in examples]).to(evaluation.device)
        words = None if model.text_tower is None else model.encode_text(text)
        tokens = model.kept_patches(model.trunk(evaluation.images(examples)), words)
    kept = torch.ones(right.shape, dtype=torch.bool)
    if tokens.source is not None:
        stays = torch.zeros(len(examples), right.shape[1] + 1, dtype=torch.bool)
        kept = stays.scatter(1, tokens.source.cpu() + 1, True)[:, 1:]  # (B, P); the source of a fused token is -1
    maps = [part.unflatten(1, grid) for part in (right.sigmoid(), wrong.sigmoid(), kept)]
    return [Row(example, *parts) for example, *parts in zip(examples, *maps, strict=True)]


def describe_pruner(model: Model) -> str:
    """Name the pruner whose scores are drawn, its block, and the number of pruners: "tpd after block 2"."""
    first, count = model.pruners[0], len(model.pruners)
    path = next(name for name, module in model.named_modules() if module is first).split(".")
    name = first.origin.split("'")[1] if "'" in first.origin else type(first).__name__
    block = f" {'after' if first.place == 'after_block' else 'in'} block {path[-1]}" if path[-1].isdigit() else ""
    place = f"{name}{block}{' of the fusion' if path[0] == 'fusion' else ''}"
    place += f", the first of {count} pruners" if count > 1 else ""
    return place if first.guided else f"{place}, which uses no text"


def sheet(rows: Sequence[Row], title: str, model: Model) -> Figure:
    """Draw the rows below each other, with one scale for all scores and ``title`` above the images."""
    count = len(model.pruners)
    kept_title = "input of the later blocks" if count == 1 else f"kept after all {count} pruners"
    height = 3.6 * len(rows) + 0.9  # inches, 0.35 of them for the titles
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.09, wspace=0.02, rect=(0, 0, 1, 1 - 0.35 / height))
    figure = Figure(figsize=(11.6, height), layout=layout, facecolor="white")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for row, (picture, right, kept, wrong) in zip(rows, axes, strict=True):
        phrase = row.example.regions[0].phrase
        targets = [region for region in row.example.regions if region.phrase == phrase]
        image = row.example.image.permute(1, 2, 0)  # (H, W, 3)
        _show(picture, image, "")
        picture.set_xlabel(textwrap.fill(row.example.caption, 46), fontsize=7.5, parse_math=False)
        for region in row.example.regions:
            _outline(picture, region, "white", 0.9, ":")
        heat = _heat(right, row.right, image, f'"{phrase}"')
        _show(kept, _dimmed(image, row.kept), f"kept: {int(row.kept.sum())} of {row.kept.numel()} patches")
        _heat(wrong, row.wrong, image, f'"{row.example.absent}"')
        wrong.title.set_color("#b2182b")
        for panel in (picture, right, kept):
            for target in targets:
                _outline(panel, target, TARGET_COLOUR, 1.8)
    for panel, head in zip(
        axes[0], (title, "scores for this phrase", kept_title, "scores for a wrong text"),
        strict=True,
    ):  # fmt: skip
        panel.annotate(
            head, (0.5, 1), (0, 24), xycoords="axes fraction", textcoords="offset points", ha="center", weight="bold"
        )
    bar = figure.colorbar(heat, ax=axes, location="bottom", fraction=0.1 / len(rows), pad=0.01, shrink=0.5, aspect=45)
    bar.set_label(f"score of a patch (sigmoid) by {describe_pruner(model)}", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _show(panel: Axes, image: Tensor, text: str) -> None:
    """Draw an image (H, W, 3) without ticks."""
    height, width = image.shape[:2]
    panel.imshow(image.numpy(), extent=(0, width, height, 0), interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_title(text, fontsize=9, parse_math=False)


def _heat(panel: Axes, shares: Tensor, image: Tensor, text: str) -> Any:
    """Draw scores (rows, columns) over the image (H, W, 3) in faint grey, one square a patch."""
    height, width = image.shape[:2]
    grey = image.float().mean(2)
    _show(panel, grey.unsqueeze(2).expand(-1, -1, 3).byte(), text)
    return panel.imshow(
        shares.numpy(),
        cmap=COLOUR_MAP,
        vmin=0,
        vmax=1,
        alpha=0.72,
        extent=(0, width, height, 0),
        interpolation="nearest",
    )


def _dimmed(image: Tensor, kept: Tensor) -> Tensor:
    """Darken the dropped patches of an image (H, W, 3); ``kept`` is (rows, columns)."""
    height, width = image.shape[:2]
    mask = kept.float()[None, None]  # (1, 1, rows, columns)
    share = torch.nn.functional.interpolate(mask, size=(height, width), mode="nearest")[0, 0]  # (H, W)
    return (image * (DROPPED_BRIGHTNESS + (1 - DROPPED_BRIGHTNESS) * share).unsqueeze(2)).byte()


def _outline(panel: Axes, region: Region, colour: str, width: float, style: str = "-") -> None:
    x0, y0, x1, y1 = region.box
    panel.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=width, linestyle=style))
