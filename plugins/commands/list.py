"""``patchbay list``: what is installed, and what of it failed to load."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from core import discovery
from core.cli import run_cli
from core.files import recipe_names
from core.hookspecs import hookimpl
from registry import Owner
from registry.signature import settings_of

Row = dict[str, str]


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("list", "every part by kind, and the plugins that failed to load", "plugins.commands.list:main")


def rows() -> list[Row]:
    """``{kind, name, distribution, version, status}`` of every part and verb; a plugin that failed is a row too."""
    catalog = discovery.load()
    found = [
        _row(registry.kind, name, registry[name].owner, "ok")
        for registry in catalog.registries.values()
        for name in registry
    ]
    found += [
        _row("setting", f"{section}.{key}", entry.owner, "ok")
        for section, entries in catalog.settings.sections.items()
        for entry in entries
        if entry.owner.plugin != "core"
        for key in settings_of(entry.cls)
    ]
    found += [_row("command", verb, command.owner, "ok") for verb, command in catalog.commands.items()]
    found += _recipes("ok")
    shown = {row["distribution"] for row in found}
    found += [_row("plugin", o.plugin, o, "ok") for o in catalog.plugins if o.distribution not in shown]  # hooks only
    return found + [_row("plugin", f.owner.plugin, f.owner, f"failed: {f.fault}") for f in catalog.failures]


def metadata_rows() -> list[Row]:
    """The plugins that package metadata names; none of their code is imported."""
    ours = [Owner(name, discovery.DISTRIBUTION, discovery.version()) for name in discovery.builtin_modules("plugins")]
    theirs = [discovery.owner_of(point) for point in discovery.entry_points()]
    return [_row("plugin", owner.plugin, owner, "not loaded") for owner in (*ours, *theirs)] + _recipes("not loaded")


def _recipes(status: str) -> list[Row]:
    owner = Owner("core", discovery.DISTRIBUTION, discovery.version())
    return [_row("recipe", name, owner, status) for name in recipe_names()]


def _row(kind: str, name: str, owner: Owner, status: str) -> Row:
    return {
        "kind": kind,
        "name": name,
        "distribution": owner.distribution,
        "version": owner.version,
        "status": status,
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="patchbay list", description="List parts, commands and plugins.")
    parser.add_argument("--no-load", action="store_true", help="read package metadata only: import no plugin")
    parser.add_argument("--json", action="store_true", help="print rows {kind, name, distribution, version, status}")
    args = parser.parse_args(argv)

    def work() -> int:
        table = metadata_rows() if args.no_load else rows()
        if args.json:
            print(json.dumps(table, indent=2))
            return 0
        for row in table:
            where = f"{row['distribution']} {row['version']}".strip()
            print(f"{row['kind']:<13} {row['name']:<27} {where:<27} {row['status']}".rstrip())
        return 0

    return run_cli(work)
