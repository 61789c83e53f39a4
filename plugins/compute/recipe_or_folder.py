"""Recipes to be measured without weights: of a file, or of the folder of a run or an import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.discovery import Catalog
from core.files import paths
from core.loading import read_folder
from core.recipe import Recipe, read
from registry.part import without_pretrained


def read_recipe(path: str, overrides: Sequence[str], catalog: Catalog) -> Recipe:
    """Read a recipe, or that of a folder, whose model then takes no weights from elsewhere.

    Raises:
        RecipeErrors, ValueError: the recipe has problems, or the folder has none.
    """
    if not paths.isdir(path):
        return read(path, overrides, catalog)
    recipe = read_folder(path, overrides, catalog)
    return replace(recipe, model=without_pretrained(recipe.model), train=replace(recipe.train, init_from=""))
