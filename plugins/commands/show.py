"""``patchbay show PART``: what a part is, what it takes, and whose it is; a recipe's sections likewise."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from core.cli import run_cli
from core.hookspecs import hookimpl
from registry import Entry, Owner, UnknownName, near

SECTIONS = {
    "model": "core.model:Model",
    "train": "core.settings:TrainSettings",
    "evaluate": "core.settings:EvaluateSettings",
    "run": "core.settings:RunSettings",
}


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("show", "the settings of a part, or of train, evaluate, run, model", "plugins.commands.show:main")


def find(wanted: str) -> list[tuple[str, str, Entry[Any]]]:
    """Kind, name and class of every part of that name; ``kind/name`` picks one kind ("token pruner/random"). A section
    of a recipe is of the kind "section".

    Raises:
        UnknownName: there is none; holds near matches.
    """
    from core import discovery

    if wanted in SECTIONS:
        module, _, cls = SECTIONS[wanted].partition(":")
        owner = Owner("core", discovery.DISTRIBUTION, discovery.version())
        return [("section", wanted, Entry(getattr(importlib.import_module(module), cls), owner))]
    catalog = discovery.load()
    kind, _, name = wanted.rpartition("/")
    registries = [r for r in catalog.registries.values() if kind.replace("_", " ") in ("", r.kind)]
    found = [(r.kind, r[name]) for r in registries if name in set(r)]
    if not found:
        known = sorted({part for registry in registries for part in registry} | SECTIONS.keys())
        failed = "".join(f"\nfailed to load: {failure}" for failure in catalog.failures)
        kinds = ", ".join(r.kind for r in catalog.registries.values())
        hint = near(name, known) if registries else f" There is no kind {kind!r}. Kinds: {kinds}."
        raise UnknownName(f"no part is named {wanted!r}.{hint} patchbay list names all.{failed}")
    return [(kind, name, entry) for kind, entry in found]


def show(wanted: str) -> str:
    """A page for every part of that name."""
    return "\n\n".join(_page(*part) for part in find(wanted))


def _facts(kind: str, name: str, entry: Entry[Any]) -> dict[str, Any]:
    """What the page says, for scripts."""
    from core.recipe import plain
    from registry.part import is_filled
    from registry.signature import REQUIRED, describe, settings_of

    settings = {
        setting: {
            "accepts": describe(hint),
            "set_by": "assembly" if is_filled(hint) else "recipe",
            **({} if default is REQUIRED or is_filled(hint) else {"default": plain(default)}),
        }
        for setting, (hint, default) in settings_of(entry.cls).items()
    }
    owner = entry.owner
    named = {"kind": kind, "name": name, "distribution": owner.distribution, "version": owner.version}
    return {**named, "description": inspect.getdoc(entry.cls) or "", "settings": settings}


def _page(kind: str, name: str, entry: Entry[Any]) -> str:
    from registry.part import is_filled
    from registry.signature import REQUIRED, describe, settings_of

    lines = [f"{kind} {name!r}", "", inspect.getdoc(entry.cls) or "(no description)", "", "Settings"]
    settings = settings_of(entry.cls)
    for setting, (hint, default) in settings.items():
        if is_filled(hint):
            given = ""
        else:
            given = "; required" if default is REQUIRED else f"; default {_plain(default)}"
        lines.append(f"  {setting}: {describe(hint)}{given}{_remark(entry.cls, setting)}")
    if not settings:
        lines.append("  none")
    return "\n".join([*lines, "", f"From   {entry.owner}", f"File   {inspect.getsourcefile(entry.cls)}"])


def _remark(cls: type, setting: str) -> str:
    """What stands behind a field of a settings class, as a comment."""
    found = re.search(rf"^    {setting}: .*?  # (.*)$", inspect.getsource(cls), re.MULTILINE)
    return f"  # {found[1]}" if found else ""


def _plain(value: Any) -> str:
    from core.recipe import plain

    return json.dumps(plain(value))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="patchbay show", description="Describe a part.")
    parser.add_argument("part", help="a name, kind/name, or a recipe's section: train, evaluate, run, model")
    parser.add_argument("--json", action="store_true", help="print a list of parts as JSON")
    args = parser.parse_args(argv)

    def work() -> int:
        print(json.dumps([_facts(*part) for part in find(args.part)]) if args.json else show(args.part))
        return 0

    return run_cli(work)
