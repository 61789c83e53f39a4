"""``patchbay show PART``: describe a part or a recipe's section, its settings and its distribution."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from core.hookspecs import hookimpl
from plugins.commands.console import json_only, put, put_json, run_cli
from registry import Entry, Owner, UnknownName, distributions, near, terminal


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("show", "the settings of a part, or of a section of a recipe", "plugins.commands.show:main")


Page = tuple[str, str, list[Entry[Any]]]  # kind, name, classes: one of a part, all of a section
PARTS = {  # of sections that consist of parts
    "objectives": "Losses by name: `objectives: {itc: {}, itm: {weight: 0.5}}`. The sum weighs each by its `weight`.",
    "data": "The training and held-out data: `data: {name: scenes}` with the settings of that part.",
}


def find(query: str) -> list[Page]:
    """List every part of a name. ``kind/name`` selects one kind ("token pruner/random").

    A section of a recipe has the kind "section".

    Raises:
        UnknownName: there is no such part; the message has near matches.
    """
    from core import discovery
    from core.model import Model

    catalog = discovery.load()
    owner = Owner("core", distributions.DISTRIBUTION, distributions.version())
    sections: dict[str, list[Entry[Any]]] = {"model": [Entry(Model, owner)], **catalog.settings.sections}
    if query in PARTS:
        return [("section", query, [])]
    if query in sections:
        return [("section", query, sections[query])]
    kind, _, name = query.rpartition("/")
    registries = [r for r in catalog.registries.values() if kind.replace("_", " ") in ("", r.kind)]
    pages = [(r.kind, name, [r[name]]) for r in registries if name in set(r)]
    if not pages:
        known = sorted({part for registry in registries for part in registry} | sections.keys() | PARTS.keys())
        failed = "".join(f"\nfailed to load: {failure}" for failure in catalog.failures)
        kinds = ", ".join(r.kind for r in catalog.registries.values())
        hint = near(name, known) if registries else f" There is no kind {kind!r}. Kinds: {kinds}."
        raise UnknownName(f"no part is named {query!r}.{hint} patchbay list names all.{failed}")
    return pages


def show(query: str) -> str:
    """Format a page for every part of a name."""
    return "\n\n".join(_page(*part) for part in find(query))


def _facts(kind: str, name: str, entries: list[Entry[Any]]) -> dict[str, Any]:
    """Return the content of the page for scripts."""
    from core.recipe import plain
    from registry.part import is_filled
    from registry.signature import REQUIRED, describe, settings_of

    if name in PARTS and not entries:
        core = {"distribution": distributions.DISTRIBUTION, "version": distributions.version()}
        return {"kind": kind, "name": name, **core, "description": PARTS[name], "settings": {}, "parts": _parts(name)}
    settings = {
        setting: {
            "accepts": describe(hint),
            "set_by": "assembly" if is_filled(hint) else "recipe",
            **({} if default is REQUIRED or is_filled(hint) else {"default": plain(default)}),
            **({"plugin": entry.owner.plugin, "distribution": entry.owner.distribution} if kind == "section" else {}),
        }
        for entry in entries
        for setting, (hint, default) in settings_of(entry.cls).items()
    }
    owner = entries[0].owner
    named = {"kind": kind, "name": name, "distribution": owner.distribution, "version": owner.version}
    return {**named, "description": inspect.getdoc(entries[0].cls) or "", "settings": settings}


def _parts(section: str) -> dict[str, str]:
    """Return the first line of the description of each part that a section accepts."""
    from core import discovery
    from core.kinds import Data
    from core.objectives import Objective

    registry = discovery.load().registries[Data if section == "data" else Objective]
    return {name: (inspect.getdoc(registry[name].cls) or "(no description)").splitlines()[0] for name in registry}


def _page(kind: str, name: str, entries: list[Entry[Any]]) -> str:
    if name in PARTS and not entries:
        parts = [f"  {part}: {about}" for part, about in _parts(name).items()]
        more = "`patchbay show PART` describes one of them and its settings."
        return "\n".join([f"{kind} {name!r}", "", PARTS[name], "", "Parts", *parts, "", more])
    return "\n".join([f"{kind} {name!r}", "", "\n\n".join(map(_block, entries))])


def _block(entry: Entry[Any]) -> str:
    from core.objectives import Objective
    from registry.part import is_filled
    from registry.signature import REQUIRED, describe, settings_of

    lines = [inspect.getdoc(entry.cls) or "(no description)", "", "Settings"]
    settings = settings_of(entry.cls)
    for setting, (hint, default) in settings.items():
        if is_filled(hint):
            given = ""
        else:
            given = "; required" if default is REQUIRED else f"; default {_plain(default)}"
        lines.append(f"  {setting}: {describe(hint)}{given}{_remark(entry.cls, setting)}")
    if issubclass(entry.cls, Objective):
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
    parser = argparse.ArgumentParser(prog="patchbay show", description="Describe a part, or a section of a recipe.")
    parser.add_argument("part", help="a name, kind/name, or a section of a recipe, such as data or train")
    parser.add_argument("--json", action="store_true", help="print a list of parts as JSON")
    args = parser.parse_args(argv)

    def work() -> int:
        with json_only(args.json) as output:
            if args.json:
                put_json([_facts(*part) for part in find(args.part)], output, indent=2)
            else:
                lines = terminal.wrap(show(args.part).split("\n"), terminal.width(terminal.UNLIMITED), 4)
                put("\n".join(lines))
        return 0

    return run_cli(work)
