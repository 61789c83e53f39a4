"""Old recipe keys: replaced in each file and in the overrides before they are merged, following the signatures."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Union

from core.discovery import Catalog
from core.kinds import Data
from core.model import Model
from core.objectives import Objective
from core.recipe.yaml_tree import ListNode, MapNode, Scalar, YamlNode
from core.settings import TrainSettings
from registry.part import Part
from registry.recipe_files import Problem
from registry.renaming import ENDS
from registry.signature import is_list, is_mapping, renamed_settings, settings_of

PREFIXES = {"model.poolers": "model.pooler", "model.moments": "model.frame_embedding"}  # of train.groups
Steps = list[str | int]  # of a path: keys, and indices of lists
WARNED: dict[Any, int] = {}  # as warnings.warn_explicit fills it
PREFIX = re.compile(rf"({'|'.join(map(re.escape, PREFIXES))})(?![^.])")
SECTIONS = {"model": Model, "objectives": Mapping[str, Part[Objective]], "data": Part[Data], "train": TrainSettings}


class KeyResolver:
    """Replaces old keys of one file, or of all overrides together: either may use only one spelling of a key."""

    def __init__(self, catalog: Catalog, problems: list[Problem]):
        self.catalog, self.problems = catalog, problems
        self.spellings: dict[str, tuple[str, str]] = {}  # path by new names -> key as written, its place

    def file(self, node: MapNode, base: MapNode) -> MapNode:
        """Return the mapping with new keys; ``base``, which has them, gives the names of parts that it omits."""
        return self._keys(SECTIONS, {}, {}, node, base, "")

    def override(self, steps: Sequence[str | int], node: YamlNode, where: str, base: MapNode) -> tuple[Steps, YamlNode]:
        """Return the path of an override by new keys, and its value."""
        for step in reversed(steps):
            key = f"[{step}]" if isinstance(step, int) else step
            node = MapNode({key: node}, where, {key: where})
        assert isinstance(node, MapNode)
        node, path = self.file(node, base), []
        for step in steps:
            assert isinstance(node, MapNode)
            ((key, node),) = node.items.items()
            path.append(step if isinstance(step, int) else key)
        return path, node

    def _node(self, hint: Any, node: YamlNode, base: YamlNode | None, path: str) -> YamlNode:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Annotated, Union, types.UnionType):
            for option in args:  # a mark of Annotated changes nothing
                node = self._node(option, node, base, path)
            return node
        listed = origin is tuple or is_list(origin)
        if listed and isinstance(node, ListNode):
            entries = [self._node(args[0], item, None, f"{path}[{i}]") for i, item in enumerate(node.items)]
            return ListNode(tuple(entries), node.where)
        if not isinstance(node, MapNode):
            return node
        if isinstance(base, ListNode):  # an override of an entry
            base = MapNode({f"[{i}]": item for i, item in enumerate(base.items)}, "")
        elif not isinstance(base, MapNode):
            base = MapNode({} if base is None else {"name": base}, "")
        if listed or is_mapping(origin):
            return self._keys(dict.fromkeys(node.items, args[not listed]), {}, {}, node, base, path)
        former = cls = hint
        if origin is Part:
            default = Scalar(path.rpartition(".")[2], "") if args[0] is Objective else None
            name = base.items.get("name", default)
            former, cls = (self._part(args[0], n) for n in (name, node.items.get("name", name)))
        if not isinstance(cls, type) or not (origin is Part or dataclasses.is_dataclass(cls) or cls is Model):
            return node
        known = {key: inner for key, (inner, _) in settings_of(cls).items()}
        return self._keys(known, renamed_settings(cls), renamed_settings(former or cls), node, base, path)

    def _part(self, base: type, name: YamlNode | None) -> type | None:
        registry = self.catalog.registries[base]
        return registry[name.text].cls if isinstance(name, Scalar) and name.text in set(registry) else None

    def _keys(self, known: Any, renamed: Any, removed: Any, node: MapNode, base: MapNode, path: str) -> MapNode:
        """Rename keys by ``renamed``; by ``removed``, for the part that ``base`` names, where the value is null."""
        items: dict[str, YamlNode] = {}
        marks: dict[str, str] = {}
        for old, item in node.items.items():
            null = isinstance(item, Scalar) and item.null
            key, where = (removed if null else renamed).get(old, old), node.marks.get(old, item.where)
            before, place = (f"{path}.{k}".replace(".[", "[").removeprefix(".") for k in (old, key))
            if key != old:
                _warn(where, before, place)
            first, at = self.spellings.setdefault(place, (old, where))
            if first != old:
                self.problems.append(Problem(where, before, f"is another name of {first}, given at {at}"))
            if place.startswith("train.groups[") and isinstance(item, Scalar) and (found := PREFIX.match(item.text)):
                _warn(item.where, f"{place}: {found[0]}", PREFIXES[found[0]])
                item = dataclasses.replace(item, text=PREFIXES[found[0]] + item.text[found.end() :])
            items[key] = self._node(known[key], item, base.items.get(key), place) if key in known else item
            marks[key] = where
        return MapNode(items, node.where, marks)


def _warn(where: str, old: str, new: str) -> None:
    """Warn once for each place, as if the recipe's line had raised the warning."""
    file, line, _ = where.rsplit(":", 2) if where[-1:].isdigit() else (where, "0", "0")
    warnings.warn_explicit(f"{where}: {old} is now {new}; {ENDS}", FutureWarning, file, int(line), registry=WARNED)
