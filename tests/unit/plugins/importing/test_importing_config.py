"""Configuration files: errors with file, line and setting; numbers that divide a width."""

from __future__ import annotations

import json
import re

import pytest

from plugins.importing.config import check_pixels, dividing, read_config, section


def test_an_object_is_read(tmp_path):
    config = {"a": 1, "b": {"c": [1.5, None]}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert read_config(str(tmp_path / "c.json")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1:1: not JSON: Expecting value"),
        ('{"a": 1,\n "b": }', ":2:7: not JSON: Expecting value"),
        ('{"a": 1} x', ":1:10: not JSON: Extra data"),
        ("[1]", ": expected a JSON object, got a list"),
        ("null", ": expected a JSON object, got a NoneType"),
        ('"a"', ": expected a JSON object, got a str"),
    ],
)
def test_errors_have_file_line_and_column(text, message, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{file}{message}')}"):
        read_config(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json"):
        read_config(str(tmp_path / "none.json"))


@pytest.mark.parametrize("config", [{}, {"a": None}, {"a": {}}])
def test_an_absent_section_is_empty(config):
    assert section(config, "a", "c.json") == {}


@pytest.mark.parametrize("value", [0, "", [], False, "x"])
def test_a_section_is_an_object(value):
    with pytest.raises(ValueError, match=f"^c.json: a is {re.escape(repr(value))}; expected a JSON object$"):
        section({"a": value}, "a", "c.json")


def test_divisors_and_the_default():
    accepted = []
    for number in range(-1, 26):
        try:
            accepted.append(dividing({"n": number}, "n", 1, 24, "c.json"))
        except ValueError:
            assert number < 1 or 24 % number
    assert accepted == [1, 2, 3, 4, 6, 8, 12, 24]
    assert dividing({}, "n", 8, 24, "c.json") == 8


@pytest.mark.parametrize("number", [True, 4.0, "4", None, 0, -2, 5])
def test_what_divides_is_a_positive_integer(number):
    message = f"c.json: n is {number!r}; expected a number that divides the width 24"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dividing({"n": number}, "n", 8, 24, "c.json")


def test_a_default_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="n is 8; expected a number that divides the width 20"):
        dividing({}, "n", 8, 20, "c.json")


def test_pixels_may_be_absent_or_equal():
    for config in ({}, {"mean": None}, {"mean": [0.5, 0.25]}):
        check_pixels(config, "preprocess_cfg.mean", (0.5, 0.25), "c.json")
    message = re.escape("c.json: preprocess_cfg.mean is [0.5]; pixels that the model reads have [0.5, 0.25]")
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_pixels({"mean": [0.5]}, "preprocess_cfg.mean", (0.5, 0.25), "c.json")
