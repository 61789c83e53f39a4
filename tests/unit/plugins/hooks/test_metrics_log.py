"""metrics.jsonl: damaged lines, rounding, and the clock of a resumed run."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch

from plugins.hooks import metrics_log
from plugins.hooks.metrics_log import lines


def trainer(folder, first=0, steps=4, log_every=2):
    """The attributes of core.training.trainer.Trainer that the hook reads."""
    return SimpleNamespace(
        step=first,
        first_step=first,
        settings=SimpleNamespace(steps=steps, log_every=log_every, batch=3, gradient_accumulation_steps=1),
        folder=str(folder),
        weights={"itc": 2.0, "itm": 0.5},
        learning_rates={"": 1e-4, "model.text": 3e-4},
        grad_norm=torch.tensor(0.12345678),
        started=time.perf_counter(),
        data_wait_seconds=0.0,
        state={},
    )


def train(run, losses=(1 / 3, 4.0)):
    metrics_log.training_starts(trainer=run)
    while run.step < run.settings.steps:
        run.step += 1
        pair = {name: torch.tensor(value) for name, value in zip(run.weights, losses, strict=True)}
        metrics_log.after_step(trainer=run, losses=pair)
    return lines(run.folder)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("\n", []),
        ('{"step": 1}', []),  # without its end a line may be cut
        ('{"step": 1}\n', [1]),
        ('{"step": 1}\n{"step": 2', [1]),
        ('{"step": 1}\n{"st\n{"step": 3}\n', [1]),
        ('{"step": 1}\n\n{"step": 2}\n', [1]),
    ],
)
def test_lines_up_to_the_first_invalid_one(text, steps, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert [line["step"] for line in lines(str(tmp_path))] == steps


def test_no_file_no_lines(tmp_path):
    assert lines(str(tmp_path)) == []


def test_values_of_a_line(tmp_path):
    first, last = train(trainer(tmp_path))
    assert (first["step"], last["step"]) == (2, 4)
    for line in (first, last):
        assert line["itc"] == 0.333333
        assert line["itm"] == 4
        assert line["loss"] == pytest.approx(2 / 3 + 2, abs=1e-6)
        assert line["lr"] == 3e-4  # the highest of the groups
        assert line["grad_norm"] == 0.123457
        assert line["wait_share"] == 0


def test_a_loss_of_nan_stays_readable(tmp_path):
    values = [line["itc"] for line in train(trainer(tmp_path), (float("nan"), 1.0))]
    assert all(value != value for value in values)
    assert len(values) == 2


def test_seconds_continue_where_the_checkpoint_was(tmp_path):
    file = tmp_path / "metrics.jsonl"
    entries = [{"step": 2, "seconds": 100.0}, {"step": 4, "seconds": 900.0}]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run = trainer(tmp_path, first=2)
    run.started -= 7.0
    before, after = train(run)
    assert before == entries[0]  # step 4 is done again
    assert after["step"] == 4
    assert 107 <= after["seconds"] < 120
