"""The run's folder is checked before anything is trained."""

from __future__ import annotations

import pytest
from small_runs import COCA

from core import discovery
from core.recipe import dump, read
from core.run import assemble, build, run


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "small.yaml").write_text(COCA)
    return str(tmp_path / "small.yaml")


def begun(recipe: str, folder, *overrides: str) -> str:
    """Write the recipe of a run into a folder, as if the run had begun."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump(read(recipe, [f"run.folder={folder}", *overrides], discovery.load())))
    return f"run.folder={folder}"


def test_resuming_needs_a_folder(recipe):
    with pytest.raises(ValueError, match=r"run\.resume=true needs run\.folder=PATH: which run is to be continued\?"):
        run(recipe, ["run.resume=true"])


def test_a_folder_with_a_run_is_not_overwritten(recipe, tmp_path):
    folder = begun(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match=r"already holds a run\. Add run\.resume=true to continue it"):
        run(recipe, [folder])
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["recipe.yaml"]


def test_a_run_is_continued_by_the_same_recipe_only(recipe, tmp_path):
    folder = begun(recipe, tmp_path / "run", "train.lr=0.5")
    with pytest.raises(ValueError, match=r"cannot be continued, its recipe differs in train\.batch, train\.lr$"):
        run(recipe, [folder, "run.resume=true", "train.batch=6", "train.log_every=3", "run.evaluate=true"])


def test_objects_of_a_recipe(recipe):
    built = build(read(recipe, ["objectives.itc.weight=0.5"], discovery.load()))
    assert built.objectives.model is built.model
    assert built.objectives.weights == {"itc": 0.5, "caption": 1.0}
    again = assemble(built.recipe, built.model)
    assert again.weights == built.objectives.weights
    assert again.batch_fields == built.objectives.batch_fields
