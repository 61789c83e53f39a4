"""Load plugins: the built-in modules under plugins/ and the entry points of third parties, in the same way.

Imports torch only when parts are loaded, so that the console script lists its commands quickly.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pluggy

from core import hookspecs
from core.compat import names
from core.settings import EvaluateSettings, RunSettings, TrainSettings
from registry import Entry, Owner, Registry, UnknownName, near, terminal
from registry.commands import Command, Failure, command_adder
from registry.distributions import DISTRIBUTION, builtin_modules, describe_error, entry_points, owner_of, version
from registry.part import parameters
from registry.recipe_files import FAILED
from registry.sections import SettingsRegistry


def _kinds() -> tuple[tuple[type, str], ...]:
    """List the base class of each kind of part and its name in messages. Imports torch."""
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
    manager.add_hookspecs(names)
    return manager


def _core_settings() -> SettingsRegistry:
    registry = SettingsRegistry(reserved=("model", "objectives", "data", "extends"))
    owner = Owner("core", DISTRIBUTION, version())
    for section, cls in (("train", TrainSettings), ("evaluate", EvaluateSettings), ("run", RunSettings)):
        registry.add(section, cls, owner)
    return registry


@dataclass
class Catalog:
    """All that one run can use: hooks, parts by kind, settings, commands; and the plugins that failed."""

    hooks: pluggy.PluginManager = field(default_factory=_manager)
    registries: dict[type, Registry[Any]] = field(
        default_factory=lambda: {base: Registry(base, kind) for base, kind in _kinds()}
    )
    settings: SettingsRegistry = field(default_factory=_core_settings)
    commands: dict[str, Command] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    plugins: list[Owner] = field(default_factory=list)

    def find(self, base: type, name: str) -> Entry[Any]:
        """Return the part of a kind by its name.

        Raises:
            UnknownName: no such part is registered; names the plugins that failed to load.
        """
        try:
            return self.registries[base][name]
        except UnknownName as err:
            raise UnknownName(f"{err}{self.failed()}") from None

    def failed(self) -> str:
        """Quote the plugins that failed to load, as the end of a message; empty if there are none."""
        failed = "; ".join(map(str, self.failures))
        return f"{FAILED}{failed}" if failed else ""

    def register_plugin(self, load: Callable[[], object], owner: Owner) -> None:
        """Load one plugin and register its parts, commands and hooks: all of them, or none after an error.

        Raises:
            Exception: any error of the plugin.
        """
        plugin: object = None
        try:
            plugin = load()
            self.hooks.register(plugin, name=f"{owner.distribution}:{owner.plugin}")
            _check_hooks(self.hooks, plugin)
            others = [other for other in self.hooks.get_plugins() if other is not plugin]
            self.hooks.subset_hook_caller("register", others)(add=lambda name, cls: self._add(name, cls, owner))
            self.hooks.subset_hook_caller("settings", others)(add=lambda key, cls: self.settings.add(key, cls, owner))
            self.hooks.subset_hook_caller("commands", others)(add=command_adder(self.commands, owner))
        except BaseException:
            self._remove(plugin, owner)
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

    def _remove(self, plugin: object, owner: Owner) -> None:
        for registry in self.registries.values():
            registry.remove(owner)
        self.settings.remove(owner)
        for verb in [verb for verb, command in self.commands.items() if command.owner == owner]:
            del self.commands[verb]
        if plugin is not None and self.hooks.get_name(plugin) == f"{owner.distribution}:{owner.plugin}":
            self.hooks.unregister(plugin)


def load() -> Catalog:
    """Load every plugin. A third party's failure is recorded; a failure of a built-in plugin is a bug and raises."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # timm, at import
    catalog = Catalog()
    for module in builtin_modules("plugins"):
        owner = Owner(module, DISTRIBUTION, version())
        catalog.register_plugin(lambda module=module: importlib.import_module(module), owner)  # type: ignore[misc]
    for point in entry_points():
        owner = owner_of(point)
        try:
            with terminal.stdout_to_stderr():  # a plugin that prints is no part of a command's output
                catalog.register_plugin(point.load, owner)
        except KeyboardInterrupt:
            raise
        except BaseException as err:
            catalog.failures.append(Failure(owner, describe_error(err)))
    return catalog


def builtin_commands() -> dict[str, Command]:
    """Return the built-in commands without importing any part."""
    commands: dict[str, Command] = {}
    for name in builtin_modules("plugins.commands"):
        importlib.import_module(name).commands(command_adder(commands, Owner(name, DISTRIBUTION, version())))
    return commands


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse a function that is marked as a hook but named like none: pluggy would never call it."""
    known = sorted(name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{hookspecs.PROJECT}_spec"))
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            raise AttributeError(
                f"there is no hook named {caller.name!r}.{near(caller.name, known)} Hooks: {', '.join(known)}."
            )
