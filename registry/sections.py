"""The settings classes behind the sections of a recipe, by owner."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry import Entry, Owner, T
from registry.signature import REQUIRED, settings_of


@dataclass
class SettingsRegistry:
    """Settings classes of each recipe section. A section's keys are the fields of all its classes together.

    ``reserved``: names of sections to which nothing can be added.
    """

    reserved: tuple[str, ...] = ()
    sections: dict[str, list[Entry[Any]]] = field(default_factory=dict)

    def add(self, section: str, cls: type, owner: Owner) -> None:
        """Add the fields of a dataclass to a section, which need not exist.

        Raises:
            TypeError: ``cls`` is not a frozen dataclass, or an annotation cannot be resolved.
            ValueError: the section cannot have settings, a field has no default, or a key or class is taken.
        """
        if not (section.isidentifier() and section.islower()) or section in self.reserved:
            reserved = ", ".join(self.reserved)
            raise ValueError(f"{section!r} cannot have settings: use a word in lower case other than {reserved}")
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
            raise TypeError(f"settings of section {section!r}: {cls!r} is not a frozen dataclass")
        keys = settings_of(cls)
        required = [key for key, (_, default) in keys.items() if default is REQUIRED]
        unknown = sorted(getattr(cls, "free_on_resume", frozenset()) - keys.keys())
        if required or unknown:
            fault = f"need defaults: {', '.join(required)}" if required else f"free_on_resume has {', '.join(unknown)}"
            raise ValueError(f"settings of section {section!r}, {cls.__name__}: {fault}")
        for other, entries in self.sections.items():
            for entry in entries:
                if entry.cls is cls:
                    raise ValueError(f"{cls.__name__} is already the settings of section {other!r}: {entry.owner}")
                shared = sorted(keys.keys() & settings_of(entry.cls)) if other == section else []
                if shared:
                    raise ValueError(f"setting '{section}.{shared[0]}' is claimed by {entry.owner} and by {owner}")
        self.sections.setdefault(section, []).append(Entry(cls, owner))

    def remove(self, owner: Owner) -> None:
        """Remove everything that ``owner`` added."""
        kept = {name: [e for e in entries if e.owner != owner] for name, entries in self.sections.items()}
        self.sections = {name: entries for name, entries in kept.items() if entries}

    def free_on_resume(self, path: str) -> bool:
        """Return True if a setting, such as ``run.device``, may differ between a run and its continuation."""
        section, _, key = path.partition(".")
        free = [getattr(entry.cls, "free_on_resume", ()) for entry in self.sections.get(section, ())]
        return any(key.partition(".")[0].partition("[")[0] in keys for keys in free)


@dataclass(frozen=True)
class PluginSettings:
    """Settings of one run that plugins declared: by section, one object of each class."""

    sections: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def get(self, cls: type[T]) -> T:
        """Return the object of a class.

        Raises:
            LookupError: no plugin declared the class.
        """
        for settings in self.sections.values():
            for value in settings:
                if type(value) is cls:
                    return value
        raise LookupError(f"{cls.__name__} has no values: a plugin must declare it in its hook 'settings'")
