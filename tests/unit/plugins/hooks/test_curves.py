"""curves.png: the running mean by formula, and one panel for each loss."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.hooks import curves
from plugins.hooks.curves import MAX_COLUMNS, plot, running_mean


@given(st.lists(st.floats(-100, 100), max_size=40), st.floats(0, 1))
def test_a_mean_lies_between_its_values(values, window):
    means = running_mean(values, window)
    assert len(means) == len(values)
    assert all(min(values) - 1e-9 <= mean <= max(values) + 1e-9 for mean in means)


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=20), st.floats(-10, 10))
def test_the_mean_is_linear(values, shift):
    moved = running_mean([2 * value + shift for value in values], 0.3)
    assert moved == pytest.approx([2 * mean + shift for mean in running_mean(values, 0.3)], abs=1e-6)


def test_windows_are_centred_and_narrower_at_the_ends():
    values = [0.0, 0.0, 6.0, 0.0, 0.0, 12.0]
    assert running_mean(values, 1 / 3) == pytest.approx([0, 2, 2, 2, 4, 6])  # one value on each side
    assert running_mean(values, 0) == running_mean(values, 1 / 3)  # at least one on each side
    assert running_mean(values, 2) == pytest.approx([3.0] * 6)


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 5.0]])
def test_up_to_two_values_are_not_smoothed(values):
    assert running_mean(values) == values


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 3), (7, 3, 3)])
def test_a_panel_for_each_loss(count, rows, columns):
    figure = plot([1, 2, 3], {f"loss {i}": [3.0, 2.0, 1.0 + i] for i in range(count)})
    assert columns <= MAX_COLUMNS
    assert len(figure.axes) == rows * columns
    drawn = [panel for panel in figure.axes if panel.axison]
    means = [running_mean([3.0, 2.0, 1.0 + i])[-1] for i in range(count)]
    assert [panel.get_title(loc="left") for panel in drawn] == [f"loss {i}   {m:.3g}" for i, m in enumerate(means)]
    thin, thick = drawn[0].lines
    assert thin.get_ydata().tolist() == [3, 2, 1]
    assert thick.get_ydata().tolist() == running_mean([3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("weights", "panels"), [({"itc": 1.0}, ["itc"]), ({"itc": 1, "pta": 2}, ["loss", "itc", "pta"])]
)
def test_the_sum_has_a_panel_if_there_are_several_losses(weights, panels, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(curves, "plot", lambda steps, losses: names.extend(losses) or plot(steps, losses))
    line = {"step": 1, "loss": 3.0, **dict.fromkeys(weights, 1.0)}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    curves.training_ends(trainer=SimpleNamespace(folder=str(tmp_path), weights=weights))
    assert names == panels
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize(("count", "width"), [(10, 3), (50, 3), (100, 5), (1000, 41)])
def test_the_legend_gives_the_width_of_the_running_mean(count, width):
    figure = plot(range(count), {"itc": [1.0] * count, "pta": [2.0] * count})
    assert legend_of(figure) == ["as logged", f"running mean of {width} logged values, the last one in the title"]
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert [line.get_color() for line in figure.legends[0].get_lines()] == colours
    values = [0.0] * (count // 2) + [1.0] + [0.0] * (count - count // 2 - 1)
    assert max(running_mean(values)) == pytest.approx(1 / width)


@pytest.mark.parametrize("count", [1, 2])
def test_the_legend_of_few_values_says_that_they_are_not_smoothed(count):
    assert legend_of(plot(range(count), {"itc": [1.0] * count})) == ["as logged", "not smoothed"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([5.0, 4.0, 3.0], "linear"), ([50.0, 3.0, 0.1], "log"), ([50.0, 3.0, 0.0], "linear"), ([5.0, -3.0], "linear")],
)
def test_an_axis_is_logarithmic_if_the_values_differ_widely(values, scale):
    figure = plot(range(len(values)), {"loss": values, "itc": values})
    for panel, label in zip(figure.axes, ("weighted sum", "loss"), strict=False):
        assert panel.get_yscale() == scale
        assert panel.get_ylabel() == label + (" (log scale)" if scale == "log" else "")
        assert panel.get_xlabel() == "step"


def test_steps_are_whole_numbers():
    figure = plot([1, 2, 3], {"itc": [3.0, 2.0, 1.0]})
    figure.canvas.draw()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
