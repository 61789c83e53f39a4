"""Mean losses and speed between two readings, for hooks that log. ``read`` synchronises with the GPU, ``add`` not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from core.training.trainer import Trainer


@dataclass(frozen=True)
class Reading:
    """Mean losses and speed since the last reading."""

    losses: dict[str, float]  # means, unweighted; the first, "loss", is their weighted sum
    images_per_second: float
    wait_share: float  # fraction of the time spent waiting for data


class Meter:
    """Sums of the losses, on the device, since the last reading."""

    def __init__(self, trainer: Trainer):
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._sums: dict[str, Tensor] = {}
        self._step, self._wait_seconds, self._start = trainer.step, trainer.data_wait_seconds, time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the scalar losses of one step."""
        self._sums = {name: self._sums[name] + loss if self._sums else loss for name, loss in losses.items()}

    def read(self, trainer: Trainer) -> Reading:
        """Return means and speed since the last call, which must be at least one step ago."""
        steps = trainer.step - self._step
        means = {name: float(total) / steps for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._start
        wait_seconds = trainer.data_wait_seconds - self._wait_seconds
        self._restart(trainer)
        total = sum(trainer.weights[name] * mean for name, mean in means.items())
        images = steps * trainer.settings.batch * trainer.settings.gradient_accumulation_steps
        return Reading({"loss": total, **means}, images / seconds, wait_seconds / seconds)


def due(trainer: Trainer) -> bool:
    """Return True at the steps to log: every ``log_every``-th and the last."""
    return trainer.step % trainer.settings.log_every == 0 or trainer.step == trainer.settings.steps
