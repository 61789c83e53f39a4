"""The train, run and evaluate sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from registry.part import Between, Count, Fraction, NonNegativeFloat, NonNegativeInt

Decay = Annotated[float, Between(0, 0.999999)]  # of a running mean, which with 1 would learn nothing


@dataclass(frozen=True)
class Group:
    """Parameters whose names start with ``prefix`` get their own learning rate; 0 freezes them."""

    prefix: str  # "model.backbone"
    lr: NonNegativeFloat


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

    init_from: str = ""  # a folder of a run or an import, whose weights are taken over where they fit
    steps: Count = 1000
    batch: Count = 64  # of all ranks together
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw"
    lr: NonNegativeFloat = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: NonNegativeInt = 100  # steps
    min_lr_ratio: Fraction = 0.01  # as a share of lr
    weight_decay: NonNegativeFloat = 0.02
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    groups: list[Group] = field(default_factory=list)
    gradient_accumulation_steps: Count = 1  # batches to one optimizer step
    gradcache_chunks: Count = (
        1  # to compute a batch in, with the contrast of the whole: core.training.gradients; itm stays within a chunk
    )
    ema: Decay = 0.0  # decay of the running mean of the weights, which is then saved and measured; 0: none
    max_grad_norm: NonNegativeFloat = 1.0  # greatest gradient norm; 0: no clipping
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: NonNegativeInt = 1  # processes that draw batches ahead
    log_every: Count = 20
    save_every: NonNegativeInt = 500  # steps between checkpoints; 0: only at the end


@dataclass(frozen=True)
class RunSettings:
    """The ``run:`` section of a recipe."""

    folder: str = ""  # default: runs/<recipe>-<time>
    resume: bool = False
    seed: NonNegativeInt = 0
    device: str = "auto"
    evaluate: bool = True  # measure and draw when training ends
    tensorboard: bool = False  # scalars for TensorBoard too (extra "tensorboard")


@dataclass(frozen=True)
class EvaluateSettings:
    """The ``evaluate:`` section of a recipe."""

    split: str = "test"  # tune on "validation"
    candidates: Count = 256  # pictures and captions of the retrieval table
    rerank: Count = 16  # best candidates that ITM orders anew
    examples: Count = 256  # pictures behind the patch figures
    pictures: NonNegativeInt = 6  # held-out pictures drawn with their patch scores
    batch: Count = 64
    rounds: NonNegativeInt = 5  # timed rounds, pruned and unpruned alternating; 0: no timing
