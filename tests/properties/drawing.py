"""Settings of hypothesis, and strategies for the settings of parts, drawn from the annotations of their signatures."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from core.discovery import Catalog
from registry.part import Between, Part, is_filled
from registry.signature import REQUIRED, settings_of

# The same examples at every run, so that a failure belongs to a change; PROPERTIES=random draws new ones.
PROFILE = settings(
    max_examples=40,
    deadline=None,
    derandomize=os.environ.get("PROPERTIES") != "random",
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = st.from_regex(r"[a-z_][a-z0-9_-]{0,7}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
LARGEST = 2.0**40  # of numbers that no annotation bounds


def part_settings(catalog: Catalog, cls: type) -> st.SearchStrategy[dict[str, Any]]:
    """Some settings of a part or dataclass as YAML has them; required ones are always there."""
    free = {name: pair for name, pair in settings_of(cls).items() if not is_filled(pair[0])}
    drawn = {name: setting(catalog, hint) for name, (hint, _) in free.items()}
    required = {name: drawn[name] for name, (_, default) in free.items() if default is REQUIRED}
    return st.fixed_dictionaries(required, optional={k: v for k, v in drawn.items() if k not in required})


def part(catalog: Catalog, base: type) -> st.SearchStrategy[dict[str, Any] | str]:
    """A registered part of a kind with some settings, or its bare name where it requires none."""

    def of(name: str) -> st.SearchStrategy[dict[str, Any] | str]:
        drawn = part_settings(catalog, registry[name].cls).map(lambda chosen: {"name": name, **chosen})
        bare = not any(default is REQUIRED for _, default in free_settings(registry[name].cls).values())
        return drawn | st.just(name) if bare else drawn

    registry = catalog.registries[base]
    return st.sampled_from(list(registry)).flatmap(of)


def free_settings(cls: type) -> dict[str, tuple[Any, Any]]:
    """Settings that a recipe may give."""
    return {name: pair for name, pair in settings_of(cls).items() if not is_filled(pair[0])}


def setting(catalog: Catalog, hint: Any) -> st.SearchStrategy[Any]:
    """Any value that an annotation accepts, as YAML has it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if str in get_args(hint):
            return TEXTS
        (bounds,) = [extra for extra in hint.__metadata__ if isinstance(extra, Between)]
        return number(args[0], bounds)
    if hint in (int, float):
        return number(hint, Between())
    if origin in (Union, types.UnionType):
        return st.one_of(setting(catalog, arg) for arg in args)
    if origin is Literal:
        return st.sampled_from(args)
    if origin is Part:
        return part(catalog, args[0])
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return part_settings(catalog, hint)
    if origin is tuple and args[-1] is not ...:
        return st.tuples(*(setting(catalog, arg) for arg in args)).map(list)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(NAMES, setting(catalog, args[1]), max_size=3)
    if origin is not None:
        return st.lists(setting(catalog, args[0]), max_size=2)
    return {str: TEXTS, bool: st.booleans(), type(None): st.none()}[hint]


def number(kind: type, bounds: Between) -> st.SearchStrategy[float]:
    """A whole number, or any; both ends are drawn too."""
    low, high = (-LARGEST if bounds.low is None else bounds.low), (LARGEST if bounds.high is None else bounds.high)
    if kind is int:
        return st.integers(int(low), int(high))
    return st.floats(low, high)
