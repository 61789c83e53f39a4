"""Budgets of the sources, which may only decrease: imports, lines, settings, language, contents of the wheel."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import style
from setuptools import find_packages

from core import discovery
from registry import distributions
from registry.part import is_filled
from registry.signature import settings_of

ROOT = Path(__file__).parents[1]
PACKAGES = ("registry", "core", "plugins")
LAYERS = (*PACKAGES, "patchbay")  # each may import itself and those before it
LINES = 250  # a file
CORE_FILES = 16  # at its root
CORE_LINES = {"": 2100, "recipe": 620, "training": 760, "contracts": 330, "compat": 180}  # "": the root's own files
TEST_RATIO = 1.2  # lines of tests to lines of sources
FACADE = ROOT / "patchbay.py"
SOURCES = sorted(path for layer in PACKAGES for path in (ROOT / layer).rglob("*.py")) + [FACADE] * FACADE.exists()
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}


def imports(path: Path, within_functions: bool = True) -> Iterator[str]:
    """List what a file imports, in full: ``from core import load`` gives ``core.load``, be that a module or a name."""
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if within_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            stack += ast.iter_child_nodes(node)


def top_levels(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def graph(within_functions: bool) -> dict[str, set[str]]:
    """Map each module to those of ours that it imports, imports under TYPE_CHECKING included."""
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        names = imports(path, within_functions)
        nearest = {name if name in MODULES else name.rpartition(".")[0] for name in names}
        edges[module] = nearest & MODULES.keys() - {module}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """List the sets of modules that import each other, directly or not, by transitive closure."""
    reach = {module: set(targets) for module, targets in edges.items()}
    for middle in reach:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    groups = {frozenset(m for m in reach[module] if module in reach[m]) for module in reach if module in reach[module]}
    return sorted(map(sorted, groups))


def count_lines(paths: Sequence[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_one_way(path):
    layer = path.relative_to(ROOT).with_suffix("").parts[0]
    below = LAYERS[: LAYERS.index(layer) + 1]
    upward = {name for name in top_levels(path) if name in LAYERS and name not in below}
    assert not upward, f"{name_of(path)} imports {', '.join(upward)}"
    assert "tests" not in top_levels(path)


def test_circles_are_recognised():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"a"}}
    assert circles(edges) == [["a", "b", "c"], ["d", "e"]]
    assert "core.types" in graph(within_functions=False)["core.kinds"]


def refuse_circles(edges: dict[str, set[str]]) -> None:
    lines = [
        f"{module} -> {', '.join(sorted(edges[module].intersection(ring)))}"
        for ring in circles(edges)
        for module in ring
    ]
    if lines:
        pytest.fail("\n".join(["modules import each other:", *lines]), pytrace=False)


def test_no_circle_of_imports():
    refuse_circles(graph(within_functions=False))


def test_no_circle_through_imports_within_functions():
    refuse_circles(graph(within_functions=True))


def test_registry_knows_only_the_standard_library():
    used = {name for path in SOURCES if path.is_relative_to(ROOT / "registry") for name in top_levels(path)}
    assert used <= sys.stdlib_module_names | {"registry"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_fits_on_a_few_screens(path):
    lines = count_lines([path])
    assert lines <= LINES, f"{name_of(path)} has {lines} lines; at most {LINES}"


@pytest.mark.parametrize("wing", CORE_LINES, ids=lambda wing: wing or "root")
def test_core_can_be_read_in_one_sitting(wing):
    folder = ROOT / "core" / wing
    lines = count_lines(sorted(folder.rglob("*.py") if wing else folder.glob("*.py")))
    assert lines <= CORE_LINES[wing], f"{name_of(folder)} has {lines} lines; at most {CORE_LINES[wing]}"


def test_core_has_few_files_at_its_root():
    files = [path.name for path in (ROOT / "core").glob("*.py")]
    assert len(files) <= CORE_FILES, f"{len(files)} files in core; at most {CORE_FILES}"


def test_every_wing_of_core_has_a_budget():
    wings = {path.relative_to(ROOT / "core").parts[0] for path in (ROOT / "core").rglob("*.py")}
    assert {wing for wing in wings if not wing.endswith(".py")} <= CORE_LINES.keys()


def test_tests_are_longer_than_sources():
    tests, sources = count_lines(sorted((ROOT / "tests").rglob("*.py"))), count_lines(SOURCES)
    assert tests >= TEST_RATIO * sources, f"{tests} lines of tests to {sources} of sources: {tests / sources:.2f}"


@pytest.mark.parametrize("rule", style.RULES)
def test_style(rule):
    offences, _ = style.check(rule, style.parse(SOURCES))
    if offences:
        command = f"{len(offences)} places (python tests/style.py --rule {rule}):"
        pytest.fail("\n".join([command, *map(str, offences)]), pytrace=False)


def states_reason(cls: type) -> bool:
    """Return True if a comment gives the reason for many settings, by the rule of tests/style.py."""
    (source,) = style.parse([Path(inspect.getfile(cls))])
    (node,) = [node for node in source.tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    constructors = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    return any(style.states_reason(source, item) for item in (node, *constructors))


def test_parts_take_few_arguments():
    taken = {
        registry[name].cls: sum(not is_filled(hint) for hint, _ in settings_of(registry[name].cls).values())
        for registry in discovery.load().registries.values()
        for name in registry
        if registry[name].owner.distribution == distributions.DISTRIBUTION
    }
    many = {
        cls.__name__: count for cls, count in taken.items() if count > style.MAX_ARGUMENTS and not states_reason(cls)
    }
    assert not many, f"more than {style.MAX_ARGUMENTS} settings without a comment '# arguments: REASON': {many}"


def test_projects_hold_no_python():
    assert not list((ROOT / "projects").rglob("*.py"))


def test_top_level_of_the_wheel_is_ours_alone():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    calls = {style.name_of(node): node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
    modules = [ast.literal_eval(k.value) for k in calls["setup"].keywords if k.arg == "py_modules"]
    chosen = {keyword.arg: ast.literal_eval(keyword.value) for keyword in calls["find_packages"].keywords}
    packages = find_packages(str(ROOT), **chosen)
    assert {package.split(".")[0] for package in packages} == set(PACKAGES)
    folders = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in SOURCES if path != FACADE}
    assert folders == set(packages), "a folder without __init__.py would be left out of the wheel"
    assert modules == [["patchbay"]]
    assert FACADE.exists()
