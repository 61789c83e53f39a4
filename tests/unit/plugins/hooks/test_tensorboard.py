"""TensorBoard: what is written, by a writer of the test's own, so that the extra need not be installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from core.settings import TrainSettings
from plugins.hooks import tensorboard
from plugins.hooks.tensorboard import TensorBoardSettings
from registry.sections import PluginSettings


class Writer:
    """Keeps its arguments and scalars."""

    def __init__(self, folder: str, purge_step: int):
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: dict[tuple[str, int], float] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value

    def close(self) -> None:
        self.closed = True


def run(monkeypatch, *, first: int = 0, enabled: bool = True) -> SimpleNamespace:
    """Train steps ``first`` + 1 to 6, logged every 4; step i has the loss i."""
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    trainer = SimpleNamespace(
        step=first,
        first_step=first,
        settings=TrainSettings(steps=6, log_every=4, batch=8),
        settings_for=PluginSettings({"run": [TensorBoardSettings(tensorboard=enabled)]}).get,
        folder="run",
        weights={"itc": 2.0},
        learning_rates={"": 1e-3, "model.text": 1e-4},
        grad_norm=0.5,
        data_wait_seconds=0.0,
        state={},
    )
    tensorboard.training_starts(trainer=trainer)
    for step in range(first + 1, 7):
        trainer.step = step
        tensorboard.after_step(trainer=trainer, losses={"itc": torch.tensor(float(step))})
    tensorboard.training_ends(trainer=trainer)
    return trainer


def test_scalars_at_the_logged_steps_and_the_last(monkeypatch):
    writer, _ = run(monkeypatch).state["tensorboard"]
    assert writer.folder.endswith("tensorboard") and writer.closed
    assert {step for _, step in writer.scalars} == {4, 6}
    values = {name: value for (name, step), value in writer.scalars.items() if step == 4}
    assert (values["loss/itc"], values["loss/loss"]) == (2.5, 5.0)  # means of steps 1 to 4, weighted by 2
    assert (values["learning rate/default"], values["learning rate/model.text"]) == (1e-3, 1e-4)
    assert values["gradient norm"] == 0.5
    assert {"speed/images per second", "speed/wait share"} <= set(values)
    assert writer.scalars["loss/itc", 6] == 5.5


@pytest.mark.parametrize("first", [0, 5])
def test_a_resumed_run_hides_what_came_after_its_checkpoint(monkeypatch, first):
    writer, _ = run(monkeypatch, first=first).state["tensorboard"]
    assert writer.purge_step == first + 1


def test_it_is_off_by_default(monkeypatch):
    assert TensorBoardSettings().tensorboard is False
    assert run(monkeypatch, enabled=False).state == {}
