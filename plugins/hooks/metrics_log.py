"""metrics.jsonl in the run's folder: one JSON object every ``log_every`` steps.

{step, loss, <each objective>, lr, grad_norm, images_per_second, wait_share, seconds}: losses are means since the
previous line, ``loss`` is their weighted sum; ``lr`` is the highest of the groups' learning rates, ``grad_norm`` the
last step's norm before clipping, ``seconds`` the training time of the whole run, resumed parts included.
"""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any

from torch import Tensor

from core.files import paths, read_text, write_text
from core.hookspecs import hookimpl
from core.training.trainer import Trainer
from plugins.hooks.meter import Meter, due
from registry.json_text import dumps

FILE = "metrics.jsonl"


@hookimpl
def training_starts(trainer: Trainer) -> None:
    kept = [line for line in lines(trainer.folder) if line["step"] <= trainer.first_step]
    write_text(os.path.join(trainer.folder, FILE), "".join(dumps(line) + "\n" for line in kept))
    trainer.state["journal"] = (Meter(trainer), kept[-1]["seconds"] if kept else 0.0)


@hookimpl
def after_step(trainer: Trainer, losses: dict[str, Tensor]) -> None:
    meter, before = trainer.state["journal"]
    meter.add(losses)
    if not due(trainer):
        return
    reading = meter.read(trainer)
    line = {
        "step": trainer.step,
        **{name: round(value, 6) for name, value in reading.losses.items()},
        "lr": max(trainer.learning_rates.values()),
        "grad_norm": round(float(trainer.grad_norm), 6),
        "images_per_second": round(reading.images_per_second, 2),
        "wait_share": round(reading.wait_share, 4),
        "seconds": round(before + time.perf_counter() - trainer.started, 3),
    }
    with paths.open(os.path.join(trainer.folder, FILE), "a", encoding="utf-8") as file:
        file.write(dumps(line) + "\n")


def lines(folder: str) -> list[dict[str, Any]]:
    """Read metrics.jsonl from a run's folder, up to the first invalid line; empty if there is no file."""
    path = os.path.join(folder, FILE)
    if not paths.exists(path):
        return []
    entries = []
    for line in read_text(path).split("\n")[:-1]:  # a killed run may leave half a line at the end
        try:
            entries.append({key: math.nan if value is None else value for key, value in json.loads(line).items()})
        except ValueError:
            break
    return entries
