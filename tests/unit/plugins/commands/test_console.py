"""Output of commands: JSON alone, one quotation of failed plugins, sections and settings of ``show``, environment."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from core import cli
from plugins.commands.show import show
from registry import UnknownName
from registry.recipe_files import FAILED, Problem, RecipeErrors

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("call", ["list --json", "list --no-load --json", "show objectives --json", "show run --json"])
def test_one_document_alone(call, capfd):
    assert cli.main(call.split()) == 0
    assert isinstance(json.loads(capfd.readouterr().out), list)


def test_errors_leave_standard_output_empty(capfd, tmp_path):
    for call in (["show", "nosuch", "--json"], ["evaluate", str(tmp_path), "--json"]):
        assert cli.main(call) == 2
        streams = capfd.readouterr()
        assert streams.out == "" and streams.err


def test_names_from_outside_are_escaped(capsys, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[31m\xff.yaml")
    assert cli.main(["check", name]) == 2
    message = capsys.readouterr().err
    assert "\x1b" not in message
    message.encode()


def test_failed_plugins_are_quoted_once():
    faults = [Problem("a.yaml:1:1", f"model.{slot}", f"no such part.{FAILED}plugin 'x': broken") for slot in "abc"]
    errors = RecipeErrors([*faults, Problem("a.yaml:9:9", "data", "is missing")])
    assert str(errors).count("plugin 'x': broken") == 1
    assert [problem.sentence for problem in errors.problems[1:]] == ["no such part."] * 2 + ["is missing"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("objectives", "  itm   "),
        ("data", "  scenes   "),
        ("train.precision", '  precision: auto | fp32 | bf16; default "auto"'),
        ("model.heads", "  heads: "),
        ("tpd.keep_rate", "  keep_rate: number between 0 and 1; default 0.5"),
        ("data.box_fraction", "  box_fraction: number between 0 and 1"),
        ("objectives.itc", "objective 'itc'"),
        ("evaluate.candidates", "  candidates: "),
    ],
)
def test_sections_and_settings(query, expected):
    assert expected in show(query)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("objectives.vit", "'objectives' has no setting 'vit'"),
        ("train.precison", "'train' has no setting 'precison'. Did you mean 'precision'"),
        ("trian.lr", "no section or part is named 'trian'. Did you mean 'train'"),
        ("objectivs", "no part is named 'objectivs'. Did you mean 'objectives'"),
    ],
)
def test_a_near_match_for_what_cannot_be_shown(query, message):
    with pytest.raises(UnknownName, match=re.escape(message)):
        show(query)


@pytest.mark.parametrize("columns", [40, 50, 120, 200])
@pytest.mark.parametrize("call", ["--help", "list", "show tpd", "show objectives"])
def test_lines_fit_the_terminal(call, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main(call.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if len(line) > columns and len(line.split()) > 1 and "/" not in line]


def test_every_environment_variable_is_documented():
    sources = [path for folder in ("core", "plugins", "registry", "tests") for path in (ROOT / folder).rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in [*sources, ROOT / "patchbay.py"])
    names = set(re.findall(r"\bPATCHBAY_[A-Z_]*[A-Z]\b", text))
    assert "PATCHBAY_TRACEBACK" in names
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not {name for name in names if f"| `{name}=" not in readme}
