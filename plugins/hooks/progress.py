"""Progress of training on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from torch import Tensor
from tqdm import tqdm

from core.hookspecs import hookimpl
from core.training.trainer import Trainer
from plugins.hooks.meter import Meter, Reading, due


@hookimpl
def training_starts(trainer: Trainer) -> None:
    trainer.state["progress"] = Progress(trainer)


@hookimpl
def after_step(trainer: Trainer, losses: dict[str, Tensor]) -> None:
    trainer.state["progress"].advance(trainer, losses)


@hookimpl
def training_ends(trainer: Trainer) -> None:
    trainer.state["progress"].close()


class Progress:
    """The progress bar or lines of one run."""

    def __init__(self, trainer: Trainer):
        self.meter = Meter(trainer)
        self.bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=trainer.settings.steps,
                initial=trainer.step,
                dynamic_ncols=True,
                file=sys.stderr,
                bar_format="{percentage:3.0f}% |{bar:16}| {n}/{total}  {elapsed} < {remaining}  {postfix}",
            )

    def advance(self, trainer: Trainer, losses: dict[str, Tensor]) -> None:
        """Count one step; print its losses if it is one to log, or the first."""
        self.meter.add(losses)
        if self.bar is not None:
            self.bar.update()
        first = trainer.step == trainer.first_step + 1
        if not (due(trainer) or first):
            return
        reading = self.meter.read(trainer)
        if self.bar is not None:
            self.bar.set_postfix_str(f"{format_losses(reading.losses)}  {format_speed(reading)}")
        else:
            print(format_line(trainer, reading), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def format_line(trainer: Trainer, reading: Reading) -> str:
    """One line: step, losses, learning rate, speed, fraction of the time spent waiting, time left."""
    steps = trainer.settings.steps
    done = trainer.step - trainer.first_step
    left = (time.perf_counter() - trainer.started) / done * (steps - trainer.step)
    rate = max(trainer.learning_rates.values())
    step = f"step {trainer.step:>{len(str(steps))}}/{steps}"
    return (
        f"{step}  {format_losses(reading.losses)}  lr {rate:.2g}  {format_speed(reading)}  {format_seconds(left)} left"
    )


def format_losses(losses: dict[str, float]) -> str:
    """``loss 5.123  itc 3.21 itm 0.66``"""
    total, *others = losses.items()
    return f"loss {total[1]:.3f}  " + " ".join(f"{name} {value:.3g}" for name, value in others)


def format_speed(reading: Reading) -> str:
    """``412 images/s  wait 3 %``"""
    return f"{reading.images_per_second:.0f} images/s  wait {100 * reading.wait_share:.0f} %"


def format_seconds(seconds: float) -> str:
    """``2:13``, ``1:02:13``"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
