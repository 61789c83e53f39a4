"""The table at the end of a run: alignment, percentages, sections that no plugin formats."""

from __future__ import annotations

import pluggy
from hypothesis import given
from hypothesis import strategies as st

from core import hookspecs
from core.compat import names
from core.hookspecs import hookimpl
from plugins.hooks import report_table
from plugins.hooks.report_table import columns, percent, table


def hooks(*formats):
    """A plugin manager whose plugins format a report by the functions ``formats``, registered in this order."""
    manager = pluggy.PluginManager("patchbay")
    manager.add_hookspecs(hookspecs)
    manager.add_hookspecs(names)
    for function in formats:
        plugin = type("Plugin", (), {"format_report": staticmethod(hookimpl(function))})()
        manager.register(plugin)
    return manager


def test_percent():
    assert [percent(share) for share in (None, 0, 1, 0.391, 0.3915, 0.00049, -0.1)] == [
        *("-", "0.0", "100.0", "39.1", "39.1", "0.0", "-10.0")
    ]


def test_columns_align_names_left_and_numbers_right():
    rows = [("", "R@1", "R@10"), ("image to text", "5.0", "100.0"), ("t2i", "39.1", "")]
    assert columns(rows) == [
        "                  R@1   R@10",
        "  image to text   5.0  100.0",
        "  t2i            39.1",
    ]


def test_least_is_a_width_of_numbers_alone():
    assert columns([("a", "1")], least=4) == ["  a     1"]
    assert columns([("a",)]) == ["  a"]


@given(st.lists(st.tuples(*[st.text("ab1.", max_size=6)] * 3), min_size=1, max_size=6), st.integers(0, 8))
def test_every_cell_stands_in_its_column(rows, least):
    widths = [max(least if i else 0, *(len(row[i]) for row in rows)) for i in range(3)]
    for row, line in zip(rows, columns(rows, least), strict=True):
        assert line == line.rstrip() or not line.strip()
        line, start = line.ljust(sum(widths) + 6), 0
        cells = []
        for width in widths:
            cells.append(line[start + 2 : start + 2 + width].strip())
            start += 2 + width
        assert tuple(cells) == row


def test_sections_follow_the_report_and_the_rest_is_listed():
    def format_report(report):
        return {"b": ["B", "  1"], "a": ["A"]}

    report = {"a": {"x": 1}, "loss": {"itc": 0.123456, "deep": {"n": 3, "none": None}}, "b": {}, "name": "run"}
    assert table(hooks(format_report), report).split("\n\n") == [
        "A",
        "B\n  1",
        "\n".join(columns([("Other", ""), ("loss.itc", "0.1235"), ("loss.deep.n", "3"), ("name", "run")])),
    ]


def test_an_empty_list_hides_a_section():
    def format_report(report):
        return {"a": [], "b": ["B"]}

    assert table(hooks(format_report), {"a": {"x": 1}, "b": 2}) == "B"


def test_none_and_an_empty_report_print_nothing():
    assert table(hooks(lambda report: None), {}) == ""
    assert table(hooks(), {}) == ""


def test_the_plugin_registered_last_formats_a_section_that_two_format():
    def first(report):
        return {"a": ["first"], "b": ["first"]}

    def second(report):
        return {"a": ["second"]}

    assert table(hooks(first, second), {"a": 1, "b": 1}) == "second\n\nfirst"


def test_the_report_is_printed_once(capsys):
    report_table.report_written(hooks=hooks(lambda report: {"a": ["A"]}), report={"a": 1})
    assert capsys.readouterr().out == "A\n"
