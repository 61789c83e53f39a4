"""The tutorial is executed: its package is the one in tests/third_party/good, its test and its recipe run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from core import TokenPruner, discovery
from core.recipe import read
from registry import Owner

ROOT = Path(__file__).parents[1]
GOOD = ROOT / "tests" / "third_party" / "good"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), re.M | re.S)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


@pytest.fixture
def patchbay_norm(monkeypatch):
    monkeypatch.syspath_prepend(GOOD)
    yield __import__("patchbay_norm")
    del sys.modules["patchbay_norm"]


def test_tutorial_package_is_the_one_that_tests_install():
    module, *_ = blocks("python")
    (project,) = blocks("toml")
    assert module == (GOOD / "patchbay_norm.py").read_text(encoding="utf-8")
    assert project == (GOOD / "pyproject.toml").read_text(encoding="utf-8")


def test_tutorial_test_passes(patchbay_norm):
    space: dict[str, object] = {}
    exec(blocks("python")[1], space)
    (test,) = [value for name, value in space.items() if name.startswith("test_")]
    test()


def test_tutorial_recipe_is_read(patchbay_norm, tmp_path):
    catalog = discovery.load()
    catalog.register_plugin(lambda: patchbay_norm, Owner("norm", "patchbay-norm", "1.0"))
    (text,) = blocks("yaml")
    recipe = tmp_path / "norm.yaml"
    recipe.write_text(text.replace("extends: ", f"extends: {ROOT}/"), encoding="utf-8")
    (prune,) = read(str(recipe), (), catalog).model.settings["backbone"].settings["prune"]
    assert prune.pruner.name == "norm"
    assert issubclass(prune.pruner.cls, TokenPruner)
    assert "pta" not in read(str(recipe), (), catalog).objectives
