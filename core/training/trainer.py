"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import pluggy
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core import runtime
from core.kinds import Data
from core.model import Model
from core.objectives import Objectives
from core.settings import RunSettings, TrainSettings
from core.training import checkpoint
from core.training.gradients import BackwardPass
from core.training.loader import StepBatches, load
from core.training.optimizer import freeze, learning_rate, make_optimizer
from core.types import Batch
from registry.renaming import renamed
from registry.sections import PluginSettings

T = TypeVar("T")


def check_batch(settings: TrainSettings, objectives: Objectives) -> None:
    """Check that every rank and chunk gets equally many rows, and each objective enough to compare.

    Raises:
        ValueError: ``train.batch`` is not a multiple of ranks times chunks, or below an objective's ``min_batch``.
    """
    rows, ranks, chunks = settings.batch, runtime.world_size(), settings.gradcache_chunks
    among, parts = f"by {ranks} ranks of train.gradcache_chunks {chunks}", ranks * chunks
    faults = [f"cannot be shared evenly {among}; expected a multiple of {parts}"] if rows % parts else []
    low = {f"objectives.{name}": objective.min_batch(ranks, chunks) for name, objective in objectives.items()}
    faults += [f"shared {among} leave {k} without negatives; expected at least {n}" for k, n in low.items() if rows < n]
    if faults:
        raise ValueError("\n".join(f"train.batch: {rows} rows {fault}" for fault in faults))


@renamed({"leads": "is_main", "average": "ema_model", "waited": "data_wait_seconds"})
class Trainer:
    """Training loop over the objectives' model, passed to hooks.

    Of several ranks, rank 0 alone saves and calls hooks; ``after_backward`` is called on every rank.

    Args:
        resume_from: path of a checkpoint.

    Attributes:
        step: number of optimizer steps done; ``first_step`` is its value at the start of this process.
        checkpoint: path of the newest checkpoint, None before the first.
        grad_norm: gradient norm of the last step, before clipping.
        started: time.perf_counter() at the first step.
        data_wait_seconds: seconds spent waiting for data since.
        state: storage for hooks.

    Raises:
        ValueError: the batch cannot be divided among ranks, or the checkpoint does not fit.
    """

    def __init__(
        self,
        objectives: Objectives,
        data: Data,
        settings: TrainSettings,
        run: RunSettings,
        hooks: pluggy.PluginManager,
        folder: str,
        resume_from: str | None = None,
        plugin_settings: PluginSettings | None = None,
    ):
        check_batch(settings, objectives)
        self.device = runtime.pick_device(run.device)
        self.precision = runtime.pick_precision(settings.precision, self.device)
        self.objectives, self.model = objectives.to(self.device), objectives.model
        self.data, self.settings, self.run, self.hooks, self.folder = data, settings, run, hooks, folder
        self.plugin_settings = plugin_settings or PluginSettings()
        self.weights = objectives.weights
        self.is_main = runtime.rank() == 0  # of all ranks
        self.frozen = freeze(objectives, settings)
        self.optimizer = make_optimizer(objectives, settings, self.device)
        self.ema_model = objectives.ema_model = _running_mean(self.model, settings.ema) if settings.ema else None
        self.state: dict[str, Any] = {}
        self.grad_norm = 0.0
        self.started, self.data_wait_seconds = time.perf_counter(), 0.0
        self.checkpoint = resume_from
        self.step = self.first_step = checkpoint.load(resume_from, objectives, self.optimizer) if resume_from else 0
        self.backward = BackwardPass(objectives, self.device, self.precision, settings.gradcache_chunks)

    def settings_for(self, cls: type[T]) -> T:
        """Return the recipe's values of a class that a plugin declared in the hook ``settings``.

        Raises:
            LookupError: no plugin declared it.
        """
        return self.plugin_settings.get(cls)

    @property
    def result(self) -> Model:
        """The model to save and evaluate: the running mean of the weights if ``train.ema`` is set."""
        return self.model if self.ema_model is None else cast("Model", self.ema_model.module)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learning rate by the prefix of each parameter group; "" is the group of all others."""
        return {str(group["name"]): float(group["lr"]) for group in self.optimizer.param_groups}

    def fit(self) -> None:
        """Run the remaining steps.

        Raises:
            FloatingPointError: the gradient is not finite; names the step and the losses.
        """
        settings = self.settings
        self.objectives.train()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()  # a frozen BatchNorm keeps its statistics
        if self.is_main:
            for prefix, count in self.frozen.items():
                print(f"Frozen, for its learning rate is 0: {prefix or 'all else'}, {count:,} parameters", flush=True)
            self.hooks.hook.training_starts(trainer=self)
        self.started = time.perf_counter()
        batches = self._batches()
        while self.step < settings.steps:
            # the same after a resume; another on each rank
            torch.manual_seed((self.run.seed * 1_000_003 + self.step + (runtime.rank() << 40)) % 2**63)
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * learning_rate(self.step, settings)
            losses = self._gradients(batches)
            self.hooks.hook.after_backward(trainer=self)
            norm = nn.utils.clip_grad_norm_(self.objectives.parameters(), settings.max_grad_norm or math.inf)
            self.grad_norm = float(norm)
            if not math.isfinite(self.grad_norm):
                values = ", ".join(f"{name} {float(loss):g}" for name, loss in losses.items())
                raise FloatingPointError(f"step {self.step}: the gradient's norm is {self.grad_norm}; losses: {values}")
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            for _, objective in self.objectives.items():
                objective.after_step(self.model)
            if self.ema_model is not None:
                self.ema_model.update_parameters(self.model)
            self.step += 1
            if self.is_main:
                self.hooks.hook.after_step(trainer=self, losses=losses)
            if self.step == settings.steps or (settings.save_every and self.step % settings.save_every == 0):
                self.save()
        if self.is_main:
            self.hooks.hook.training_ends(trainer=self)

    def save(self) -> None:
        """Write a checkpoint and the weights, on rank 0."""
        if not self.is_main:
            return
        modules = self.objectives, self.result
        self.checkpoint = checkpoint.save(*modules, self.optimizer, self.folder, self.step, keep=self.checkpoint)
        self.hooks.hook.checkpoint_saved(trainer=self, folder=self.checkpoint)

    def _gradients(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Run the backward pass of the step's batches; the mean of each loss over them and over ranks, unweighted."""
        sums: dict[str, Tensor] = {}
        count = self.settings.gradient_accumulation_steps
        for number in range(count):
            start = time.perf_counter()
            batch = next(batches)
            self.data_wait_seconds += time.perf_counter() - start
            for name, loss in self.backward(batch, 1 / count, last=number == count - 1).items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss / count
        return runtime.all_reduce_mean(sums)

    def _batches(self) -> Iterator[Batch]:
        settings, rank, ranks = self.settings, runtime.rank(), runtime.world_size()
        first, last = (step * settings.gradient_accumulation_steps for step in (self.step, settings.steps))
        fields = self.objectives.batch_fields
        batches = StepBatches(self.data, settings.batch, self.run.seed, fields, first, last, part=rank, parts=ranks)
        return load(batches, settings.workers, pinned=self.device.type == "cuda")


def _running_mean(model: Model, decay: float) -> AveragedModel:
    """An exponential moving average of the weights that starts from the model's; buffers are copied."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)
    average.n_averaged.fill_(1)  # at 0 the first update would copy the model instead of averaging
    return average
