"""One door for built-ins and strangers; a stranger that fails leaves nothing behind and is quoted."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import pytest

import plugins
from core import TokenPruner, cli, discovery, hookimpl
from core.discovery import Catalog
from registry import Owner, UnknownName, distributions

ROOT = Path(__file__).parents[3]
OWNER = Owner("mine", "my-package", "0.1")


class Whole(TokenPruner):
    """Keeps all."""

    def forward(self, tokens: Any, guide: Any, cues: Any) -> Any:
        return tokens


class Unreadable(Whole):
    def __init__(self, *, size: NoSuchName = 1):  # noqa: F821
        super().__init__()


def plugin(**functions: Any) -> ModuleType:
    module = ModuleType("made")
    vars(module).update({name: hookimpl(function) for name, function in functions.items()})
    return module


def offers(name: str, cls: Any) -> ModuleType:
    return plugin(register=lambda add: add(name, cls))


def is_hook(value: Any) -> bool:
    return isinstance(value, FunctionType) and hasattr(value, "patchbay_impl")


@pytest.fixture(scope="module")
def builtin() -> Catalog:
    return discovery.load()


def test_every_builtin_loads_and_its_name_is_its_owner(builtin):
    assert builtin.find(TokenPruner, "tpd").owner == Owner(
        "plugins.pruners.tpd", "patchbay-vl", distributions.version()
    )
    assert not [failure for failure in builtin.failures if failure.owner.distribution == "patchbay-vl"]
    assert all(len(registry) for registry in builtin.registries.values())


def test_a_run_has_its_own_registries(builtin):
    other = Catalog()
    other.register_plugin(lambda: offers("whole", Whole), OWNER)
    with pytest.raises(UnknownName):
        builtin.find(TokenPruner, "whole")


def test_the_base_decides_the_kind():
    catalog = Catalog()
    catalog.register_plugin(lambda: offers("whole", Whole), OWNER)
    found = {registry.kind: list(registry) for registry in catalog.registries.values() if len(registry)}
    assert found == {"token pruner": ["whole"]}
    assert catalog.plugins == [OWNER]


def test_misspelt_hook_is_named_with_a_near_one():
    with pytest.raises(AttributeError, match=r"no hook named 'after_stepp'\. Did you mean 'after_step'"):
        Catalog().register_plugin(lambda: plugin(after_stepp=lambda trainer: None), OWNER)


def test_hook_with_an_unknown_argument_is_refused():
    catalog = Catalog()
    with pytest.raises(Exception, match="step_number"):
        catalog.register_plugin(lambda: plugin(after_step=lambda step_number: None), OWNER)
    assert not catalog.hooks.get_plugins()


def test_what_is_no_part_is_refused():
    with pytest.raises(TypeError, match="'x': <class 'int'> is not a class of any kind of part; its base must be"):
        Catalog().register_plugin(lambda: offers("x", int), OWNER)


def test_unreadable_annotations_are_found_at_once():
    with pytest.raises(NameError, match="NoSuchName"):
        Catalog().register_plugin(lambda: offers("x", Unreadable), OWNER)


@pytest.mark.parametrize("name", ["", "a.b", "two words", 7])
def test_names_that_a_recipe_cannot_write_are_refused(name):
    with pytest.raises(ValueError, match="is no name for a part"):
        Catalog().register_plugin(lambda: offers(name, Whole), OWNER)


def test_all_or_nothing():
    def register(add: Any) -> None:
        add("whole", Whole)
        raise RuntimeError("no licence")

    def commands(add: Any) -> None:
        add("verb", "help", "module:main")

    catalog = Catalog()
    with pytest.raises(RuntimeError, match="no licence"):
        catalog.register_plugin(lambda: plugin(register=register, commands=commands, after_step=lambda: None), OWNER)
    assert not any(len(registry) for registry in catalog.registries.values())
    assert not catalog.commands
    assert not catalog.plugins
    assert not catalog.hooks.get_plugins()


def entry(name: str, value: str, distribution: str = "Some_Package", version: str = "3.1") -> metadata.EntryPoint:
    point = metadata.EntryPoint(name, value, distributions.GROUP)
    vars(point)["dist"] = SimpleNamespace(metadata={"Name": distribution}, version=version)
    return point


def test_strangers_fail_one_by_one_and_are_quoted(monkeypatch):
    points = [entry("gone", "no_such_module_at_all"), entry("exits", "exiting_module")]
    monkeypatch.setattr(metadata, "entry_points", lambda **_: points)
    monkeypatch.delenv(distributions.NO_AUTOLOAD, raising=False)
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: sys.exit(3) if self.name == "exits" else 1 / 0)
    catalog = discovery.load()
    said = [str(failure) for failure in catalog.failures]
    assert said[0].startswith("plugin 'exits' of distribution some-package 3.1: SystemExit: 3")
    assert said[1].startswith("plugin 'gone' of distribution some-package 3.1: ZeroDivisionError: division by zero")
    with pytest.raises(UnknownName) as caught:
        catalog.find(TokenPruner, "mine")
    assert all(line in str(caught.value) for line in said)


def test_a_plugin_that_prints_when_imported_leaves_standard_output_alone(monkeypatch, capsys):
    def load(point: metadata.EntryPoint) -> ModuleType:
        print("hello")
        return offers("whole", Whole)

    monkeypatch.setattr(discovery, "entry_points", lambda: [entry("noisy", "noisy")])
    monkeypatch.setattr(metadata.EntryPoint, "load", load)
    assert cli.main(["list", "--json"]) == 0
    printed = capsys.readouterr()
    assert "whole" in [row["name"] for row in json.loads(printed.out)]
    assert printed.err == "hello\n"


def test_only_modules_with_a_hook_are_plugins(builtin):
    names = distributions.builtin_modules("plugins")
    assert [owner.plugin for owner in builtin.plugins if owner.distribution == distributions.DISTRIBUTION] == names
    assert all(builtin.hooks.get_hookcallers(plugin) for plugin in builtin.hooks.get_plugins())
    assert "plugins.pruners.tpd" in names and "plugins.pruners.selection" not in names
    modules = [info.name for info in pkgutil.walk_packages(plugins.__path__, "plugins.") if not info.ispkg]
    marked = [name for name in modules if any(map(is_hook, vars(importlib.import_module(name)).values()))]
    assert names == sorted(marked), "a hook is recognised by the line '@hookimpl' above it"


def test_an_editable_install_seen_twice_counts_once(monkeypatch):
    twice = [entry("one", "m", "some-package"), entry("one", "m", "Some.Package"), entry("two", "m")]
    monkeypatch.setattr(metadata, "entry_points", lambda **_: twice)
    monkeypatch.delenv(distributions.NO_AUTOLOAD, raising=False)
    assert [point.name for point in distributions.entry_points()] == ["one", "two"]
    monkeypatch.setenv(distributions.NO_AUTOLOAD, "1")
    assert distributions.entry_points() == []


@pytest.mark.parametrize("name", ["plugins", "registry"])
def test_another_package_of_our_name_is_named(tmp_path, name):
    other = tmp_path / name / "__init__.py"
    other.parent.mkdir()
    other.write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import core"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert f"needs its own package {ROOT / name}, but Python found {other}" in done.stderr
