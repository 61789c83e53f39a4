"""The architecture diagram: drawn by its script, well-formed, legible in light and dark mode."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

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
