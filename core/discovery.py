"""Finding plugins: the built-in modules under plugins/ and strangers' entry points, through one door.

Nothing here imports torch before a part is loaded, so that the console script can ask for verbs quickly.
"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import pkgutil
import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pluggy

from core import hookspecs
from core.settings import EvaluateSettings, RunSettings, TrainSettings
from registry import Entry, Owner, Registry, UnknownName, near
from registry.part import parameters
from registry.sections import SettingsRegistry

GROUP = "patchbay.plugins"
NO_AUTOLOAD = "PATCHBAY_NO_AUTOLOAD"
DISTRIBUTION = "patchbay-vl"


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded, and why. All that it had registered was taken back."""

    owner: Owner
    fault: str

    def __str__(self) -> str:
        return f"{self.owner}: {self.fault}"


@dataclass(frozen=True)
class Command:
    """A verb of the console script; ``target`` is "package.module:function"."""

    help: str
    target: str
    owner: Owner


def _kinds() -> tuple[tuple[type, str], ...]:
    """Each kind's base and its name in messages; imports torch."""
    from core import kinds, objectives

    return (
        (kinds.Backbone, "backbone"),
        (kinds.TokenPruner, "token pruner"),
        (kinds.Pooler, "pooler"),
        (kinds.TextEncoder, "text encoder"),
        (kinds.Fusion, "fusion"),
        (kinds.Decoder, "decoder"),
        (kinds.Head, "head"),
        (objectives.Objective, "objective"),
        (kinds.Data, "data"),
    )


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _core_settings() -> SettingsRegistry:
    registry = SettingsRegistry(reserved=("model", "objectives", "data", "extends"))
    owner = Owner("core", DISTRIBUTION, version())
    for section, cls in (("train", TrainSettings), ("evaluate", EvaluateSettings), ("run", RunSettings)):
        registry.add(section, cls, owner)
    return registry


@dataclass
class Catalog:
    """What one run can use: hooks, parts by kind, settings, verbs, and the plugins that failed."""

    hooks: pluggy.PluginManager = field(default_factory=_manager)
    registries: dict[type, Registry[Any]] = field(
        default_factory=lambda: {base: Registry(base, kind) for base, kind in _kinds()}
    )
    settings: SettingsRegistry = field(default_factory=_core_settings)
    commands: dict[str, Command] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    plugins: list[Owner] = field(default_factory=list)

    def find(self, base: type, name: str) -> Entry[Any]:
        """The part of a kind by its name.

        Raises:
            UnknownName: nothing is registered under it; quotes the plugins that failed to load.
        """
        try:
            return self.registries[base][name]
        except UnknownName as err:
            if not self.failures:
                raise
            raise UnknownName(f"{err}{self.failed()}") from None

    def failed(self) -> str:
        """Quote the plugins that failed to load, as the end of a message; empty if there are none."""
        failed = "; ".join(map(str, self.failures))
        return f" Plugins that failed to load: {failed}" if failed else ""

    def register_plugin(self, load: Callable[[], object], owner: Owner) -> None:
        """Load one plugin and take its parts and hooks in: all of them, or none.

        Raises:
            Exception: whatever was wrong with it.
        """
        plugin: object = None
        try:
            plugin = load()
            self.hooks.register(plugin, name=f"{owner.distribution}:{owner.plugin}")
            _check_hooks(self.hooks, plugin)
            others = [other for other in self.hooks.get_plugins() if other is not plugin]
            self.hooks.subset_hook_caller("register", others)(add=lambda name, cls: self._add(name, cls, owner))
            self.hooks.subset_hook_caller("settings", others)(add=lambda key, cls: self.settings.add(key, cls, owner))
            self.hooks.subset_hook_caller("commands", others)(add=_adder(self.commands, owner))
        except BaseException:
            self._take_back(plugin, owner)
            raise
        self.plugins.append(owner)

    def _add(self, name: str, cls: type, owner: Owner) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"{name!r} is no name for a part: use letters, digits, '_' and '-'")
        for base, registry in self.registries.items():
            if isinstance(cls, type) and issubclass(cls, base):
                parameters(cls)  # raises where annotations cannot be resolved
                registry.add(name, cls, owner)
                return
        known = ", ".join(base.__name__ for base in self.registries)
        raise TypeError(f"{name!r}: {cls!r} is not a class of any kind of part; its base must be one of {known}")

    def _take_back(self, plugin: object, owner: Owner) -> None:
        for registry in self.registries.values():
            registry.remove(owner)
        self.settings.remove(owner)
        for verb in [verb for verb, command in self.commands.items() if command.owner == owner]:
            del self.commands[verb]
        if plugin is not None and self.hooks.get_name(plugin) == f"{owner.distribution}:{owner.plugin}":
            self.hooks.unregister(plugin)


def load() -> Catalog:
    """Load every plugin. A stranger that fails is recorded; a built-in that fails is a bug and raises."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # timm, at import
    catalog = Catalog()
    for module in builtin_modules("plugins"):
        owner = Owner(module, DISTRIBUTION, version())
        catalog.register_plugin(lambda module=module: importlib.import_module(module), owner)  # type: ignore[misc]
    for point in entry_points():
        owner = owner_of(point)
        try:
            catalog.register_plugin(point.load, owner)
        except KeyboardInterrupt:
            raise
        except BaseException as err:
            catalog.failures.append(Failure(owner, _fault(err)))
    return catalog


def builtin_commands() -> dict[str, Command]:
    """The built-in verbs, without importing any part."""
    found: dict[str, Command] = {}
    for name in builtin_modules("plugins.commands"):
        module: Any = importlib.import_module(name)
        if hasattr(module, "commands"):
            module.commands(_adder(found, Owner(name, DISTRIBUTION, version())))
    return found


def builtin_modules(package: str) -> list[str]:
    """The names of all modules in a package of ours, packages themselves left out."""
    path = importlib.import_module(package).__path__
    return sorted(info.name for info in pkgutil.walk_packages(path, f"{package}.") if not info.ispkg)


def entry_points() -> list[metadata.EntryPoint]:
    """Third parties' entry points in a fixed order, an editable install that is seen twice counted once."""
    if os.environ.get(NO_AUTOLOAD, "") not in ("", "0"):
        return []
    found = {
        (owner_of(p).distribution, p.name, p.value): p for p in reversed(tuple(metadata.entry_points(group=GROUP)))
    }
    return [found[key] for key in sorted(found)]


def version() -> str:
    """Ours; "source" when run from a checkout that is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "source"


def owner_of(point: metadata.EntryPoint) -> Owner:
    """Who offers an entry point, from package metadata alone."""
    if point.dist is None:
        return Owner(point.name)
    return Owner(point.name, re.sub(r"[-_.]+", "-", point.dist.metadata["Name"]).lower(), point.dist.version)


def _adder(commands: dict[str, Command], owner: Owner) -> Callable[[str, str, str], None]:
    def add(verb: str, help: str, target: str) -> None:
        if verb in commands:
            raise ValueError(f"command {verb!r} is claimed by {commands[verb].owner} and by {owner}")
        commands[verb] = Command(help, target, owner)

    return add


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse a function that is marked as a hook and named like none: pluggy alone would never call it."""
    known = sorted(name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{hookspecs.PROJECT}_spec"))
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            raise AttributeError(
                f"there is no hook named {caller.name!r}.{near(caller.name, known)} Hooks: {', '.join(known)}."
            )


def _fault(err: BaseException) -> str:
    """The error with the place where it arose."""
    if isinstance(err, SyntaxError):
        return f"SyntaxError: {err.msg} ({err.filename}:{err.lineno})"
    frames = [frame for frame in traceback.extract_tb(err.__traceback__) if not frame.filename.startswith("<")]
    ours = os.path.dirname(os.path.abspath(__file__))
    theirs = [frame for frame in frames if not os.path.abspath(frame.filename).startswith(ours)]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(err).__name__}: {err}{place}"
