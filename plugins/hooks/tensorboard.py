"""Scalars for TensorBoard in ``<run folder>/tensorboard``, with ``run.tensorboard: true``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.training.trainer import Trainer
from plugins.hooks.meter import Meter, due


@dataclass(frozen=True)
class TensorBoardSettings:
    """Event files for TensorBoard."""

    free_on_resume: ClassVar = frozenset({"tensorboard"})
    tensorboard: bool = False  # scalars for TensorBoard too (extra "tensorboard")


@hookimpl
def settings(add: Callable[[str, type], None]) -> None:
    add("run", TensorBoardSettings)


@hookimpl
def training_starts(trainer: Trainer) -> None:
    """Open the event file; a resumed run hides what was written after its checkpoint.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """
    if not trainer.settings_for(TensorBoardSettings).tensorboard:
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "run.tensorboard: TensorBoard is not installed; pip install 'patchbay-vl[tensorboard]', or set it to false"
        ) from None
    writer = SummaryWriter(os.path.join(trainer.folder, "tensorboard"), purge_step=trainer.first_step + 1)
    trainer.state["tensorboard"] = (writer, Meter(trainer))


@hookimpl
def after_step(trainer: Trainer, losses: dict[str, Tensor]) -> None:
    if "tensorboard" not in trainer.state:
        return
    writer, meter = trainer.state["tensorboard"]
    meter.add(losses)
    if due(trainer):
        reading = meter.read(trainer)
        scalars = {f"loss/{name}": value for name, value in reading.losses.items()}
        scalars |= {f"learning rate/{name or 'default'}": rate for name, rate in trainer.learning_rates.items()}
        scalars["gradient norm"] = float(trainer.grad_norm)
        scalars["speed/images per second"] = reading.images_per_second
        scalars["speed/wait share"] = reading.wait_share
        for name, value in scalars.items():
            writer.add_scalar(name, value, trainer.step)


@hookimpl
def training_ends(trainer: Trainer) -> None:
    if "tensorboard" in trainer.state:
        trainer.state["tensorboard"][0].close()
