"""What a newcomer is promised: every recipe says how to run it and reads without a fault; the docs' commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.discovery import load
from core.recipe import read
from core.run import build

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "projects").glob("*/*.yaml"))
DOCS = ["README.md", "CONTRIBUTING.md"]
DOCS += [str(path.relative_to(ROOT)) for place in ("docs", "projects") for path in sorted((ROOT / place).rglob("*.md"))]
CATALOG = load()
EMBEDDED = [path for path in RECIPES if read(str(path), [], CATALOG).data.name in ("scenes", "clips")]  # no files


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_starts_with_its_command_and_reads(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# python -m core.run {path.relative_to(ROOT)}")
    assert read(str(path), [], CATALOG).objectives


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda p: p.stem)
def test_recipe_takes_a_step(path):
    """All embedded recipes build, and every loss of theirs is finite and trains something."""
    few = ["data.region_batch_size=4"] if "regions" in read(str(path), [], CATALOG).data.settings else []
    built = build(read(str(path), [*few, 'train.init_from=""'], CATALOG))  # no folder to start from
    objectives = built.objectives.train()
    total, losses = objectives(built.data.batch(0, size=4, seed=0, reads=objectives.batch_fields))
    assert all(loss.isfinite() for loss in losses.values())
    total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in built.model.parameters())


def test_mplug_is_copa_without_pruner_and_pta():
    copa, mplug = (
        read(str(ROOT / "projects" / "copa" / f"{name}.yaml"), [], CATALOG) for name in ("pretrain", "mplug")
    )
    assert set(copa.objectives) - set(mplug.objectives) == {"pta"}
    ours, theirs = (r.model.settings["backbone"].settings for r in (copa, mplug))
    assert {k for k in ours if ours[k] != theirs[k]} == {"prune"}
    assert not theirs["prune"]
    assert copa.train == mplug.train


@pytest.mark.parametrize("path", DOCS)
def test_paths_that_docs_name_exist(path):
    text = (ROOT / path).read_text()
    named = re.findall(r"\b((?:projects|docs|tests|core|plugins)/[\w/.-]+\.(?:yaml|md|py|sh|png))\b", text)
    missing = [
        name for name in named if not (ROOT / name).exists() and not (ROOT / path).parent.joinpath(name).exists()
    ]
    assert not missing
