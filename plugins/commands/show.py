"""``patchbay show PART``: describe a part or a recipe's section, its settings and its distribution."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, json_only, put, put_json, run_cli
from registry import Entry, Owner, Registry, UnknownName, distributions, near, terminal


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("show", "the settings of a part, or of a section of a recipe", "plugins.commands.show:main")


Page = tuple[str, str, list[Entry[Any]]]  # kind, name, classes: one of a part, all of a section


def find(query: str) -> list[Page]:
    """List every part of a name, a section, or one setting by its path.

    ``kind/name`` selects one kind ("token pruner/random"). Sections have the kind "section". ``objectives`` and
    ``data`` list their parts.

    Raises:
        UnknownName: there is no such part, section or setting; the message has near matches.
    """
    from core import discovery
    from core.kinds import Data
    from core.model import Model
    from core.objectives import Objective

    catalog = discovery.load()
    owner = Owner("core", distributions.DISTRIBUTION, distributions.version())
    sections: dict[str, list[Entry[Any]]] = {"model": [Entry(Model, owner)], **catalog.settings.sections}
    slots = {"objectives": catalog.registries[Objective], "data": catalog.registries[Data]}
    if query in slots:
        return [(slots[query].kind, name, [slots[query][name]]) for name in slots[query]]
    if query in sections:
        return [("section", query, sections[query])]
    kind, _, name = query.rpartition("/")
    registries = [r for r in catalog.registries.values() if kind.replace("_", " ") in ("", r.kind)]
    if pages := [(r.kind, name, [r[name]]) for r in registries if name in set(r)]:
        return pages
    parts = {part: [r[part] for r in registries if part in set(r)] for r in registries for part in r}
    if not kind and "." in query:
        owners = {**parts, **sections, **{section: [r[part] for part in r] for section, r in slots.items()}}
        return _settings(query, owners, slots["objectives"])
    names = sorted(parts.keys() | sections.keys() | slots.keys())
    failures = "".join(f"\nfailed to load: {failure}" for failure in catalog.failures)
    kinds = ", ".join(r.kind for r in catalog.registries.values())
    hint = near(name, names) if registries else f" There is no kind {kind!r}. Kinds: {kinds}."
    raise UnknownName(f"no part is named {query!r}.{hint} patchbay list names all.{failures}")


def _settings(query: str, owners: dict[str, list[Entry[Any]]], objectives: Registry[Any]) -> list[Page]:
    """Return the page of one setting or objective: ``train.precision``, ``tpd.keep_rate``, ``objectives.itc``.

    Raises:
        UnknownName: there is no such section, part or setting.
    """
    from registry.signature import settings_of

    head, _, path = query.partition(".")
    key = path.partition(".")[0].partition("[")[0]
    if head not in owners:
        raise UnknownName(f"no section or part is named {head!r}.{near(head, owners)}")
    if head == "objectives" and key in set(objectives):
        return [(objectives.kind, key, [objectives[key]])]
    entries = [entry for entry in owners[head] if key in settings_of(entry.cls)]
    if not entries:
        names = sorted({setting for entry in owners[head] for setting in settings_of(entry.cls)})
        raise UnknownName(f"{head!r} has no setting {key!r}.{near(key, names)} Settings: {', '.join(names) or 'none'}.")
    return [("setting", f"{head}.{key}", entries)]


def show(query: str) -> str:
    """Format a page for every part of a name."""
    pages = find(query)
    if query in ("objectives", "data"):
        lines = [f"section {query!r}: parts of the kind {pages[0][0]}; patchbay show NAME describes one", ""]
        return "\n".join(lines + [f"  {name:<16}{_first_line(entries[0].cls)}" for _, name, entries in pages])
    return "\n\n".join(_page(*page) for page in pages)


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _facts(kind: str, name: str, entries: list[Entry[Any]]) -> dict[str, Any]:
    """Return the content of the page for scripts."""
    from core.recipe import plain
    from registry.part import is_filled
    from registry.signature import REQUIRED, describe, settings_of

    settings = {
        setting: {
            "accepts": describe(hint),
            "set_by": "assembly" if is_filled(hint) else "recipe",
            **({} if default is REQUIRED or is_filled(hint) else {"default": plain(default)}),
            **(
                {"plugin": entry.owner.plugin, "distribution": entry.owner.distribution}
                if kind in ("section", "setting")
                else {}
            ),
        }
        for entry in entries
        for setting, (hint, default) in settings_of(entry.cls).items()
        if kind != "setting" or setting == name.partition(".")[2]
    }
    owner = entries[0].owner
    named = {"kind": kind, "name": name, "distribution": owner.distribution, "version": owner.version}
    return {**named, "description": inspect.getdoc(entries[0].cls) or "", "settings": settings}


def _page(kind: str, name: str, entries: list[Entry[Any]]) -> str:
    return "\n".join([f"{kind} {name!r}", "", "\n\n".join(_block(entry, name.partition(".")[2]) for entry in entries)])


def _block(entry: Entry[Any], only: str) -> str:
    """Describe a class and its settings, or the setting ``only``."""
    from core.objectives import Objective
    from registry.part import is_filled
    from registry.signature import REQUIRED, describe, settings_of

    settings = {key: value for key, value in settings_of(entry.cls).items() if only in ("", key)}
    lines = [] if only else [inspect.getdoc(entry.cls) or "(no description)", "", "Settings"]
    for setting, (hint, default) in settings.items():
        if is_filled(hint):
            given = ""
        else:
            given = "; required" if default is REQUIRED else f"; default {_plain(default)}"
        lines.append(f"  {setting}: {describe(hint)}{given}{_remark(entry.cls, setting)}")
    if issubclass(entry.cls, Objective) and not only:
        lines.append(
            f"  weight: {describe(float)}; default 1  # factor of the loss in the total; a key of every objective"
        )
    elif not settings:
        lines.append("  none")
    return "\n".join([*lines, "", f"From   {entry.owner}", f"File   {inspect.getsourcefile(entry.cls)}"])


def _remark(cls: type, setting: str) -> str:
    """Return the comment behind a field of a settings class."""
    comment = re.search(rf"^    {setting}: .*?  # (.*)$", inspect.getsource(cls), re.MULTILINE)
    return f"  # {comment[1]}" if comment else ""


def _plain(value: Any) -> str:
    from core.recipe import plain

    return json.dumps(plain(value))


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="patchbay show", description="Describe a part, a section of a recipe or one setting.")
    parser.add_argument("part", help="a name, kind/name, a section (model, objectives, data, train, ...), or train.lr")
    parser.add_argument("--json", action="store_true", help="print a list of parts as JSON")
    args = parser.parse_args(argv)

    def work() -> int:
        with json_only(args.json) as output:
            if args.json:
                put_json([_facts(*part) for part in find(args.part)], output, indent=2)
            else:
                put("\n".join(terminal.wrap(show(args.part).split("\n"), terminal.width(terminal.UNLIMITED), 6)))
        return 0

    return run_cli(work)
