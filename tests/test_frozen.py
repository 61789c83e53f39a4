"""Recipe keys and command-line flags that scripts rely on, frozen in frozen.json.

A change here is a change for users: say so in CHANGELOG.md, then write the file anew with
``python tests/test_frozen.py``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
from pathlib import Path

from core import discovery
from core.model import Model
from core.recipe import SECTIONS
from core.settings import Group
from registry.part import is_filled
from registry.signature import settings_of

FROZEN = Path(__file__).with_name("frozen.json")


def keys(cls: type) -> list[str]:
    return sorted(name for name, (hint, _) in settings_of(cls).items() if not is_filled(hint))


def flags(target: str) -> list[str]:
    """Every flag and positional that a verb's own help names."""
    module, _, function = target.partition(":")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        getattr(importlib.import_module(module), function)(["--help"])
    usage, _, rest = said.getvalue().partition("\n\n")
    positional = re.findall(r"^  ([a-z][\w=]*)  ", rest, re.MULTILINE)
    return sorted({*positional, *re.findall(r"(?<![\w-])(--[a-z][\w-]*)", usage + rest)} - {"--help"})


def current() -> dict[str, dict[str, list[str]]]:
    catalog = discovery.load()
    ours = {
        f"{registry.kind} {name}": keys(registry[name].cls)
        for registry in catalog.registries.values()
        for name in registry
        if registry[name].owner.distribution == discovery.DISTRIBUTION
    }
    settings = catalog.settings.sections
    sections = {name: sorted(key for entry in settings[name] for key in keys(entry.cls)) for name in settings}
    return {
        "commands": {verb: flags(c.target) for verb, c in discovery.builtin_commands().items()},
        "recipe": {
            "sections": sorted((*SECTIONS, "extends")),
            "model": keys(Model),
            **sections,
            "train.groups": keys(Group),
            "objectives.*": ["name", "weight"],
        },
        "parts": ours,
    }


def test_keys_and_flags_are_frozen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    frozen, found = json.loads(FROZEN.read_text()), current()
    changed = [
        f"{group}, {name}: frozen {frozen[group].get(name)}, found {found[group].get(name)}"
        for group in found
        for name in sorted(frozen[group].keys() | found[group].keys())
        if frozen[group].get(name) != found[group].get(name)
    ]
    assert not changed, "\n".join(
        ["Users' scripts may break. If it is meant: note it in CHANGELOG.md, run python tests/test_frozen.py", *changed]
    )


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(current(), indent=1) + "\n")
