"""Random recipes, and the reader called on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from core.discovery import load
from core.kinds import Data
from core.model import Model
from core.objectives import Objective
from core.recipe import Recipe, read
from core.recipe.yaml_tree import ListNode, MapNode, YamlNode, parse
from core.settings import RunSettings, TrainSettings
from properties.drawing import NAMES, part, part_settings
from registry.recipe_files import Problem

CATALOG = load()
FILE = "a.yaml"
PARTS = [
    pytest.param(base, name, id=f"{registry.kind} {name}")
    for base, registry in CATALOG.registries.items()
    for name in registry
]
OBJECTIVES = st.dictionaries(
    NAMES,
    st.builds(
        lambda chosen, weight: {**(chosen if isinstance(chosen, dict) else {"name": chosen}), "weight": weight},
        part(CATALOG, Objective),
        st.floats(-10, 10),
    ),
    max_size=3,
)
RECIPES = st.fixed_dictionaries(
    {"model": part_settings(CATALOG, Model), "objectives": OBJECTIVES, "data": part(CATALOG, Data)},
    optional={"train": part_settings(CATALOG, TrainSettings), "run": part_settings(CATALOG, RunSettings)},
)


def write(content: Any) -> None:
    """``content`` as the recipe file: text as it is, or a tree."""
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    Path(FILE).write_bytes(text.encode("utf-8", "surrogatepass"))


def read_tree(content: Any, *overrides: str) -> Recipe:
    write(content)
    return read(FILE, overrides, CATALOG)


def node(value: Any, file: str = FILE) -> YamlNode:
    """A value as the reader has it."""
    problems: list[Problem] = []
    parsed = parse(yaml.safe_dump(value, sort_keys=False), file, problems)
    assert parsed is not None and not problems
    return parsed


def bare(tree: YamlNode) -> Any:
    """A tree without its places."""
    if isinstance(tree, MapNode):
        return {key: bare(item) for key, item in tree.items.items()}
    return [bare(item) for item in tree.items] if isinstance(tree, ListNode) else (tree.text, tree.quoted)


def leaves(tree: Any, path: str = "") -> list[str]:
    """The paths of all settings, in the form of overrides."""
    if isinstance(tree, dict) and tree:
        inner = [(f"{path}.{key}" if path else key, value) for key, value in tree.items()]
    elif isinstance(tree, list) and tree:
        inner = [(f"{path}[{i}]", value) for i, value in enumerate(tree)]
    else:
        return [path]
    return [leaf for place, value in inner for leaf in leaves(value, place)]


def edited(tree: Any, path: str, value: Any) -> Any:
    """A copy with ``value`` at a path; None deletes a key."""
    step, rest = re.fullmatch(r"\[?([\w-]+)\]?\.?(.*)", path).groups()  # type: ignore[union-attr]
    key = int(step) if isinstance(tree, list) else step
    inner = edited(tree[key], rest, value) if rest else value
    if isinstance(tree, list):
        return [inner if i == key else item for i, item in enumerate(tree)]
    if inner is None and not rest:
        return {name: item for name, item in tree.items() if name != key}
    return {name: inner if name == key else item for name, item in tree.items()}
