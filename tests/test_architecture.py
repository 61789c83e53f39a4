"""Budgets: which way imports point, how long files are, how many settings a part has, what the wheel holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_packages

from core import discovery
from registry.part import is_filled
from registry.signature import settings_of

ROOT = Path(__file__).parents[1]
LAYERS = ("registry", "core", "plugins")  # each may import itself and those before it
LINES = 250  # a file
CORE_LINES = 4250
ARGUMENTS = 10  # settings of one part; widths filled in at assembly apart
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The top-level name of every import, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_one_way(path):
    layer = path.relative_to(ROOT).parts[0]
    below = LAYERS[: LAYERS.index(layer) + 1]
    upward = {name for name in imports(path) if name in LAYERS and name not in below}
    assert not upward, f"{name_of(path)} imports {', '.join(upward)}"
    assert "tests" not in set(imports(path))


def test_registry_knows_only_the_standard_library():
    allowed = {"__future__", "collections", "dataclasses", "difflib", "inspect", "typing"}
    assert {name for path in SOURCES if path.parts[-2] == "registry" for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_fits_on_a_few_screens(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES, f"{name_of(path)} has {lines} lines; at most {LINES}"


def test_core_can_be_read_in_one_sitting():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "core").rglob("*.py"))
    assert lines <= CORE_LINES


def test_parts_take_few_arguments():
    taken = {
        f"{registry.kind} {name}": sum(not is_filled(hint) for hint, _ in settings_of(registry[name].cls).values())
        for registry in discovery.load().registries.values()
        for name in registry
        if registry[name].owner.distribution == discovery.DISTRIBUTION
    }
    many = {part: count for part, count in taken.items() if count > ARGUMENTS}
    assert not many, f"more than {ARGUMENTS} settings: {many}"


def test_projects_hold_no_python():
    assert not list((ROOT / "projects").rglob("*.py"))


def test_top_level_of_the_wheel_is_ours_alone():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    (call,) = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "find_packages"
    ]
    chosen = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    packages = find_packages(str(ROOT), **chosen)
    assert {package.split(".")[0] for package in packages} == set(LAYERS)
    folders = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in SOURCES}
    assert folders == set(packages), "a folder without __init__.py would be left out of the wheel"
