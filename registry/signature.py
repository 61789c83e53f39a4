"""The settings that a class takes, and their description for people."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

from registry import near
from registry.part import FILLED, Between, Part, is_filled, parameters

REQUIRED = inspect.Parameter.empty


def settings_of(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return the settings of a part or a dataclass: name -> annotation, default or REQUIRED."""
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls, include_extras=True)
        return {f.name: (hints[f.name], _default(f)) for f in dataclasses.fields(cls) if f.init}
    return {name: (hint, parameter.default) for name, (hint, parameter) in parameters(cls).items()}


def renamed_settings(cls: type) -> dict[str, str]:
    """Return the old names of settings that a class declares, ``old -> new``, without names that it uses itself."""
    known, declared = settings_of(cls), getattr(cls, "renamed_settings", {})
    return {old: new for old, new in declared.items() if old not in known and new in known}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def describe(hint: Any) -> str:
    """Describe an annotation in words: "number between 0 and 1"."""
    if is_filled(hint):
        return f"{describe(typing.get_args(hint)[0])}, {FILLED}"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [str(extra) for extra in hint.__metadata__ if isinstance(extra, Between)]
        return " ".join([describe(args[0]), *bounds])
    if hint is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return " | ".join(map(spell, args))
    if origin is Part:
        return f"part ({args[0].__name__})"
    if is_list(origin) or (origin is tuple and args[-1:] == (...,)):
        return f"list of {describe(args[0])}"
    if origin is tuple:
        return f"list of {len(args)}: {', '.join(map(describe, args))}"
    if is_mapping(origin):
        return f"mapping of names to {describe(args[1])}"
    return {int: "whole number", float: "number", bool: "true | false", str: "text"}.get(hint) or _type_name(hint)


def _type_name(hint: Any) -> str:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return "{" + ", ".join(settings_of(hint)) + "}"
    return getattr(hint, "__name__", str(hint))


def parse_scalar(text: str, hint: Any, quoted: bool = False) -> Any:
    """Convert text to a str, bool, int, float or an option of a Literal. Quoted text is never a number.

    Raises:
        TypeError: the text has another type.
        ValueError: it is no option of the Literal, or an integer of more than 64 bits; the message is for the user.
    """
    if hint is str:
        return text
    if typing.get_origin(hint) is Literal:
        options = {spell(option): option for option in typing.get_args(hint)}
        if text not in options:
            raise ValueError(f"{text!r} is not accepted.{near(text, options)} Accepted: {', '.join(options)}.")
        return options[text]
    if hint is bool and text in ("true", "false") and not quoted:
        return text == "true"
    if hint not in (int, float) or quoted or not text.isascii():
        raise TypeError(f"{text!r} is not {describe(hint)}")
    try:
        number = hint(text)  # as Python does: 1e-4, 1_000; 010 is ten
    except ValueError as err:
        raise TypeError(f"{text!r} is not {describe(hint)}") from err
    if hint is int and abs(number) >= 2**63:
        raise ValueError("is too large: a whole number must be below 2^63")
    if not math.isfinite(number):
        raise TypeError(f"{text!r} is not {describe(hint)}")
    return number


def spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_list(origin: Any) -> bool:
    return isinstance(origin, type) and origin is not tuple and issubclass(origin, Sequence)


def is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)
