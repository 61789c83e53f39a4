"""The training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.part import Count, Natural, Positive, Share


@dataclass(frozen=True)
class Group:
    """Parameters whose names start with ``prefix`` get their own learning rate."""

    prefix: str  # "model.backbone"
    lr: Positive


@dataclass(frozen=True)
class TrainSettings:
    """The ``train:`` section of a recipe."""

    steps: Count = 1000
    batch: Count = 64
    lr: Positive = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: Natural = 100  # steps
    final_lr: Share = 0.01  # as a share of lr
    weight_decay: Positive = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    groups: list[Group] = field(default_factory=list)
    accumulate: Count = 1  # batches to one optimizer step
    clip: Positive = 1.0  # greatest gradient norm; 0: no clipping
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: Natural = 1  # processes that draw batches ahead
    log_every: Count = 20
    save_every: Natural = 500  # steps between checkpoints; 0: only at the end


@dataclass(frozen=True)
class RunSettings:
    """The ``run:`` section of a recipe."""

    folder: str = ""  # default: runs/<recipe>-<time>
    resume: bool = False
    seed: int = 0
    device: str = "auto"
    evaluate: bool = True  # measure and draw when training ends
