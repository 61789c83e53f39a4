"""The training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pluggy
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core import ranks
from core.kinds import Data
from core.model import Model
from core.objectives import Objectives
from core.part import Between, Count, Natural, Positive, Share
from core.training import checkpoint
from core.training.gradients import Gradients
from core.training.loader import Wanted, load
from core.training.optimizer import freeze, make_optimizer
from core.types import Batch

Decay = Annotated[float, Between(0, 0.999999)]  # of a running mean, which with 1 would learn nothing


@dataclass(frozen=True)
class Group:
    """Parameters whose names start with ``prefix`` get their own learning rate; 0 freezes them."""

    prefix: str  # "model.backbone"
    lr: Positive


@dataclass(frozen=True)
class TrainSettings:
    """The ``train:`` section of a recipe."""

    start: str = ""  # a folder of a run or an import, whose weights are taken over where they fit
    steps: Count = 1000
    batch: Count = 64  # of all ranks together
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw"
    lr: Positive = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: Natural = 100  # steps
    final_lr: Share = 0.01  # as a share of lr
    weight_decay: Positive = 0.02
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    groups: list[Group] = field(default_factory=list)
    accumulate: Count = 1  # batches to one optimizer step
    chunks: Count = (
        1  # to compute a batch in, with the contrast of the whole: core.training.gradients; itm stays within a chunk
    )
    ema: Decay = 0.0  # decay of the running mean of the weights, which is then saved and measured; 0: none
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
    seed: Natural = 0
    device: str = "auto"
    evaluate: bool = True  # measure and draw when training ends
    tensorboard: bool = False  # scalars for TensorBoard too (extra "tensorboard")


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The share of the peak learning rate at a step, counted from 0: linear warm-up, then cosine or linear decay."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)  # 0 .. 1
    left = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    return settings.final_lr + (1 - settings.final_lr) * left


def check_batch(settings: TrainSettings) -> None:
    """
    Raises:
        ValueError: a batch cannot be shared evenly by the ranks and their chunks.
    """
    parts = ranks.count() * settings.chunks
    if settings.batch % parts:
        raise ValueError(
            f"train.batch: {settings.batch} rows cannot be shared evenly by {ranks.count()} ranks "
            f"of train.chunks {settings.chunks}; expected a multiple of {parts}"
        )


def pick_device(name: str) -> torch.device:
    """``auto``: the accelerator where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.autocast(torch.empty(0, device=name).device.type, enabled=False)  # there, and fit to train on
        return torch.device(name)
    except (RuntimeError, AssertionError) as err:  # a torch built without CUDA asserts
        raise ValueError(f"run.device: {name!r} is no device here: {str(err).splitlines()[0]}") from None


def pick_precision(name: str, device: torch.device) -> str:
    """``auto``: bf16 where the machine multiplies it faster than fp32, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


class Trainer:
    """Trains the objectives' model. Hooks see this object; of several ranks only the first calls them and saves, but
    ``after_backward`` is called on all.

    Attributes:
        step: optimizer steps done; ``first_step`` is where this process began.
        checkpoint: the newest one's folder, None before the first.
        grad_norm: of the last step, before clipping.
        started, waited: time.perf_counter() at the first step; seconds spent waiting for data since.
        state: for hooks to keep what is theirs.
    """

    def __init__(
        self,
        objectives: Objectives,
        data: Data,
        settings: TrainSettings,
        run: RunSettings,
        hooks: pluggy.PluginManager,
        folder: str,
    ):
        check_batch(settings)
        self.device = pick_device(run.device)
        self.precision = pick_precision(settings.precision, self.device)
        self.objectives, self.model = objectives.to(self.device), objectives.model
        self.data, self.settings, self.run, self.hooks, self.folder = data, settings, run, hooks, folder
        self.weights = objectives.weights
        self.average = objectives.average = copy.deepcopy(self.model).requires_grad_(False) if settings.ema else None
        self.leads = ranks.own() == 0  # of all ranks
        self.frozen = freeze(objectives, settings)
        self.optimizer = make_optimizer(objectives, settings, self.device)
        self.state: dict[str, Any] = {}
        self.step = self.first_step = 0
        self.grad_norm = 0.0
        self.started, self.waited = time.perf_counter(), 0.0
        self.checkpoint = checkpoint.newest(folder) if run.resume else None
        if self.checkpoint:
            self.step = self.first_step = checkpoint.load(self.checkpoint, objectives, self.optimizer)
        self.gradients = Gradients(objectives, settings.chunks, self.device, self.precision)

    @property
    def result(self) -> Model:
        """What training is for: the model, or the running mean of its weights."""
        return self.model if self.average is None else self.average

    @property
    def learning_rates(self) -> dict[str, float]:
        """Per group: "" is the recipe's ``lr``, the others are named by their prefix."""
        return {str(group["name"]): float(group["lr"]) for group in self.optimizer.param_groups}

    def fit(self) -> None:
        """Run the remaining steps.

        Raises:
            FloatingPointError: the gradient is not finite; says at which step and with which losses.
        """
        settings = self.settings
        self.objectives.train()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()  # frozen, it keeps its statistics
        if self.leads:
            for prefix, numbers in self.frozen.items():
                print(f"Frozen, for its learning rate is 0: {prefix or 'all else'}, {numbers:,} parameters", flush=True)
            self.hooks.hook.training_starts(trainer=self)
        self.started = time.perf_counter()
        batches = self._batches()
        while self.step < settings.steps:
            # the same after a resume; each rank its own
            torch.manual_seed((self.run.seed * 1_000_003 + self.step + (ranks.own() << 40)) % 2**63)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(self.step, settings)
            losses = self._gradients(batches)
            self.hooks.hook.after_backward(trainer=self)
            limit = settings.clip or math.inf
            self.grad_norm = float(nn.utils.clip_grad_norm_(self.objectives.parameters(), limit))
            if not math.isfinite(self.grad_norm):
                shown = ", ".join(f"{name} {float(loss):g}" for name, loss in losses.items())
                raise FloatingPointError(f"step {self.step}: the gradient's norm is {self.grad_norm}; losses: {shown}")
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            for _, objective in self.objectives.items():
                objective.after_step(self.model)
            if self.average is not None:
                torch._foreach_lerp_(
                    list(self.average.parameters()), [p.detach() for p in self.model.parameters()], 1 - settings.ema
                )
                for mean, now in zip(self.average.buffers(), self.model.buffers(), strict=True):
                    mean.copy_(now)
            self.step += 1
            if self.leads:
                self.hooks.hook.after_step(trainer=self, losses=losses)
            if self.step == settings.steps or (settings.save_every and self.step % settings.save_every == 0):
                self.save()
        if self.leads:
            self.hooks.hook.training_ends(trainer=self)

    def save(self) -> None:
        if not self.leads:
            return
        self.checkpoint = checkpoint.save(
            self.objectives, self.result, self.optimizer, self.folder, self.step, keep=self.checkpoint
        )
        self.hooks.hook.checkpoint_saved(trainer=self, folder=self.checkpoint)

    def _gradients(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Backward over the step's batches; the mean of each loss, unweighted."""
        sums: dict[str, Tensor] = {}
        count = self.settings.accumulate
        for number in range(count):
            asked = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - asked
            for name, loss in self.gradients(batch, 1 / count, last=number == count - 1).items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss / count
        return ranks.means(sums)

    def _batches(self) -> Iterator[Batch]:
        settings, pinned = self.settings, self.device.type == "cuda"
        first, last = (step * settings.accumulate for step in (self.step, settings.steps))
        wanted = Wanted(
            self.data, settings.batch, self.run.seed, self.objectives.reads, first, last, ranks.own(), ranks.count()
        )
        return load(wanted, settings.workers, pinned)
