"""Classes by kind and name. Independent of torch, YAML and plugins."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


class UnknownName(LookupError):
    """Nothing is registered by a name. The message has a near match and all known names."""


class DuplicateName(ValueError):
    """Two plugins registered the same name. The message has both."""


@dataclass(frozen=True)
class Owner:
    """The plugin that registered a class, and its installed distribution."""

    plugin: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        if not self.distribution:
            return f"plugin {self.plugin!r}"
        return f"plugin {self.plugin!r} of distribution {self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered class and its owner."""

    cls: type[T]
    owner: Owner


def near(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'tpd'?"`` if the name is close to a known one, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


@dataclass
class Registry(Generic[T]):
    """The classes of one kind, by name.

    ``base``: the class that all are subclasses of; ``kind``: its name in error messages ("token pruner").
    """

    base: type[T]
    kind: str
    _entries: dict[str, Entry[T]] = field(default_factory=dict, repr=False)

    def add(self, name: str, cls: type[T], owner: Owner) -> None:
        """Register ``cls`` under ``name``.

        Raises:
            TypeError: ``cls`` is not a concrete subclass of the base.
            DuplicateName: another class has the name.
        """
        if not (inspect.isclass(cls) and issubclass(cls, self.base)) or inspect.isabstract(cls):
            raise TypeError(f"{cls!r} is not a concrete {self.base.__name__}, so it cannot be a {self.kind}")
        entry = self._entries.get(name)
        if entry is not None and entry != Entry(cls, owner):
            raise DuplicateName(f"{self.kind} {name!r} is claimed by {entry.owner} and by {owner}")
        self._entries[name] = Entry(cls, owner)

    def remove(self, owner: Owner) -> None:
        """Remove everything that ``owner`` registered."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry.owner != owner}

    def __getitem__(self, name: str) -> Entry[T]:
        """Return the entry of a name.

        Raises:
            UnknownName: nothing is registered by that name.
        """
        if name not in self._entries:
            known = ", ".join(sorted(self._entries)) or "none"
            raise UnknownName(f"no {self.kind} is named {name!r}.{near(name, self._entries)} Registered: {known}.")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
