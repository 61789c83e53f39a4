"""Modules with hooks, entry points of installed packages, and the place of an error."""

from __future__ import annotations

import importlib.metadata as metadata
import sys
import traceback
from types import SimpleNamespace

import pytest

from registry import Owner, distributions
from registry.distributions import builtin_modules, describe_error, entry_points, owner_of, version


def point(name: str, value: str = "zoo:plugin", dist: str | None = "Their_Own.Parts") -> SimpleNamespace:
    dist_ = None if dist is None else SimpleNamespace(metadata={"Name": dist}, version="2.1")
    return SimpleNamespace(name=name, value=value, dist=dist_)


def test_modules_with_a_hook_are_listed_and_none_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "zoo_of_modules"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in (
        ("b.py", "raise RuntimeError\n@hookimpl\ndef f(): ...\n"),
        ("sub/a.py", "@hookimpl(tryfirst=True)\ndef f(): ...\n"),
        ("c.py", "text = '@hookimpl'\n    # @hookimpl\n"),
        ("d.py", "@hookimplementation\ndef f(): ...\n"),
        ("e.txt", "@hookimpl\n"),
    ):
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert builtin_modules("zoo_of_modules") == ["zoo_of_modules.b", "zoo_of_modules.sub.a"]
    assert "zoo_of_modules.b" not in sys.modules


def test_the_owner_has_a_normalized_name():
    assert owner_of(point("zoo")) == Owner("zoo", "their-own-parts", "2.1")
    assert owner_of(point("zoo", dist=None)) == Owner("zoo")


def test_entry_points_are_sorted_and_an_editable_install_counts_once(monkeypatch):
    points = [point("z"), point("a", dist="other"), point("b"), point("a", dist="other")]
    monkeypatch.delenv(distributions.NO_AUTOLOAD, raising=False)
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "patchbay.plugins" else [])
    assert [(p.dist.metadata["Name"], p.name) for p in entry_points()] == [
        ("other", "a"),
        ("Their_Own.Parts", "b"),
        ("Their_Own.Parts", "z"),
    ]


@pytest.mark.parametrize(("value", "count"), [("1", 0), ("yes", 0), ("0", 1), ("", 1)])
def test_third_parties_can_be_turned_off(monkeypatch, value, count):
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point("z")])
    monkeypatch.setenv("PATCHBAY_NO_AUTOLOAD", value)
    assert len(entry_points()) == count


def test_version(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lambda name: f"{name} 9")
    assert version() == "patchbay-vl 9"
    monkeypatch.setattr(metadata, "version", missing)
    assert version() == "source"


def test_an_error_has_the_place_in_the_plugin(tmp_path):
    file = str(tmp_path / "plugin.py")

    def run(text: str) -> str:
        try:
            exec(compile(text, file, "exec"), {})
        except Exception as err:
            return describe_error(err)
        raise AssertionError("no error")

    assert run("\nx = 1 / 0") == f"ZeroDivisionError: division by zero ({file}:2)"
    assert run("x = 1\ny = (") == f"SyntaxError: '(' was never closed ({file}:2)"
    inside = "from registry import Registry\n\nRegistry(int, 'number')['one']"  # raised in the registry, caused here
    assert run(inside).endswith(f"Registered: none. ({file}:3)")
    assert describe_error(KeyError("x")) == "KeyError: 'x'"  # never raised: no place


@pytest.mark.parametrize("name", ["<string>", "<frozen importlib._bootstrap>"])
def test_the_place_of_an_error_is_no_frame_without_a_file(name, tmp_path):
    """Code from a string and frozen modules have no file that a reader could open."""
    plugin = tmp_path / "plugin.py"
    inner = compile("1 / 0", name, "exec")
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("\n\nexec(inner)\n", str(plugin), "exec"), {"inner": inner})
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == name
    assert describe_error(caught.value) == f"ZeroDivisionError: division by zero ({plugin}:3)"
