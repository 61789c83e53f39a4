"""Configuration files: errors with file, line and setting; numbers that divide a width."""

from __future__ import annotations

import json
import re

import pytest

from plugins.importing.config import dividing, find_config, guess_heads, pixels, read_config, section


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


@pytest.mark.parametrize(("name", "value"), [("mean", [0, 0.5, 1]), ("std", [0.25, 0.5, 1])])
def test_pixels_are_read_or_the_default(name, value):
    assert pixels({name: value}, f"preprocess_cfg.{name}", (0.5,) * 3, "c.json") == tuple(value)
    for config in ({}, {name: None}):
        assert pixels(config, f"preprocess_cfg.{name}", (0.5, 0.25, 0.1), "c.json") == (0.5, 0.25, 0.1)


@pytest.mark.parametrize("value", [[0.5], [0.5, 0.5, "0.5"], [0.5, 0.5, 124.0], 0.5, [True, 0.5, 0.5], [0.5, 0.5, 0]])
def test_pixels_are_three_numbers_between_0_and_1(value):
    with pytest.raises(
        ValueError, match=re.escape(f"c.json: a.std is {value!r}; expected three numbers between 1e-06")
    ):
        pixels({"std": value}, "a.std", (1, 1, 1), "c.json")


def test_the_configuration_beside_a_checkpoint_is_of_the_library(tmp_path):
    file = str(tmp_path / "model.safetensors")
    assert find_config(file, "", ("a.json", "b.json"), ("key",)) == ("", {})
    (tmp_path / "a.json").write_text('{"other": 1}')
    (tmp_path / "b.json").write_text('{"key": 2}')
    assert find_config(file, "", ("a.json", "b.json"), ("key",)) == (str(tmp_path / "b.json"), {"key": 2})
    named = str(tmp_path / "a.json")
    assert find_config(file, named, ("b.json",), ("key",)) == (named, {"other": 1})


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (64, 1),
        (48, 1),
        (192, 3),
        (768, 12),
        (1024, 16),
        (1152, 16),
        (1280, 16),
        (1408, 16),
        (1664, 16),
        (1536, 24),
        (100, 1),
    ],
)
def test_guessed_heads_are_those_of_public_models(width, heads):
    number, phrase = guess_heads(width)
    assert number == heads
    assert width % number == 0
    assert f"{heads} heads" in phrase
    assert str(width) in phrase
