"""Settings classes of recipe sections: who may add what, and their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from registry import Owner
from registry.sections import PluginSettings, SettingsRegistry

OURS, THEIRS = Owner("ours"), Owner("theirs", "zoo", "2.0")


@dataclass(frozen=True)
class Run:
    free_on_resume: ClassVar = frozenset({"device", "groups"})
    device: str = "auto"
    groups: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class More:
    period: int = 1


@dataclass(frozen=True)
class Same:
    seed: int = 1


@dataclass(frozen=True)
class Required:
    size: int
    side: int


@dataclass(frozen=True)
class Stale:
    free_on_resume: ClassVar = frozenset({"gone"})
    here: int = 0


@dataclass
class Mutable:
    here: int = 0


@pytest.fixture
def settings() -> SettingsRegistry:
    registry = SettingsRegistry(reserved=("model", "data"))
    registry.add("run", Run, OURS)
    return registry


def test_a_section_has_classes_of_several_owners_until_they_are_removed(settings):
    settings.add("run", More, THEIRS)
    settings.add("extra", Same, THEIRS)  # the key is taken in another section only
    assert [entry.cls for entry in settings.sections["run"]] == [Run, More]
    settings.remove(THEIRS)
    assert {name: [entry.cls for entry in entries] for name, entries in settings.sections.items()} == {"run": [Run]}


@pytest.mark.parametrize(
    ("section", "cls", "error", "message"),
    [
        ("model", More, ValueError, "'model' cannot have settings: use a word in lower case other than model, data"),
        ("Run", More, ValueError, "'Run' cannot have settings"),
        ("my-run", More, ValueError, "'my-run' cannot have settings"),
        ("run", Mutable, TypeError, "settings of section 'run': .*Mutable'> is not a frozen dataclass"),
        ("run", More(), TypeError, "is not a frozen dataclass"),
        ("run", Required, ValueError, "settings of section 'run', Required: need defaults: size, side"),
        ("run", Stale, ValueError, "settings of section 'run', Stale: free_on_resume has gone"),
        ("run", Same, ValueError, "setting 'run.seed' is claimed by plugin 'ours' and by plugin 'theirs' of dist"),
        ("other", Run, ValueError, "Run is already the settings of section 'run': plugin 'ours'"),
    ],
)
def test_what_cannot_be_added(settings, section, cls, error, message):
    with pytest.raises(error, match=message):
        settings.add(section, cls, THEIRS)
    assert [entry.cls for entry in settings.sections["run"]] == [Run]


@pytest.mark.parametrize(
    ("path", "free"),
    [
        ("run.device", True),
        ("run.groups[0].lr", True),
        ("run.groups.x", True),
        ("run.seed", False),
        ("train.device", False),
        ("run", False),
    ],
)
def test_settings_that_a_resumed_run_may_change(settings, path, free):
    assert settings.free_on_resume(path) is free


def test_values_are_found_by_their_exact_class():
    values = PluginSettings({"run": [Run(seed=3)], "extra": [Same(seed=4)]})
    assert values.get(Run).seed == 3
    assert values.get(Same).seed == 4
    with pytest.raises(LookupError, match="More has no values: a plugin must declare it in its hook 'settings'"):
        values.get(More)
    with pytest.raises(LookupError):
        PluginSettings().get(Run)
