"""Read a recipe: YAML -> all problems at once -> parts with checked settings, not yet built; and back to YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from core.compat.recipe_keys import KeyResolver
from core.discovery import Catalog
from core.kinds import Data
from core.model import Model
from core.objectives import Objective
from core.recipe.validation import INVALID, Reader
from core.recipe.yaml_tree import MapNode, Scalar, YamlNode, apply, merge, parse_override, read_files
from core.settings import EvaluateSettings, RunSettings, TrainSettings
from registry import near
from registry.part import Part
from registry.recipe_files import Problem, RecipeErrors, recipe_path
from registry.sections import PluginSettings
from registry.signature import settings_of


@dataclass(frozen=True)
class Slot:
    """An objective and its weight in the sum of losses."""

    part: Part[Objective]
    weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is built from."""

    model: Part[Model]
    objectives: dict[str, Slot]
    data: Part[Data]
    train: TrainSettings
    evaluate: EvaluateSettings
    run: RunSettings
    plugin_settings: PluginSettings = field(default_factory=PluginSettings)


SECTIONS = ("model", "objectives", "data", "train", "evaluate", "run")


def read(path: str, overrides: Sequence[str], catalog: Catalog) -> Recipe:
    """Read a recipe with its ``path=value`` overrides.

    Raises:
        RecipeErrors: all problems of the recipe at once, as ``file:line:col: path: sentence``.
    """
    reader = Reader(catalog)
    recipe = _recipe(reader, _tree(catalog, path, overrides))
    if reader.problems or recipe is None:
        raise RecipeErrors(sorted(reader.problems, key=_position))
    return recipe


def read_model(path: str, catalog: Catalog, overrides: Sequence[str] = ()) -> Part[Model]:
    """Read the model of a recipe. Other sections are not read, and may be missing.

    Raises:
        RecipeErrors: as ``read``.
    """
    reader, tree = Reader(catalog), _tree(catalog, path, overrides)
    part = _model(reader, tree.items.get("model", Scalar("", tree.where)))
    if reader.problems:
        raise RecipeErrors(sorted(reader.problems, key=_position))
    return part


def _tree(catalog: Catalog, path: str, overrides: Sequence[str] = ()) -> MapNode:
    problems: list[Problem] = []
    tree = MapNode({}, path)
    for file in read_files(recipe_path(path), problems):
        tree = merge(tree, KeyResolver(catalog, problems).file(file, tree))
    resolver = KeyResolver(catalog, problems)
    for override in overrides if not problems else ():
        if (parsed := parse_override(override, problems)) is not None:
            steps, value, where = parsed
            tree = apply(tree, *resolver.override(steps, value, where, tree), where, problems)
    if problems:  # an incomplete tree would add problems about missing sections
        raise RecipeErrors(problems)
    return tree


def _position(problem: Problem) -> tuple[str, list[int]]:
    file, *place = problem.where.rsplit(":", 2)
    return file, [int(number) for number in place if number.isdigit()]


def _recipe(reader: Reader, tree: MapNode) -> Recipe | None:
    for key, node in tree.items.items():
        if key not in SECTIONS and key not in reader.catalog.settings.sections:
            known = list(dict.fromkeys((*SECTIONS, *reader.catalog.settings.sections, "extends")))
            sentence = f"a recipe has no such section.{near(key, known)} It has: {', '.join(known)}."
            sentence += reader.catalog.failed()
            reader.add_problem(tree.marks.get(key, node.where), key, sentence)
    empty = MapNode({}, tree.where)

    def section(name: str) -> YamlNode:
        node = tree.items.get(name, empty)
        if name in ("model", "objectives", "data") and name not in tree.items:
            reader.add_problem(tree.where, name, "is missing; a file without it is only for others, by extends")
        return node

    read = {
        "model": _model(reader, section("model")),
        "objectives": _objectives(reader, section("objectives")),
        "data": reader.part(section("data"), Data, "data") if "data" in tree.items else section("data"),
    }
    settings = {
        name: reader.section(section(name), [entry.cls for entry in entries], name)
        for name, entries in reader.catalog.settings.sections.items()
    }
    if reader.problems:
        return None
    core = {name: settings[name].pop(0) for name in ("train", "evaluate", "run")}  # core's class is each one's first
    return Recipe(**read, **core, plugin_settings=PluginSettings(settings))


def _model(reader: Reader, node: YamlNode) -> Any:
    if not isinstance(node, MapNode):
        return reader.add_problem(node.where, "model", "expected a mapping: {backbone: ..., heads: ...}")
    if not node.items:
        return INVALID
    settings = reader.fields(node, settings_of(Model), "model", "a model")
    return INVALID if settings is INVALID else Part(Model, settings, kind="model", where=f"{node.where}: model")


def _objectives(reader: Reader, node: YamlNode) -> Any:
    if not isinstance(node, MapNode):
        return reader.add_problem(node.where, "objectives", "expected a mapping: {itc: {}, itm: {weight: 0.5}}")
    slots: dict[str, Any] = {}
    for key, item in node.items.items():
        path, weight, where = f"objectives.{key}", 1.0, node.marks.get(key, item.where)
        if isinstance(item, MapNode):
            settings = {"name": Scalar(key, where), **item.items}
            if "weight" in settings:
                weight = reader.value(settings.pop("weight"), float, f"{path}.weight")
            item = MapNode(settings, item.where, item.marks)
        if isinstance(item, Scalar) and (item.null or item.text.lstrip("+-.")[:1].isdigit()):
            hint = near(key, [name for name in node.items if name != key])
            sentence = f"is null, and there is no inherited objective to remove.{hint} Its defaults: {{}}"
            mapping = f"expected a mapping, for example {{weight: {item.text}}}, found {item.text!r}"
            reader.add_problem(where, path, sentence if item.null else mapping)
            continue
        part = reader.part(item, Objective, path, extra_keys=("weight",))
        if part is not INVALID and weight is not INVALID:
            slots[key] = Slot(part, weight)
    return slots


def plain(value: Any) -> Any:
    """Convert a recipe, or a piece of one, to the mappings, lists and scalars of YAML."""
    if isinstance(value, Slot):
        return {**plain(value.part), "weight": value.weight}
    if isinstance(value, Recipe):
        content: dict[str, Any] = {name: plain(getattr(value, name)) for name in SECTIONS}
        for section, settings in value.plugin_settings.sections.items():
            for added in settings:
                content[section] = {**content.get(section, {}), **plain(added)}
        return content
    if isinstance(value, Part):
        name = {"name": value.name} if value.name else {}
        return {**name, **{key: plain(setting) for key, setting in value.settings.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def dump(recipe: Recipe, command: str = "") -> str:
    """Format a recipe as YAML with all defaults; reading it gives the same parts."""
    content = plain(recipe)  # U+0085 is escaped: PyYAML reads it as the end of a line
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode="\\x85" not in repr(content), width=120)
    return f"# {command}\n{text}" if command else text


def differences(one: Recipe, other: Recipe) -> list[str]:
    """List the paths of the settings in which two recipes differ."""
    a, b = _flat(plain(one)), _flat(plain(other))
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        pieces = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
    elif isinstance(value, list) and value:
        pieces = ((f"{path}[{i}]", item) for i, item in enumerate(value))
    else:
        return {path: value}
    return {key: leaf for inner, item in pieces for key, leaf in _flat(item, inner).items()}
