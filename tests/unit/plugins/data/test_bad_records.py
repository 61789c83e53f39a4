"""Counts of bad records, their messages, and the budget."""

from __future__ import annotations

import logging

import pytest

from plugins.data.bad_records import MAX_MESSAGES, BadRecord, BadRecords


def counted(tried: int, **kinds: int) -> BadRecords:
    bad = BadRecords(tried)
    for kind, count in kinds.items():
        for i in range(count):
            bad.add(kind, f"{kind} {i}")
    return bad


def test_a_bad_record_is_a_value_error_with_kind_and_place():
    err = BadRecord("empty caption", "is blank", ".caption")
    assert isinstance(err, ValueError)
    assert (str(err), err.kind, err.place) == ("is blank", "empty caption", ".caption")


def test_text_has_the_most_frequent_kind_first_and_three_messages():
    assert str(counted(9, rare=1, often=4)) == "4 x often, 1 x rare. First: rare 0; often 0; often 1"


def test_all_are_counted_but_only_some_messages_are_stored():
    bad = counted(1000, a=MAX_MESSAGES + 50)
    assert (bad.count, len(bad.messages)) == (MAX_MESSAGES + 50, MAX_MESSAGES)


def test_merge_adds_counts_and_keeps_the_first_messages():
    bad, other = counted(10, a=2), counted(500, a=1, b=MAX_MESSAGES)
    bad.merge(other)
    assert (bad.tried, dict(bad.kinds)) == (510, {"a": 3, "b": MAX_MESSAGES})
    assert bad.messages[:4] == ["a 0", "a 1", "a 0", "b 0"]
    assert len(bad.messages) == MAX_MESSAGES
    assert other.count == MAX_MESSAGES + 1  # unchanged


@pytest.mark.parametrize(("count", "budget"), [(1, 0.1), (2, 0.2), (9, 0.95)])
def test_within_the_budget_a_warning_is_logged(count, budget, caplog):
    with caplog.at_level(logging.WARNING, "patchbay"):
        counted(10, a=count).check_budget("f.json", budget)
    assert caplog.messages[0].startswith(f"f.json: {count} of 10 records skipped: {count} x a. First: a 0")


def test_without_bad_records_nothing_is_logged(caplog):
    counted(10).check_budget("f.json", 0)
    assert caplog.messages == []


def test_above_the_budget():
    with pytest.raises(ValueError, match=r"f\.json: 3 of 10 records cannot be used; budget=0\.25 allows 2\. 3 x a"):
        counted(10, a=3).check_budget("f.json", 0.25)


@pytest.mark.parametrize(
    ("bad", "end"), [(counted(0), "holds no record"), (counted(2, a=2), "holds no usable record: 2 x a")]
)
def test_a_file_without_a_usable_record_is_refused_whatever_the_budget(bad, end):
    with pytest.raises(ValueError, match=f"f.json: {end}"):
        bad.check_budget("f.json", 1)
