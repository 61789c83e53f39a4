"""The tutorial is executed: its package is the one in tests/third_party/good. Names in the docs exist."""

from __future__ import annotations

import importlib
import re
import sys
import types
from functools import reduce
from pathlib import Path

import pytest
import small
import torch

from core import Objective, Step, TokenPruner, discovery, hookspecs
from core.compat.names import PUBLIC
from core.contracts import check_objective
from core.recipe import read
from registry import Owner

ROOT = Path(__file__).parents[1]
GOOD = ROOT / "tests" / "third_party" / "good"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("projects/*/*.md")]
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


def test_loss_of_the_tutorial(monkeypatch):
    (text,) = [block for block in blocks("python") if "Objective" in block]
    plugin = types.ModuleType("uniformity_plugin")
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    exec(text, vars(plugin))
    source = small.data()
    loss = vars(plugin)["Uniformity"]()
    check_objective(loss, small.copa(source), source.batch(0, size=6, seed=0, reads=frozenset()))
    images = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    pairs = [(-2 * (images[i] - images[j]).square().sum()).exp() for i in range(5) for j in range(5) if i != j]
    step = types.SimpleNamespace(image=types.SimpleNamespace(pooled=3 * images))
    torch.testing.assert_close(loss(step), torch.stack(pairs).mean().log())
    catalog = discovery.load()
    catalog.register_plugin(lambda: plugin, Owner("loss", "loss", "1.0"))
    recipe = read(str(ROOT / "projects" / "coca" / "pretrain.yaml"), ["objectives.uniformity.weight=0.1"], catalog)
    assert recipe.objectives["uniformity"].weight == 0.1


def test_names_in_the_tables_of_a_loss_exist():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8").partition("## A loss")[2].partition("\n## ")[0]
    features, methods = [
        table.partition("\n\n")[0].splitlines()[2:] for table in re.split(r"(?m)^(?=\|.*\n\|---)", page)[1:]
    ]
    step = vars(Step(small.copa(small.data()), small.data().batch(0, size=2, seed=0, reads=frozenset())))
    assert len(features) == 7
    for name in {name for row in features for name in re.findall(r"`(\w+)", row.split("|")[1])}:
        assert name in step or hasattr(Step, name), name
    assert all(hasattr(Objective, re.findall(r"`(\w+)", row)[0]) for row in methods)


def test_settings_of_the_tutorial_are_accepted(monkeypatch):
    (text,) = [block for block in blocks("python") if "@dataclass" in block]
    plugin = types.ModuleType("sparsity_plugin")
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    exec(text, vars(plugin))
    catalog = discovery.load()
    catalog.register_plugin(lambda: plugin, Owner("sparsity", "patchbay-sparsity", "1.0"))
    recipe = read(str(ROOT / "projects" / "copa" / "pretrain.yaml"), ["sparsity.threshold=0.2"], catalog)
    assert recipe.plugin_settings.get(vars(plugin)["SparsitySettings"]).threshold == 0.2


def test_hooks_of_the_tutorial_exist():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    table = page.partition("| hook | use |")[2].partition("\n\n")[0]
    names = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")}
    assert "report_written" in names
    assert all(hasattr(hookspecs, name) for name in names)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_their_names_exist(path):
    for name in re.findall(r"`((?:core|plugins|registry)(?:\.\w+)+)", path.read_text(encoding="utf-8")):
        top, *rest = name.split(".")

        def inner(owner, key):
            try:
                return importlib.import_module(f"{owner.__name__}.{key}")
            except ModuleNotFoundError:
                return getattr(owner, key)

        assert reduce(inner, rest, importlib.import_module(top)), name


def test_changelog_lists_every_name_that_has_an_alias():
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sources = "".join(
        file.read_text(encoding="utf-8") for top in ("core", "plugins") for file in ROOT.glob(f"{top}/**/*.py")
    )
    attributes = [
        pair
        for found in re.findall(r"@renamed\((.*?)\)\n", sources, re.S)
        for pair in re.findall(r'"(\w+)": "(\w+)"', found)
    ]
    settings = [
        pair
        for found in re.findall(r"renamed_settings: .*? = \{(.*?)\}", sources, re.S)
        for pair in re.findall(r'"(\w+)": "(\w+)"', found)
    ]
    assert len(attributes) >= 15
    assert len(settings) > 15
    for name in {name for pair in (*attributes, *settings, *PUBLIC.items()) for name in pair}:
        assert re.search(rf"`[^`\n]*\b{name}\b", log), name
