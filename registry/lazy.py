"""Attributes that are computed at their first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801  (reads as a decorator)
    """Decorator: cached_property without the lock that stops torch.compile."""

    def __init__(self, compute: Callable[[Any], T]):
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    @overload
    def __get__(self, owner: None, cls: Any) -> once[T]: ...
    @overload
    def __get__(self, owner: object, cls: Any) -> T: ...
    def __get__(self, owner: object | None, cls: Any = None) -> Any:
        if owner is None:
            return self
        value = self.compute(owner)
        setattr(owner, self.name, value)  # a non-data descriptor: the instance attribute is read from now on
        return value
