"""Old recipe keys: replaced in each file and in the overrides before they are merged, following the signatures."""

from __future__ import annotations

import dataclasses
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Union

from core.discovery import Catalog
from core.kinds import Data
from core.model import Model
from core.objectives import Objective
from core.recipe.yaml_tree import ListNode, MapNode, Problem, Scalar, YamlNode
from core.settings import Group, TrainSettings
from registry.part import Part
from registry.signature import is_list, is_mapping, settings_of

PREFIXES = {"model.poolers": "model.pooler", "model.moments": "model.frame_embedding"}  # of train.groups
SECTIONS = {"model": Model, "objectives": Mapping[str, Part[Objective]], "data": Part[Data], "train": TrainSettings}


class KeyResolver:
    """Replaces old keys of one file, or of all overrides together: either may use only one spelling of a key."""

    def __init__(self, catalog: Catalog, problems: list[Problem]):
        self.catalog, self.problems = catalog, problems
        self.spellings: dict[str, tuple[str, str]] = {}  # path by new names -> key as written, its place

    def file(self, node: MapNode, base: MapNode) -> MapNode:
        """Return the mapping with new keys; ``base``, which has them, gives the names of parts that it omits."""
        sections = {
            key: self._node(SECTIONS[key], item, base.items.get(key), key) if key in SECTIONS else item
            for key, item in node.items.items()
        }
        return dataclasses.replace(node, items=sections)

    def override(
        self, steps: Sequence[str | int], value: YamlNode, where: str, base: MapNode
    ) -> tuple[list[str | int], YamlNode]:
        """Return the path of an override by new keys, and its value, in which keys may be old too."""
        for step in reversed(steps):
            key = f"[{step}]" if isinstance(step, int) else step
            value = MapNode({key: value}, where, {key: where})
        assert isinstance(value, MapNode)
        value, path = self.file(value, base), []
        for step in steps:
            assert isinstance(value, MapNode)
            ((key, value),) = value.items.items()
            path.append(step if isinstance(step, int) else key)
        return path, value

    def _node(self, hint: Any, node: YamlNode, base: YamlNode | None, path: str) -> YamlNode:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self._node(args[0], node, base, path)
        if origin in (Union, types.UnionType):
            for option in args:
                node = self._node(option, node, base, path)
            return node
        if origin is tuple or is_list(origin):
            return self._entries(args, node, base, path)
        if not isinstance(node, MapNode):
            return node
        if not isinstance(base, MapNode):
            base = MapNode({} if base is None else {"name": base}, "")
        if is_mapping(origin):
            named = {key: self._node(args[1], n, base.items.get(key), f"{path}.{key}") for key, n in node.items.items()}
            return dataclasses.replace(node, items=named)
        if origin is Part:
            default = Scalar(path.rpartition(".")[2], "") if args[0] is Objective else None
            name = node.items.get("name", base.items.get("name", default))
            registry = self.catalog.registries[args[0]]
            known = isinstance(name, Scalar) and name.text in set(registry)
            return self._settings(registry[name.text].cls, node, base, path) if known else node  # type: ignore[union-attr]
        plain = not isinstance(hint, type) or not (dataclasses.is_dataclass(hint) or hint is Model)
        return node if plain else self._settings(hint, node, base, path)

    def _entries(self, args: Sequence[Any], node: YamlNode, base: YamlNode | None, path: str) -> YamlNode:
        def hint(index: int) -> Any:
            return args[0] if len(args) == 1 or args[-1] is ... else args[min(index, len(args) - 1)]

        if isinstance(node, ListNode):
            items = [self._node(hint(i), item, None, f"{path}[{i}]") for i, item in enumerate(node.items)]
            return ListNode(tuple(items), node.where)
        if isinstance(node, MapNode) and isinstance(base, ListNode):  # an override of some entry: {"[0]": ...}
            for i, item in enumerate(base.items):
                if (key := f"[{i}]") in node.items:
                    return MapNode({key: self._node(hint(i), node.items[key], item, path + key)}, node.where)
        return node

    def _settings(self, cls: type, node: MapNode, base: MapNode, path: str) -> MapNode:
        known = settings_of(cls)
        renamed = getattr(cls, "renamed_settings", {}).items()
        renamed = {old: new for old, new in renamed if old not in known and new in known}  # not of a subclass's own
        items: dict[str, YamlNode] = {}
        marks: dict[str, str] = {}
        for old, item in node.items.items():
            key, where = renamed.get(old, old), node.marks.get(old, item.where)
            place = f"{path}.{key}"
            if key != old:
                _warn(where, f"{path}.{old}", place)
            first, at = self.spellings.setdefault(place, (old, where))
            if first != old:
                self.problems.append(Problem(where, f"{path}.{old}", f"is another name of {first}, given at {at}"))
            items[key] = self._node(known[key][0], item, base.items.get(key), place) if key in known else item
            marks[key] = where
        if cls is Group and isinstance(items.get("prefix"), Scalar):
            items["prefix"] = _prefix(items["prefix"], path)
        return MapNode(items, node.where, marks)


def _prefix(node: YamlNode, path: str) -> YamlNode:
    """Return a group's prefix by the new names of the model's parts."""
    assert isinstance(node, Scalar)
    for old, new in PREFIXES.items():
        if node.text == old or node.text.startswith(f"{old}."):
            _warn(node.where, f"{path}.prefix: {old}", new)
            return dataclasses.replace(node, text=new + node.text.removeprefix(old))
    return node


def _warn(where: str, old: str, new: str) -> None:
    """Warn once for each place, as if the recipe's line had raised the warning."""
    sentence = f"{where}: {old} is now {new}; the old name works in this release only"
    file, line, _ = where.rsplit(":", 2) if where[-1:].isdigit() else (where, "0", "0")
    warnings.warn_explicit(sentence, FutureWarning, file, int(line), registry=_WARNED)


_WARNED: dict[str | tuple[str, type[Warning], int], int] = {}  # as warnings.warn_explicit fills it
