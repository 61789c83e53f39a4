"""Cost of inference as printed, and timing by a clock of the test's own."""

from __future__ import annotations

import itertools

import pytest
import small
import torch
from evaluations import evaluation

from plugins.metrics import efficiency

MACS = {"total": 2_000_000, "unpruned": 3_000_000, "parts": {"backbone": 1_500_000, "pruner": 500_000, "text": 0}}
SOURCE = small.data()
CPU = torch.device("cpu")


def lines(**report):
    return efficiency.format_report(report=report)["macs"]


def test_lines_of_counts_and_rates():
    assert lines(
        macs=MACS,
        images_per_second={"pruned": 1500.4, "unpruned": 1000.0},
        images_per_second_spread={"pruned": [1400.0, 1600.0], "unpruned": [900.0, 1100.0]},
    ) == [
        "Inference for an image with a text: encoders, pruner, fusion",
        "                                pruned      unpruned  ratio",
        "  MACs a pair                  2.000 M       3.000 M  1.50x",
        "  images/s                       1,500         1,000  1.50x",
        "    slowest to fastest  1,400 to 1,600  900 to 1,100",
        "  MACs pruned: backbone 1.500 M, pruner 500.0 k",
    ]


def test_without_timing_only_counts_are_printed():
    printed = lines(macs=MACS, images_per_second={"pruned": None, "unpruned": None}, images_per_second_spread=None)
    assert len(printed) == 4
    assert not any("images/s" in line for line in printed)


def test_operations_of_unknown_cost_are_listed():
    printed = lines(macs={**MACS, "uncounted": {"aten::fft": 2, "aten::svd": 1}})
    assert printed[-1] == "  of unknown cost, counted as 0: aten::fft, aten::svd"


def test_rates_alone_are_printed_without_counts():
    printed = lines(images_per_second={"pruned": 20.0, "unpruned": 10.0})
    assert [line.split() for line in printed[1:]] == [
        ["pruned", "unpruned", "ratio"],
        ["images/s", "20", "10", "2.00x"],
    ]


def test_one_block_covers_three_sections():
    assert set(efficiency.format_report(report={"macs": MACS})) == {
        *("macs", "images_per_second", "images_per_second_spread"),
    }
    assert efficiency.format_report(report={}) is None
    assert efficiency.format_report(report={"macs": None}) is None


@pytest.mark.parametrize("rounds", [1, 3])
def test_seconds_of_each_round_without_the_first(rounds, monkeypatch):
    clock = {"seconds": 0.0}
    durations = {"a": itertools.count(100), "b": itertools.count(200)}

    def run(name):
        clock["seconds"] += next(durations[name])

    monkeypatch.setattr(efficiency, "_now", lambda device: clock["seconds"])
    taken = efficiency.time_interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, rounds, CPU)
    assert taken == {"a": [101.0 + i for i in range(rounds)], "b": [201.0 + i for i in range(rounds)]}


def test_no_calls_no_times():
    assert efficiency.time_interleaved({}, 3, CPU) == {}


def test_an_unpruned_model_has_one_column():
    same = {"pruned": 20.0, "unpruned": 20.0}
    printed = lines(
        macs={**MACS, "total": 3_000_000, "parts": {"backbone": 3_000_000}},
        images_per_second=same,
        images_per_second_spread={"pruned": [19.0, 21.0], "unpruned": [19.0, 21.0]},
    )
    assert printed == [
        "Inference for an image with a text: encoders, fusion",
        "  MACs a pair            3.000 M",
        "  images/s                    20",
        "    slowest to fastest  19 to 21",
        "  MACs by part: backbone 3.000 M",
    ]
    assert lines(images_per_second=same) == ["Inference for an image with a text: encoders, fusion", "  images/s  20"]


def test_an_unpruned_model_is_counted_and_timed_once(monkeypatch):
    """The keys of the report stay: both rates are the same measurement."""
    timed = []
    monkeypatch.setattr(efficiency, "_now", lambda device: timed.append(device) or float(len(timed)))
    report = efficiency.evaluate(evaluation(small.copa(SOURCE, prune=[]), SOURCE, batch=2, rounds=2))
    assert len(timed) == 2 * 3, "a start and an end of two rounds and a warm-up"
    assert report["macs"]["total"] == report["macs"]["unpruned"]
    for section in ("images_per_second", "images_per_second_spread"):
        assert report[section]["pruned"] == report[section]["unpruned"] is not None
    pruned = efficiency.evaluate(evaluation(small.copa(SOURCE), SOURCE, batch=2, rounds=1))
    assert pruned["macs"]["total"] < pruned["macs"]["unpruned"]
