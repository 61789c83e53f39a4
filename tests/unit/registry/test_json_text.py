"""Strict JSON: no NaN, numbers of numpy and torch, names that are not text."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.json_text import dumps


def refuse(literal: str) -> None:
    raise AssertionError(literal)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": math.nan, "b": [math.inf, -math.inf, 1.5]}, {"a": None, "b": [None, None, 1.5]}),
        ({"n": np.float32(0.5), "i": np.int64(3), "nan": np.float64("nan")}, {"n": 0.5, "i": 3, "nan": None}),
        ({"t": torch.tensor(2), "v": torch.tensor([1.0, math.nan]), np.int64(7): True}, None),
        ([np.arange(3), (Path("a"), None)], [[0, 1, 2], ["a", None]]),
        (os.fsdecode(b"caf\xe9\xff"), "caf\udce9\udcff"),
        ("\x1b[31m \x7f \x9b \u2028 猫", "\x1b[31m \x7f \x9b \u2028 猫"),
    ],
)
def test_read_back(value, expected, ascii_only):
    text = dumps(value, ascii_only=ascii_only)
    text.encode()
    assert len(text.splitlines()) == 1
    expected = {"t": 2, "v": [1.0, None], "7": True} if expected is None else expected
    assert json.loads(text, parse_constant=refuse) == expected


def test_readable_captions_stay_readable():
    assert dumps("一只猫", ascii_only=False) == '"一只猫"'


def test_other_objects_are_refused():
    with pytest.raises(TypeError):
        dumps({"a": object()})
