"""Parse YAML to a tree with line numbers. Scalars stay text: validation converts them by annotation."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import yaml
from yaml.reader import ReaderError

from core.files import paths, read_text
from registry.recipe_files import Problem, near_file, near_recipe

MAX_DEPTH = 50  # levels of nested lists and mappings


@dataclass(frozen=True)
class Scalar:
    """Text as written; ``quoted`` text is never a number, a truth value or null."""

    text: str
    where: str
    quoted: bool = False

    @property
    def null(self) -> bool:
        return not self.quoted and self.text.lower() in ("", "~", "null")


@dataclass(frozen=True)
class ListNode:
    """A list."""

    items: tuple[YamlNode, ...]
    where: str


@dataclass(frozen=True)
class MapNode:
    """A mapping; ``marks`` has the place of each key."""

    items: dict[str, YamlNode]
    where: str
    marks: dict[str, str] = field(default_factory=dict)


YamlNode = Scalar | ListNode | MapNode


def read_files(path: str, problems: list[Problem], chain: tuple[str, ...] = ()) -> list[MapNode]:
    """Read a recipe and those that it ``extends``, the innermost first; append to ``problems``."""
    try:
        node = parse(_read(path, chain), path, problems)
    except ValueError as err:
        problems.append(Problem("", "", str(err)))
        return []
    if not isinstance(node, MapNode):
        if node is not None:
            problems.append(Problem(node.where, "", "a recipe is a mapping such as 'train: {steps: 100}'"))
        return []
    base = node.items.pop("extends", None)
    if base is None:
        return [node]
    if not isinstance(base, Scalar) or base.null or not base.text:
        problems.append(Problem(base.where, "extends", "expected the name of a recipe file, relative to this one"))
        return [node]
    before = len(problems)
    inherited = read_files(os.path.join(os.path.dirname(path), base.text), problems, (*chain, os.path.abspath(path)))
    for i in range(before, len(problems)):
        if not problems[i].where:
            problems[i] = Problem(base.where, "extends", problems[i].sentence)
    return [*inherited, node]


def _read(path: str, chain: tuple[str, ...]) -> str:
    if os.path.abspath(path) in chain:
        circle = " extends ".join(os.path.relpath(p) for p in (*chain, os.path.abspath(path)))
        raise ValueError(f"goes in a circle: {circle}")
    if not paths.isfile(path):
        hint = ("" if chain else near_recipe(path)) or near_file(path)
        raise ValueError(f"{path}: {'is a folder' if os.path.isdir(path) else 'no such file'}.{hint}")
    return read_text(path)


def parse(text: str, where: str, problems: list[Problem], override: bool = False) -> YamlNode | None:
    """Parse YAML to a tree; None, and a problem, if it is not YAML or not allowed in a recipe.

    Anchors, aliases and tags are refused, so nothing is expanded or constructed.
    """

    def at(mark: yaml.Mark | None) -> str:
        return where if override or mark is None else f"{where}:{mark.line + 1}:{mark.column + 1}"

    try:
        faults, depth, loader = [], 0, yaml.SafeLoader(text)
        for event in iter(loader.get_event, None):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:  # stop before it costs time or overflows the stack
                problems.append(Problem(at(event.start_mark), "", f"nested too deeply: at most {MAX_DEPTH} levels"))
                return None
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if anchor is not None:
                what = f"alias '*{anchor}'" if isinstance(event, yaml.AliasEvent) else f"anchor '&{anchor}'"
                faults.append(Problem(at(event.start_mark), "", f"{what}: recipes take none; repeat it"))
            if tag is not None:
                faults.append(Problem(at(event.start_mark), "", f"tag {tag!r}: recipes take none"))
        problems += faults
        if faults:
            return None
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as err:
        since = f", {err.context} at {at(err.context_mark)}" if err.context_mark and not override else ""
        problems.append(Problem(at(err.problem_mark), "", f"not YAML: {err.problem}{since}"))
        return None
    except ReaderError as err:
        before = text[: err.position]
        place = where if override else f"{where}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        problems.append(Problem(place, "", f"not YAML: the character {text[err.position]!r} is not allowed"))
        return None
    except (ValueError, OverflowError):  # PyYAML does not check these numbers
        problems.append(Problem(at(loader.get_mark()), "", "not YAML: a number of an escape or version is too large"))
        return None
    if root is None:
        if not override:
            problems.append(Problem(f"{where}:1:1", "", "is empty"))
        return Scalar("", where) if override else None

    def convert(node: yaml.Node, path: str) -> YamlNode:
        here = at(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return Scalar(str(node.value), here, node.style is not None)
        if isinstance(node, yaml.SequenceNode):
            return ListNode(tuple(convert(child, f"{path}[{i}]") for i, child in enumerate(node.value)), here)
        items: dict[str, YamlNode] = {}
        marks: dict[str, str] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problems.append(Problem(at(key.start_mark), path, "a key must be a plain word"))
                continue
            name = str(key.value)
            inner = f"{path}.{name}" if path else name
            if name in items:
                problems.append(Problem(at(key.start_mark), inner, f"is given twice; first at {marks[name]}"))
                continue
            items[name], marks[name] = convert(value, inner), at(key.start_mark)
        return MapNode(items, here, marks)

    return convert(root, "")


@overload
def merge(base: MapNode, over: MapNode) -> MapNode: ...
@overload
def merge(base: YamlNode, over: YamlNode) -> YamlNode: ...
def merge(base: YamlNode, over: YamlNode) -> YamlNode:
    """Merge ``over`` into ``base``: mappings are merged, other values replaced; null removes an inherited entry."""
    if not isinstance(over, MapNode):
        return over
    if isinstance(base, Scalar) and not base.null and "name" not in over.items:
        base = MapNode({"name": base}, base.where, {"name": base.where})  # a part written as its bare name
    if not isinstance(base, MapNode):
        return over
    items, marks = dict(base.items), {**base.marks, **over.marks}
    for key, value in over.items.items():
        if isinstance(value, Scalar) and value.null and key in items:
            del items[key]
        else:
            items[key] = merge(items[key], value) if key in items else value
    return MapNode(items, over.where or base.where, marks)


def parse_override(override: str, problems: list[Problem]) -> tuple[list[str | int], YamlNode, str] | None:
    """Split ``model.backbone.prune[0].pruner.keep_rate=0.3`` into the steps of its path, its value and its place.

    None, and a problem, if it has another form.
    """
    path, equals, text = override.partition("=")
    where = f"override {override!r}"
    if not equals or not re.fullmatch(rf"[\w-]+(\.[\w-]+|\[\d+\]){{0,{MAX_DEPTH}}}", path):
        example = "train.steps=100 or prune[0].pruner.keep_rate=0.3"
        problems.append(Problem(where, "", f"expected path=value, such as {example}"))
        return None
    value = parse(text, where, problems, override=True)
    steps = [step or int(index) for step, index in re.findall(r"([\w-]+)|\[(\d+)\]", path)]
    return None if value is None else (steps, value, where)


def apply(tree: MapNode, steps: Sequence[str | int], value: YamlNode, where: str, problems: list[Problem]) -> MapNode:
    """Set the value at the end of a path of keys and list indices."""
    placed = _place(tree, steps, value, where)
    if isinstance(placed, MapNode):
        return placed
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    problems.append(Problem(where, path.removeprefix("."), str(placed)))
    return tree


def _place(node: YamlNode | None, steps: Sequence[str | int], value: YamlNode, where: str) -> YamlNode | str:
    """Return ``node`` with the value at the end of the path, or an error message."""
    if not steps:
        return value if node is None else merge(node, value)
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        if not isinstance(node, ListNode):
            return f"[{step}] asks for an entry of a list, and there is no list here"
        if step >= len(node.items):
            return f"[{step}] is beyond the list's end; it has {len(node.items)} entries, counted from 0"
        inner = _place(node.items[step], rest, value, where)
        if isinstance(inner, str):
            return inner
        return ListNode((*node.items[:step], inner, *node.items[step + 1 :]), node.where)
    if isinstance(node, ListNode):
        return f"is a list: say which entry, such as [0].{step}"
    inner = _place(node.items.get(step) if isinstance(node, MapNode) else None, rest, value, where)
    if isinstance(inner, str):
        return inner
    base = merge(node, MapNode({}, node.where)) if node is not None else None  # a bare name becomes a mapping
    if not isinstance(base, MapNode):
        base = MapNode({}, where)
    if isinstance(inner, Scalar) and inner.null and step in base.items:
        return MapNode({key: item for key, item in base.items.items() if key != step}, base.where, base.marks)
    marked = step in base.items and isinstance(inner, MapNode)
    marks = base.marks if marked else {**base.marks, step: where}
    return MapNode({**base.items, step: inner}, base.where if isinstance(node, MapNode) else where, marks)
