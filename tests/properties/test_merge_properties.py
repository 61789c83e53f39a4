"""Recipes merged: laws of `extends`, and the place of each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from core.recipe import Problem
from core.recipe.yaml_tree import MapNode, Scalar, merge, read_files
from properties.drawing import NAMES, PROFILE, TEXTS
from properties.recipes import FILE, bare, node, write

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(NAMES, VALUES, max_size=4)


def without_null(value: Any) -> Any:
    """The same with 0 in the place of every null."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_null(item) for item in value]
    return 0 if value is None or value in ("", "~") or str(value).lower() == "null" else value


SOLID = MAPPINGS.map(without_null)


def merged(base: Any, over: Any) -> Any:
    return bare(merge(node(base), node(over)))


@given(base=MAPPINGS)
@PROFILE
def test_nothing_merged_changes_nothing(base):
    assert merged(base, {}) == bare(node(base))
    assert merged({}, base) == bare(node(base))


@given(base=MAPPINGS, over=MAPPINGS)
@PROFILE
def test_what_comes_later_wins_and_null_removes(base, over):
    result, before, after = merged(base, over), bare(node(base)), bare(node(over))
    for key in base.keys() | over.keys():
        value = node(over)
        assert isinstance(value, MapNode)
        later = value.items.get(key)
        if later is None:
            assert result[key] == before[key]
        elif isinstance(later, Scalar) and later.null and key in base:
            assert key not in result
        elif not isinstance(later, MapNode) or key not in base:
            assert result[key] == after[key]
        else:
            assert result[key] == merged(base[key], over[key])
    assert [key for key in result if key in base] == [key for key in base if key in result]


@given(base=MAPPINGS, over=MAPPINGS)
@PROFILE
def test_a_merged_key_names_the_file_that_gave_it_last(base, over):
    merged = merge(node(base, "base.yaml"), node(over, "over.yaml"))
    assert isinstance(merged, MapNode)
    for key in merged.items:
        assert merged.marks[key].startswith("over.yaml:" if key in over else "base.yaml:")


@given(base=SOLID, over=SOLID)
@PROFILE
def test_a_merge_without_null_can_be_repeated(base, over):
    once = merge(node(base), node(over))
    assert bare(merge(once, node(over))) == bare(once)
    assert bare(merge(once, once)) == bare(once)
    assert set(bare(once)) == base.keys() | over.keys()


@given(tree=MAPPINGS)
@PROFILE
def test_each_key_has_its_line(folder, tree):
    write(tree)
    problems: list[Problem] = []
    table = next(iter(read_files(FILE, problems)), MapNode({}, FILE))
    assert not problems or not tree
    lines = Path(FILE).read_text(encoding="utf-8").split("\n")
    for key, mark in table.marks.items():
        _, line, column = mark.split(":")
        rest = lines[int(line) - 1][int(column) - 1 :]
        assert yaml.safe_load("{" + rest.partition(":")[0] + ": 0}") in ({key: 0}, {None: 0}, {True: 0}, {False: 0})
