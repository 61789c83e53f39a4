"""The closing table: what it says, what it stands beside, and what it does with the unknown."""

from core.discovery import load
from plugins.compute.torch_macs import amount
from plugins.hooks.report_table import table as of

HOOKS = load().hooks

SIX = {f"{way}_r{cut}": share for way in ("i2t", "t2i") for cut, share in ((1, 0.391), (5, 0.703), (10, 1.0))}
REPORT = {
    "retrieval": {"candidates": 256, "ceiling": 0.9888, **SIX, "reranked": {**SIX, "i2t_r1": 0.453}},
    "patches": {
        "examples": 256,
        "average_precision": 0.9021,
        "average_precision_wrong_text": 0.331,
        "average_precision_withheld": 0.88,
        "average_precision_wrong_text_withheld": 0.32,
        "positive_rate": 0.138,
        "positive_rate_withheld": 0.141,
        "keep": 0.5,
        "recall_at_keep": 0.99,
        "recall_at_quarter": 0.951,
        "recall_at_quarter_wrong_text": 0.48,
        "recall_at_quarter_withheld": 0.93,
        "recall_at_quarter_wrong_text_withheld": 0.47,
        "pointing": 0.97,
    },
    "macs": {"total": 43_120_000, "unpruned": 64_680_000, "parts": {"backbone": 42_000_000, "pruner": 1_120_000}},
    "images_per_second": {"pruned": 412.3, "unpruned": 274.9},
    "images_per_second_spread": {"pruned": [398.2, 421.0], "unpruned": [270.0, 281.0]},
}


def table(report):
    return of(HOOKS, report)


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return line.split()[len(start.split()) :]


def test_retrieval_stands_beside_chance_and_ceiling():
    text = table(REPORT)
    assert "98.9" in text
    assert row(text, "image to text") == ["39.1", "70.3", "100.0", "45.3", "70.3", "100.0"]
    assert row(text, "chance") == ["0.4", "2.0", "3.9"] * 2
    lines = text.splitlines()
    assert lines[1].index("re-ranked by ITM") + len("re-ranked by ITM") == len(lines[2])  # over its own columns


def test_patches_stand_beside_their_controls():
    text = table(REPORT)
    assert row(text, "average precision  ") == ["90.2", "33.1", "13.8"]
    assert row(text, "average precision, withheld") == ["88.0", "32.0", "14.1"]
    assert row(text, "recall in best quarter  ") == ["95.1", "48.0", "25.0"]
    assert row(text, "recall at keep") == ["99.0", "-", "50.0"]
    assert row(text, "pointing") == ["97.0", "-", "13.8"]


def test_cost_has_units_and_ratios():
    text = table(REPORT)
    assert row(text, "MACs a pair") == ["43.12", "M", "64.68", "M", "1.50x"]
    assert row(text, "images/s") == ["412", "275", "1.50x"]
    assert "backbone 42.00 M, pruner 1.120 M" in text
    assert "398 to 421" in text


def test_what_was_not_measured_is_left_out():
    report = {
        "retrieval": {**REPORT["retrieval"], "reranked": None},
        "patches": {k: None if k.endswith("_withheld") else v for k, v in REPORT["patches"].items()},
        "macs": {**REPORT["macs"], "uncounted": {"aten::fft_fft": 2}},
        "images_per_second": {"pruned": None, "unpruned": None},
        "images_per_second_spread": None,
    }
    text = table(report)
    assert "ITM" not in text
    assert "withheld" not in text
    assert "images/s" not in text
    assert "aten::fft_fft" in text
    assert "None" not in text
    assert table({}) == ""


def test_unknown_sections_are_printed_leaf_by_leaf():
    text = table({"vqa": {"accuracy": 0.512345, "by": {"colour": 3}, "note": None}, "seed": 7})
    assert row(text, "vqa.accuracy") == ["0.5123"]
    assert row(text, "vqa.by.colour") == ["3"]
    assert row(text, "seed") == ["7"]
    assert "note" not in text


def test_no_line_is_wider_than_a_terminal_or_ends_in_space():
    for line in table(REPORT).splitlines():
        assert len(line) <= 100
        assert line == line.rstrip()


def test_amounts():
    assert [amount(n) for n in (17_563_060_224, 1_120_000, 999, 2.5e12)] == ["17.56 G", "1.120 M", "999", "2.500 T"]
