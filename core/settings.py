"""The train, run and evaluate sections of a recipe; plugins add keys to them by the hook ``settings``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from registry.part import Between, Count, Fraction, NonNegativeFloat, NonNegativeInt

Decay = Annotated[float, Between(0, 0.999999)]  # of a running mean; 1 would keep it constant


@dataclass(frozen=True)
class Group:
    """A learning rate for the parameters whose names start with ``prefix``; 0 freezes them."""

    prefix: str  # "model.backbone"
    lr: NonNegativeFloat


# arguments: the keys of one section of a recipe
@dataclass(frozen=True)
class TrainSettings:
    """The ``train:`` section of a recipe."""

    renamed_settings: ClassVar[Mapping[str, str]] = {
        "start": "init_from",
        "chunks": "gradcache_chunks",
        "clip": "max_grad_norm",
        "accumulate": "gradient_accumulation_steps",
        "final_lr": "min_lr_ratio",
    }
    free_on_resume: ClassVar = frozenset({"save_every", "log_every", "workers"})  # a resumed run may change them

    init_from: str = ""  # folder of a run or import; its weights initialise the parameters that they fit
    steps: Count = 1000
    batch: Count = 64  # examples of all ranks together
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw"
    lr: NonNegativeFloat = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: NonNegativeInt = 100  # steps
    min_lr_ratio: Fraction = 0.01  # final learning rate as a fraction of lr
    weight_decay: NonNegativeFloat = 0.02
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    groups: list[Group] = field(default_factory=list)
    gradient_accumulation_steps: Count = 1  # batches in one optimizer step
    gradcache_chunks: Count = 1  # parts of a batch in turn; contrastive losses use the whole batch, itm its part
    ema: Decay = 0.0  # decay of the weights' running mean, which is then saved and evaluated; 0: none
    max_grad_norm: NonNegativeFloat = 1.0  # maximum gradient norm; 0: no clipping
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: NonNegativeInt = 1  # processes that prepare batches
    log_every: Count = 20  # steps
    save_every: NonNegativeInt = 500  # steps between checkpoints; 0: only at the end


@dataclass(frozen=True)
class RunSettings:
    """The ``run:`` section of a recipe."""

    free_on_resume: ClassVar = frozenset({"folder", "resume", "device", "evaluate"})

    folder: str = ""  # default: runs/<recipe>-<time>
    resume: bool = False
    seed: NonNegativeInt = 0
    device: str = "auto"
    evaluate: bool = True  # evaluate when training ends


@dataclass(frozen=True)
class EvaluateSettings:
    """The ``evaluate:`` section of a recipe."""

    split: str = "test"  # tune on "validation"
    batch: Count = 64  # examples
