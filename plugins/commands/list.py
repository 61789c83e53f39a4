"""``patchbay list``: list parts, commands, recipes and the plugins that failed to load."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core import discovery
from core.hookspecs import hookimpl
from plugins.commands.console import Parser, json_only, put, put_json, run_cli
from registry import Owner, distributions, terminal
from registry.recipe_files import recipe_names
from registry.signature import settings_of

Row = dict[str, str]


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("list", "parts by kind, recipes, and plugins that failed to load", "plugins.commands.list:main")


def rows() -> list[Row]:
    """List ``{kind, name, distribution, version, status}`` of parts, commands, recipes and plugins that failed."""
    catalog = discovery.load()
    table = [
        _row(registry.kind, name, registry[name].owner, "ok")
        for registry in catalog.registries.values()
        for name in registry
    ]
    table += [
        _row("setting", f"{section}.{key}", entry.owner, "ok")
        for section, entries in catalog.settings.sections.items()
        for entry in entries
        if entry.owner.plugin != "core"
        for key in settings_of(entry.cls)
    ]
    table += [_row("command", verb, command.owner, "ok") for verb, command in catalog.commands.items()]
    table += _recipes("ok")
    listed = {row["distribution"] for row in table}
    table += [_row("plugin", o.plugin, o, "ok") for o in catalog.plugins if o.distribution not in listed]  # hooks only
    return table + [_row("plugin", f.owner.plugin, f.owner, f"failed: {f.fault}") for f in catalog.failures]


def metadata_rows() -> list[Row]:
    """List plugins and recipes by package metadata and sources; no plugin is imported."""
    ours = [
        Owner(name, distributions.DISTRIBUTION, distributions.version())
        for name in distributions.builtin_modules("plugins")
    ]
    theirs = [distributions.owner_of(point) for point in distributions.entry_points()]
    return [_row("plugin", owner.plugin, owner, "not loaded") for owner in (*ours, *theirs)] + _recipes("not loaded")


def _recipes(status: str) -> list[Row]:
    owner = Owner("core", distributions.DISTRIBUTION, distributions.version())
    return [_row("recipe", name, owner, status) for name in recipe_names()]


def _row(kind: str, name: str, owner: Owner, status: str) -> Row:
    return {
        "kind": kind,
        "name": name,
        "distribution": owner.distribution,
        "version": owner.version,
        "status": status,
    }


def _lines(row: Row) -> list[str]:
    """Format a row; on a narrow terminal its end continues on further lines."""
    where = f"{row['distribution']} {row['version']}".strip()
    line = f"{row['kind']:<13} {row['name']:<27} {where:<27} {row['status']}".rstrip()
    return terminal.wrap_line(line, terminal.width(terminal.UNLIMITED), 4)


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="patchbay list", description="List parts, commands, recipes and plugins.")
    parser.add_argument("--no-load", action="store_true", help="import no plugin; list them by package metadata")
    parser.add_argument("--json", action="store_true", help="print rows {kind, name, distribution, version, status}")
    args = parser.parse_args(argv)

    def work() -> int:
        with json_only(args.json) as output:
            table = metadata_rows() if args.no_load else rows()
            if args.json:
                put_json(table, output, indent=2)
            else:
                put("\n".join(piece for row in table for piece in _lines(row)))
        return 0

    return run_cli(work)
