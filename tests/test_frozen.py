"""Names that scripts rely on, frozen in frozen.json: recipe keys, flags, keys of ``--json`` and of report.json.

A change here is a change for users: mention it in CHANGELOG.md, then write the file again with
``python tests/test_frozen.py``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import COPA, paint

from core import cli, discovery
from core.model import Model
from core.recipe import SECTIONS
from core.settings import Group
from registry import distributions
from registry.part import is_filled
from registry.signature import settings_of

ROOT = Path(__file__).parents[1]
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
        if registry[name].owner.distribution == distributions.DISTRIBUTION
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


EVALUATED = "evaluate={candidates: 8, examples: 4, rounds: 0, pictures: 1}"
BY_PART = {"parts", "unpruned_parts", "losses_alone", "settings", "skipped", "top"}  # their keys depend on the recipe


def paths(value: Any, path: str = "") -> Iterator[str]:
    """List the paths of all keys, ``a.b``; those of the elements of a list as ``a[].b``."""
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f"{path}.{key}" if path else key
            yield inner
            yield from paths({"*": next(iter(item.values()), None)} if key in BY_PART and item else item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from paths(item, f"{path}[]")


def printed(*words: str) -> list[str]:
    """Run a command and return the paths of the keys that it prints, as one JSON value or as one per line."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(words) in (0, 1), words
    text = out.getvalue()
    try:
        values = [json.loads(text)]
    except json.JSONDecodeError:
        values = [json.loads(line) for line in text.splitlines()]
    return sorted(set(paths(values[0] if len(values) == 1 else values)))


def coco(folder: Path) -> str:
    """Write captions of images, one of which is missing; return the override that names them."""
    paint(folder, 4)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(5)]
    captions = [{"id": i, "image_id": i, "caption": "a star"} for i in range(5)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return f"data.sources=[{{images: {folder}, captions: [{folder}/captions.json]}}]"


def outputs(folder: Path) -> dict[str, list[str]]:
    """Return the keys that each command prints with ``--json``.

    Keys of report.json are those of ``run``; sections of other data and heads belong here as further runs.
    """
    recipe, run, images = str(folder / "small.yaml"), str(folder / "run"), str(folder / "images")
    Path(recipe).write_text(COPA)
    source = coco(folder / "images")
    objectives = "objectives={itc: {}, itm: {}, mlm: {}, prefix_lm: {}, pta: {}}"
    one = [f"{images}/0.png"]
    return {
        "check": printed("check", recipe, "--json"),
        "flops": printed("flops", recipe, "--json"),
        "run": printed("run", recipe, "--json", f"run.folder={run}", "run.evaluate=true", EVALUATED, objectives),
        "evaluate": printed("evaluate", run, "--json"),
        "list": printed("list", "--json"),
        "list --no-load": printed("list", "--no-load", "--json"),
        "show": printed("show", "tpd", "--json"),
        "show train": printed("show", "train", "--json"),
        "verify": printed("verify", str(ROOT / "projects" / "copa" / "pretrain_coco.yaml"), source, "--json"),
        "caption": printed("caption", run, *one),
        "classify": printed("classify", run, *one, "--classes", "cat,dog"),
        "retrieve": printed("retrieve", run, *one, "--text", "a star"),
        "embed images": printed("embed", run, *one),
        "embed texts": printed("embed", run, "--text", "a star"),
        "embed tensors": printed("embed", run, *one, "--text", "a star", "--out", str(folder / "a.safetensors")),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        return {**current(), "json": outputs(tmp_path_factory.mktemp("frozen"))}


ADDED = ": note it in CHANGELOG.md and run python tests/test_frozen.py"
BREAKS = "Users' scripts may break. If it is meant: note it in CHANGELOG.md and run python tests/test_frozen.py"


def differences(frozen: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    """Describe each changed entry; one that only adds names breaks no script."""
    problems = []
    for name in sorted(frozen.keys() | now.keys()):
        lost = sorted(set(frozen.get(name, ())) - set(now.get(name, ())))
        added = sorted(set(now.get(name, ())) - set(frozen.get(name, ())))
        if name not in frozen:
            problems.append(f"{name}: new{ADDED}")
        elif lost or name not in now:
            new = f", new: {', '.join(added)}" if added else ""
            problems.append(f"{name}: lacks {', '.join(lost) if name in now else 'all'}{new}. {BREAKS}")
        elif added:
            problems.append(f"{name}: new: {', '.join(added)}{ADDED}")
    return problems


@pytest.mark.parametrize("group", ["commands", "recipe", "parts", "json"])
def test_names_are_frozen(found, group):
    problems = differences(json.loads(FROZEN.read_text())[group], found[group])
    if problems:
        pytest.fail("\n".join(f"{group}, {problem}" for problem in problems), pytrace=False)


def test_additions_are_no_break():
    frozen, now = (
        {"pruner tpd": ["keep_rate"], "pruner old": []},
        {"pruner tpd": ["keep_rate", "x"], "pruner new": ["y"]},
    )
    new, gone, added = differences(frozen, now)
    assert new == "pruner new: new: note it in CHANGELOG.md and run python tests/test_frozen.py"
    assert gone == "pruner old: lacks all. " + BREAKS
    assert added == "pruner tpd: new: x: note it in CHANGELOG.md and run python tests/test_frozen.py"
    assert differences(now, now) == []
    assert differences({"a": ["x", "y"]}, {"a": ["y", "z"]}) == ["a: lacks x, new: z. " + BREAKS]


if __name__ == "__main__":
    os.environ["COLUMNS"] = "200"
    with tempfile.TemporaryDirectory() as place:
        names = {**current(), "json": outputs(Path(place))}
    FROZEN.write_text(json.dumps(names, indent=1) + "\n")
