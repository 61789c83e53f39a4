"""Renamed attributes: the old name of an attribute or method works for one release, with a warning."""

from __future__ import annotations

import inspect
import warnings
from abc import ABCMeta
from collections.abc import Callable
from typing import Any

from registry import T

ENDS = "the old name works in this release only"


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    warnings.warn(f"{old} is now {new}; {ENDS}", FutureWarning, stacklevel=stacklevel)


class OldName:
    """Forwards an attribute, or a method called through ``super()``, to its new name."""

    def __init__(self, home: type, old: str, new: str):
        self.home, self.old, self.new = home, old, new

    def __get__(self, instance: object, owner: type) -> Any:
        warn(f"{self.home.__name__}.{self.old}", self.new)
        if inspect.getattr_static(owner, self.old) is self:
            return getattr(owner if instance is None else instance, self.new)
        return vars(self.home)[self.new].__get__(instance, owner)  # a subclass's own method called super()

    def __set__(self, instance: object, value: Any) -> None:
        warn(f"{self.home.__name__}.{self.old}", self.new)
        setattr(instance, self.new, value)


def renamed(names: dict[str, str]) -> Callable[[type[T]], type[T]]:
    """Keep the old attributes, ``{"old": "new"}``, of a class; its subclasses may define either."""

    def decorate(cls: type[T]) -> type[T]:
        def adopt(sub: Any, /, **options: Any) -> None:
            super(cls, sub).__init_subclass__(**options)
            for old in names.keys() & vars(sub).keys():
                if names[old] not in vars(sub):
                    depth = 4 if isinstance(sub, ABCMeta) else 3  # ABCMeta.__new__ is written in Python
                    warn(f"{sub.__module__}.{sub.__qualname__}.{old}", names[old], depth)
                    setattr(sub, names[old], vars(sub)[old])
                    setattr(sub, old, OldName(sub, old, names[old]))

        for old, new in names.items():
            setattr(cls, old, OldName(cls, old, new))
        setattr(cls, "__init_subclass__", classmethod(adopt))  # noqa: B010
        return cls

    return decorate
