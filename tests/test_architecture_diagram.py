"""The architecture diagram: drawn by its script, well-formed, legible in light and dark mode."""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
from pathlib import Path
from typing import get_args, get_type_hints
from xml.etree import ElementTree

import pytest

from core import Batch, BlockCues, Model, Step, TokenPruner, Tokens
from core.discovery import load
from core.recipe import read

DOCS = Path(__file__).parents[1] / "docs"
SVG = DOCS / "architecture.svg"
NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def root() -> ElementTree.Element:
    return ElementTree.parse(SVG).getroot()


def test_file_is_what_the_script_draws():
    assert SVG.read_text(encoding="utf-8") == runpy.run_path(str(DOCS / "architecture.py"))["draw"]()


def test_is_titled_svg_of_900_pixels(root):
    assert root.tag == f"{NAMESPACE}svg"
    assert root.get("width") == "900"
    assert root.get("viewBox", "").startswith("0 0 900 ")
    assert root.findtext(f"{NAMESPACE}title")


def test_dark_mode_replaces_every_colour(root):
    style = root.findtext(f"{NAMESPACE}style") or ""
    light, dark = re.split(r"@media \(prefers-color-scheme: dark\)", style)
    selectors = r"([.\w, -]+?) \{ (?:fill|stroke): #"
    assert re.findall(selectors, light) == re.findall(selectors, dark)
    assert not set(re.findall(r"#\w{6}", light)) & set(re.findall(r"#\w{6}", dark))
    for element in root.iter():  # none beside the style sheet, which both modes could not share
        assert not {"fill", "stroke", "style"} & set(element.keys())


def test_no_text_is_smaller_than_12_pixels(root):
    style = root.findtext(f"{NAMESPACE}style") or ""
    assert min(int(size) for size in re.findall(r"(\d+)px", style)) >= 12


def test_needs_nothing_from_elsewhere():
    text = SVG.read_text(encoding="utf-8").replace(NAMESPACE.strip("{}"), "")
    assert not re.search(r"https?:|@import|@font-face|href=|<script", text)


def test_everything_lies_inside(root):
    _, _, width, height = map(float, root.get("viewBox", "").split())
    boxes = 0
    for group in root.iter(f"{NAMESPACE}g"):
        down = float(re.fullmatch(r"translate\(0 (\d+)\)", group.get("transform", "")).group(1))
        for rect in group.iter(f"{NAMESPACE}rect"):
            x, y, wide, high = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
            assert 0 <= x <= x + wide <= width
            assert 0 <= down + y <= down + y + high <= height
            boxes += 1
        assert all(down + float(text.get("y")) < height - 4 for text in group.iter(f"{NAMESPACE}text"))
    assert boxes > 20


def test_recipe_in_the_diagram_is_accepted(tmp_path):
    recipe = tmp_path / "diagram.yaml"
    recipe.write_text(runpy.run_path(str(DOCS / "architecture.py"))["RECIPE"], encoding="utf-8")
    assert read(str(recipe), (), load()).objectives.keys() == {"itc", "itm", "mlm", "pta"}


def test_code_names_in_the_diagram_exist(root):
    script = runpy.run_path(str(DOCS / "architecture.py"))
    codes = {element.text for element in root.iter(f"{NAMESPACE}text") if element.get("class") == "code"} - {None, ""}
    codes -= {line.strip() for line in script["RECIPE"].splitlines()}
    codes -= {"def register(add):", 'add("tpd", TextAwarePatchDetector)', "batch fields", "prune: [...]"}
    assert load().registries[TokenPruner]["tpd"].cls.__name__ == "TextAwarePatchDetector"
    places = get_args(get_args(get_type_hints(TokenPruner)["place"])[0])
    model = {*dir(Model), *inspect.signature(Model).parameters}
    heads = {"image", "text", "classify", "match", "words", "temperature"}
    known = {*places, *(field.name for field in dataclasses.fields(Batch)), "null guide"}
    for code in codes - known:
        if match := re.fullmatch(r"step\.(\w+)(?:\(([\w, ]+)\))?", code):
            assert hasattr(Step, match[1]), code
            if match[2]:
                assert list(inspect.signature(getattr(Step, match[1])).parameters)[1:] == match[2].split(", "), code
        elif match := re.fullmatch(r"(?:model\.)?(\w+)\([\w, ]*\)", code):
            assert match[1] in (dir(TokenPruner) if "guide, cues" in code else model), code
        elif match := re.fullmatch(r"BlockCues: ([\w, ]+)", code):
            assert all(hasattr(BlockCues, name) for name in match[1].split(", ")), code
        else:
            assert {*code.removeprefix("heads: ").split(", ")} <= heads, code
    for name in ("forward", "score"):
        assert list(inspect.signature(getattr(TokenPruner, name)).parameters)[1:] == ["tokens", "guide", "cues"]
    assert {"index", "scores"} <= inspect.signature(Tokens.keep).parameters.keys()
