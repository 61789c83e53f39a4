"""Keys of report.json that scripts rely on, frozen in report_keys.json for a small COPA and a small CoCa.

A change here is a change for users: say so in CHANGELOG.md, then write the file anew with
``python tests/unit/plugins/metrics/test_report_keys.py``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import COCA, COPA

from core import run as running

FROZEN = Path(__file__).with_name("report_keys.json")
RECIPES = {"copa": COPA, "coca": COCA}
OPTIONAL = {"captions.meteor", "captions.spice", "macs.uncounted"}  # depend on the machine
SMALL = ("evaluate.candidates=8", "evaluate.examples=8", "evaluate.rerank=4", "evaluate.pictures=0")


def key_paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield ``retrieval.reranked.i2t_r1`` for every leaf."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from key_paths(inner, f"{path}.{key}" if path else key)
    else:
        yield path


def report_keys(name: str, folder: Path) -> list[str]:
    (folder / "small.yaml").write_text(RECIPES[name])
    overrides = [f"run.folder={folder / 'run'}", "run.evaluate=true", "evaluate.rounds=1", *SMALL]
    report = running.run(str(folder / "small.yaml"), overrides)
    assert report == json.loads((folder / "run" / "report.json").read_text())
    return sorted(path for path in key_paths(report) if path not in OPTIONAL and not path.startswith("macs.uncounted."))


@pytest.mark.parametrize("name", RECIPES)
def test_report_keys_are_frozen(name, tmp_path):
    frozen, found = set(json.loads(FROZEN.read_text())[name]), set(report_keys(name, tmp_path))
    assert frozen == found, f"gone: {sorted(frozen - found)}; new: {sorted(found - frozen)}"


if __name__ == "__main__":
    content = {}
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as scratch:
            content[recipe] = report_keys(recipe, Path(scratch))
    FROZEN.write_text(json.dumps(content, indent=1) + "\n")
