"""Losses and speed between two readings, for hooks that log. Reading waits for the device; adding does not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from core.training.trainer import Trainer


@dataclass(frozen=True)
class Reading:
    """What happened since the last reading."""

    losses: dict[str, float]  # means, unweighted; "loss" comes first: the weighted sum that was trained
    images_per_second: float
    wait_share: float  # of the time, spent waiting for data


class Meter:
    """Sums kept on the device from one reading to the next."""

    def __init__(self, trainer: Trainer):
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._sums: dict[str, Tensor] = {}
        self._step, self._waited, self._since = trainer.step, trainer.data_wait_seconds, time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        self._sums = {name: self._sums[name] + loss if self._sums else loss for name, loss in losses.items()}

    def read(self, trainer: Trainer) -> Reading:
        """Means and speeds since the last call; at least one step must lie between."""
        steps = trainer.step - self._step
        means = {name: float(total) / steps for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._since
        waited = trainer.data_wait_seconds - self._waited
        self._restart(trainer)
        total = sum(trainer.weights[name] * mean for name, mean in means.items())
        images = steps * trainer.settings.batch * trainer.settings.gradient_accumulation_steps
        return Reading({"loss": total, **means}, images / seconds, waited / seconds)


def due(trainer: Trainer) -> bool:
    """Whether this step is one to log: every ``log_every``-th, and the last."""
    return trainer.step % trainer.settings.log_every == 0 or trainer.step == trainer.settings.steps
