"""What a run shows and writes while it trains: lines, metrics_log, curves, TensorBoard, pictures."""

import importlib.util
import io
import itertools
import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from evaluations import evaluation as evaluation_of
from matplotlib.image import imread
from tiny import TinyData, tiny_model

from core.kinds import TokenPruner
from core.settings import RunSettings, TrainSettings
from plugins.hooks import curves, meter, metrics_log, progress, tensorboard
from plugins.metrics import patch_maps
from registry.sections import PluginSettings


def trainer(folder, steps=10, log_every=4, first=0, **run):
    """What hooks read of core.training.trainer.Trainer."""
    return SimpleNamespace(
        step=first,
        first_step=first,
        settings=TrainSettings(steps=steps, log_every=log_every, batch=8, gradient_accumulation_steps=2),
        run=RunSettings(),
        settings_for=PluginSettings({"run": [tensorboard.TensorBoardSettings(**run)]}).get,
        folder=str(folder),
        weights={"itc": 1.0, "pta": 0.5},
        learning_rates={"": 1e-3, "model.text": 1e-4},
        grad_norm=0.7,
        started=time.perf_counter(),
        data_wait_seconds=0.0,
        state={},
    )


def drive(run, hook, until=None, pause=0.0):
    """The life of a run as the loop calls it; step i has the losses i and 2 i."""
    hook.training_starts(trainer=run)
    while run.step < (until or run.settings.steps):
        run.step += 1
        run.data_wait_seconds += pause
        hook.after_step(trainer=run, losses={"itc": torch.tensor(float(run.step)), "pta": torch.tensor(2.0 * run.step)})
    if until is None and hasattr(hook, "training_ends"):
        hook.training_ends(trainer=run)


def test_meter_gives_means_the_trained_sum_and_speed(tmp_path):
    run = trainer(tmp_path)
    read = meter.Meter(run)
    for value in (1.0, 3.0):
        run.step += 1
        read.add({"itc": torch.tensor(value), "pta": torch.tensor(2 * value)})
    run.data_wait_seconds += 0.005
    time.sleep(0.02)
    reading = read.read(run)
    assert reading.losses == {"loss": 2 + 0.5 * 4, "itc": 2, "pta": 4}
    assert next(iter(reading.losses)) == "loss"
    assert 0 < reading.images_per_second <= 2 * 8 * 2 / 0.02
    assert 0 < reading.wait_share <= 0.25
    run.step += 1
    read.add({"itc": torch.tensor(7.0), "pta": torch.tensor(0.0)})
    assert read.read(run).losses["itc"] == 7  # nothing left of what was read before


# journal


def test_journal_lines(tmp_path):
    drive(trainer(tmp_path), metrics_log)
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [4, 8, 10]  # and the last
    assert [line["itc"] for line in written] == [2.5, 6.5, 9.5]
    assert [line["loss"] for line in written] == [5, 13, 19]
    assert list(written[0]) == [
        *("step", "loss", "itc", "pta", "lr", "grad_norm", "images_per_second", "wait_share", "seconds")
    ]
    assert written[0]["lr"] == 1e-3
    assert written == metrics_log.lines(str(tmp_path))


def test_resumed_journal_repeats_no_step(tmp_path):
    drive(trainer(tmp_path, steps=20), metrics_log, until=13)  # killed after step 13, checkpoint at 8
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    before = metrics_log.lines(str(tmp_path))
    drive(trainer(tmp_path, steps=20, first=8), metrics_log)
    after = metrics_log.lines(str(tmp_path))
    assert [line["step"] for line in after] == [4, 8, 12, 16, 20]
    assert after[:2] == before[:2]
    assert all(x["seconds"] <= y["seconds"] for x, y in itertools.pairwise(after))


def test_a_new_run_starts_a_new_journal(tmp_path):
    drive(trainer(tmp_path), metrics_log)
    drive(trainer(tmp_path), metrics_log)
    assert [line["step"] for line in metrics_log.lines(str(tmp_path))] == [4, 8, 10]


# progress


def test_plain_lines(tmp_path, capsys):
    drive(trainer(tmp_path, first=2), progress)
    out, err = capsys.readouterr()
    assert out == ""
    shown = err.splitlines()
    assert [line.split("  loss")[0] for line in shown] == ["step  3/10", "step  4/10", "step  8/10", "step 10/10"]
    assert "loss 6.000  itc 3 pta 6  lr 0.001" in shown[0]
    assert "images/s  wait 0 %" in shown[0]
    assert shown[-1].endswith("0:00 left")


def test_bar_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    drive(trainer(tmp_path), progress)
    shown = sys.stderr.getvalue()
    assert "step" not in shown
    assert "10/10" in shown
    assert "itc 9.5 pta 19" in shown
    assert "images/s  wait" in shown


def test_clock():
    assert [progress.format_seconds(s) for s in (0.4, 133, 3733)] == ["0:00", "2:13", "1:02:13"]


# curves


def test_curves_are_drawn_from_the_journal(tmp_path):
    run = trainer(tmp_path)
    drive(run, metrics_log)
    curves.training_ends(trainer=run)
    assert imread(tmp_path / "curves.png").shape[1] > 300


def test_curves_of_one_line_only(tmp_path):
    figure = curves.plot([1], {"itc": [2.0]})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["itc   2"]


def test_smoothing():
    assert curves.running_mean([1.0, 2, 3]) == [1.5, 2, 2.5]
    assert curves.running_mean([4.0] * 100) == [4.0] * 100
    assert curves.running_mean([5.0]) == [5.0]


# TensorBoard


def test_tensorboard_is_silent_unless_asked_for(tmp_path):
    drive(trainer(tmp_path), tensorboard)
    assert not list(tmp_path.iterdir())


def test_missing_tensorboard_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'patchbay-vl\[tensorboard\]'"):
        tensorboard.training_starts(trainer=trainer(tmp_path, tensorboard=True))


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra 'tensorboard' is not installed")
def test_tensorboard_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drive(trainer(tmp_path, tensorboard=True), tensorboard)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/itc")] == [(4, 2.5), (8, 6.5), (10, 9.5)]
    assert "learning rate/model.text" in events.Tags()["scalars"]


def test_two_runs_in_one_process_share_nothing(tmp_path):
    first, second = trainer(tmp_path, tensorboard=False), trainer(tmp_path / "b")
    (tmp_path / "b").mkdir()
    metrics_log.training_starts(trainer=first)
    drive(second, metrics_log)
    drive(first, metrics_log)
    assert metrics_log.lines(str(tmp_path)) != []
    assert [line["itc"] for line in metrics_log.lines(str(tmp_path))] == [2.5, 6.5, 9.5]


# pictures


def evaluation(model, data=None, **settings):
    return evaluation_of(model, data or TinyData(), **{"pictures": 2, "examples": 4, **settings})


def test_pictures_of_both_splits(tmp_path):
    made = patch_maps.draw(evaluation(tiny_model()), {}, str(tmp_path))
    assert made == [str(tmp_path / "patches.png"), str(tmp_path / "patches_withheld.png")]
    for path in made:
        assert imread(path).std() > 0.05  # something is on it


def test_rows_hold_scores_as_shares_and_what_is_kept(tmp_path):
    asked = evaluation(tiny_model())
    rows = patch_maps.rows(asked, asked.examples("test", 3))
    for row in rows:
        assert row.right.shape == row.wrong.shape == row.kept.shape == (4, 4)
        assert int(row.kept.sum()) == 8
        assert row.right[row.kept].min() >= row.right[~row.kept].max()  # the best ones stay
        assert not torch.equal(row.right, row.wrong)
        assert 0 <= row.right.min() <= row.right.max() <= 1


def test_dropped_patches_are_dimmed():
    image = torch.full((8, 8, 3), 200, dtype=torch.uint8)
    dimmed = patch_maps._dimmed(image, torch.tensor([[True, False], [False, True]]))
    assert dimmed[:4, :4].unique().tolist() == [200]
    assert dimmed[:4, 4:].unique().tolist() == [36]


def test_no_pictures_where_there_is_nothing_to_show(tmp_path):
    class Mute(TokenPruner):
        def forward(self, tokens, guide, cues):
            return tokens

    assert patch_maps.draw(evaluation(tiny_model(Mute())), {}, str(tmp_path)) is None
    assert patch_maps.draw(evaluation(tiny_model(), pictures=0), {}, str(tmp_path)) is None
    made = patch_maps.draw(evaluation(tiny_model(), TinyData(withheld=False)), {}, str(tmp_path))
    assert made == [str(tmp_path / "patches.png")]
