"""Check a YAML tree against the annotations of signatures. All problems are collected; nothing is built."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Union

from core.discovery import Catalog
from core.recipe.yaml_tree import ListNode, MapNode, Scalar, YamlNode
from registry import UnknownName, near
from registry.part import FILLED, Between, Part, is_filled
from registry.recipe_files import Problem
from registry.signature import REQUIRED, describe, is_list, is_mapping, parse_scalar, settings_of

INVALID: Any = object()  # in place of a value with a problem
Fields = Mapping[str, tuple[Any, Any]]  # name -> annotation, default or REQUIRED


class Reader:
    """Converts nodes by annotations; appends to ``problems``."""

    def __init__(self, catalog: Catalog):
        self.catalog = catalog
        self.problems: list[Problem] = []

    def add_problem(self, where: str, path: str, sentence: str) -> Any:
        self.problems.append(Problem(where, path, sentence))
        return INVALID

    def value(self, node: YamlNode, hint: Any, path: str, display_hint: Any = None) -> Any:
        """Convert a node to the type ``hint``, or INVALID; messages name ``display_hint`` if it is given."""
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self._bounded(node, hint, path)
        if origin in (Union, types.UnionType):
            return self._either(node, args, path)
        if origin is Part:
            return self.part(node, args[0], path)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            objects = self.section(node, [hint], path)
            return INVALID if objects is INVALID else objects[0]
        if origin is tuple or is_list(origin):
            return self._list(node, origin, args, path)
        if is_mapping(origin):
            if not isinstance(node, MapNode):
                return self._unfit(node, hint, path)
            read = {key: self.value(item, args[1], f"{path}.{key}") for key, item in node.items.items()}
            return INVALID if INVALID in read.values() else read
        if not isinstance(node, Scalar) or (node.null and hint is not type(None)):
            return self._unfit(node, display_hint or hint, path)
        try:
            return None if hint is type(None) and node.null else parse_scalar(node.text, hint, node.quoted)
        except TypeError:
            return self._unfit(node, display_hint or hint, path)
        except ValueError as err:
            return self.add_problem(node.where, path, str(err))

    def _unfit(self, node: YamlNode, hint: Any, path: str) -> Any:
        """Add the problem that a node does not fit an annotation."""
        if isinstance(node, Scalar):
            text = node.text if len(node.text) <= 100 else node.text[:100] + "..."
            got = "null, which only removes an inherited entry" if node.null else repr(text)
            got += " in quotes" if node.quoted and hint is not str else ""
        else:
            got = "a list" if isinstance(node, ListNode) else "a mapping"
        return self.add_problem(node.where, path, f"expected {describe(hint)}, found {got}")

    def _bounded(self, node: YamlNode, hint: Any, path: str) -> Any:
        value = self.value(node, typing.get_args(hint)[0], path, hint)
        for bounds in hint.__metadata__:
            if isinstance(bounds, Between) and isinstance(value, (int, float)) and not bounds.holds(value):
                return self.add_problem(node.where, path, f"must be {bounds}, but is {value:g}")
        return value

    def _either(self, node: YamlNode, options: tuple[Any, ...], path: str) -> Any:
        if type(None) in options and isinstance(node, Scalar) and node.null:
            return None
        rest = [option for option in options if option is not type(None)]
        if len(rest) == 1:
            return self.value(node, rest[0], path)
        for option in rest:
            trial = Reader(self.catalog)
            value = trial.value(node, option, path)
            if not trial.problems:
                return value
        return self._unfit(node, Union[tuple(rest)], path)  # noqa: UP007  (made from a tuple)

    def _list(self, node: YamlNode, origin: Any, args: tuple[Any, ...], path: str) -> Any:
        fixed = origin is tuple and args[-1:] != (...,)
        if not isinstance(node, ListNode) or (fixed and len(node.items) != len(args)):
            count = f", found {len(node.items)} entries" if isinstance(node, ListNode) else ""
            expected = describe(origin[args]) if origin is tuple else f"a list of {describe(args[0])}"
            return self.add_problem(node.where, path, f"expected {expected}{count or ', such as [...]'}")
        hints = args if fixed else args[:1] * len(node.items)
        read = [self.value(item, h, f"{path}[{i}]") for i, (item, h) in enumerate(zip(node.items, hints, strict=True))]
        if any(value is INVALID for value in read):
            return INVALID
        return tuple(read) if origin is tuple else read

    def section(self, node: YamlNode, classes: Sequence[type], path: str) -> Any:
        """Read one mapping as an object of each dataclass, or INVALID; their keys are accepted together."""
        signature = {key: setting for cls in classes for key, setting in settings_of(cls).items()}
        if not isinstance(node, MapNode):
            return self._unfit(node, "{" + ", ".join(signature) + "}", path)
        read = self.fields(node, signature, path, path.rpartition(".")[2] or "it")
        if read is INVALID:
            return INVALID
        objects = []
        for cls in classes:
            try:
                objects.append(cls(**{key: read[key] for key in settings_of(cls)}))
            except ValueError as err:
                self.add_problem(node.where, path, str(err))
        return objects if len(objects) == len(classes) else INVALID

    def fields(self, node: MapNode, signature: Fields, path: str, label: str, extra_keys: Sequence[str] = ()) -> Any:
        """Convert a mapping by a signature and fill in the defaults; INVALID if there is any problem.

        ``extra_keys``: further keys of the mapping, which the caller reads; messages list them.
        """
        before = len(self.problems)
        free = [name for name, (hint, _) in signature.items() if not is_filled(hint)]
        read: dict[str, Any] = {}
        for key, item in node.items.items():
            inner = f"{path}.{key}" if path else key
            where = node.marks.get(key, item.where)
            if key not in signature:
                takes = [*free, *extra_keys]
                away = [k for k in node.items if k != key] if isinstance(item, Scalar) and item.null else []
                known = ", ".join(takes) or "nothing"
                hint = near(key, [*takes, *away])
                failed = self.catalog.failed() if path in self.catalog.settings.sections else ""
                self.add_problem(where, inner, f"{label} takes no such setting.{hint} It takes: {known}.{failed}")
            elif key not in free:
                self.add_problem(where, inner, f"is {FILLED}; a recipe cannot set it")
            else:
                read[key] = self.value(item, signature[key][0], inner)
        for key in free:
            if key not in node.items and signature[key][1] is REQUIRED:
                self.add_problem(
                    node.where, f"{path}.{key}" if path else key, f"is missing: {describe(signature[key][0])}"
                )
        if len(self.problems) > before:
            return INVALID
        return {key: read[key] if key in read else signature[key][1] for key in free}

    def part(self, node: YamlNode, base: type, path: str, extra_keys: Sequence[str] = ()) -> Any:
        """Convert a bare name, or a mapping with ``name`` and settings, to a Part; INVALID if there is any problem."""
        kind = self.catalog.registries[base].kind
        if isinstance(node, Scalar) and not node.null:
            node = MapNode({"name": node}, node.where, {"name": node.where})
        if not isinstance(node, MapNode):
            return self._unfit(node, Part[base], path)  # type: ignore[valid-type]
        named = node.items.get("name")
        if not isinstance(named, Scalar) or not named.text:
            known = ", ".join(self.catalog.registries[base])
            wrong = next((key for key in node.items if key != "name" and near(key, ["name"])), "")
            where = named.where if named else node.marks.get(wrong, node.where)
            hint = f" Did you mean 'name' by {wrong!r}?" if wrong else ""
            return self.add_problem(
                where, path, f"needs the name of a {kind}: {{name: ...}}.{hint} Registered: {known}."
            )
        try:
            entry = self.catalog.find(base, named.text)
        except UnknownName as err:
            return self.add_problem(named.where, path, str(err))
        rest = MapNode({k: v for k, v in node.items.items() if k != "name"}, node.where, node.marks)
        settings = self.fields(rest, settings_of(entry.cls), path, f"{kind} {named.text!r}", [*extra_keys, "name"])
        if settings is INVALID:
            return INVALID
        return Part(entry.cls, settings, named.text, kind, f"{node.where}: {path}", entry.owner)
