"""Recipes in a folder that a run or an import has written, with the folder's vocabulary."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from contextlib import suppress

import yaml

from core.discovery import Catalog
from core.files import RECIPE, paths, read_text
from core.folders.weights import weights_file
from core.recipe import Recipe, read
from registry.part import VOCABULARY, settings_with, without_pretrained


def read_folder(folder: str, overrides: Sequence[str], catalog: Catalog) -> Recipe:
    """Read the recipe of a run or an import; its data uses the folder's vocabulary unless an override names another.

    Raises:
        RecipeErrors, ValueError: as ``read`` and ``recipe_in``.
    """
    recipe = read(recipe_in(folder), overrides, catalog)
    names = tuple(f"data.{name}=" for name in settings_with(recipe.data.cls, VOCABULARY))
    return recipe if any(override.startswith(names) for override in overrides) else with_vocabulary(recipe, folder)


def read_any(path: str, overrides: Sequence[str], catalog: Catalog) -> Recipe:
    """Read a recipe, or that of a folder, whose model then takes no weights from elsewhere.

    Raises:
        RecipeErrors, ValueError: the recipe has problems, or the folder has none.
    """
    if not paths.isdir(path):
        return read(path, overrides, catalog)
    recipe = read_folder(path, overrides, catalog)
    return dataclasses.replace(
        recipe, model=without_pretrained(recipe.model), train=dataclasses.replace(recipe.train, init_from="")
    )


def recipe_in(folder: str) -> str:
    """Return the path of the recipe in a folder.

    Raises:
        ValueError: there is none, or it is that of an import of one part of a model.
    """
    if not paths.isfile(file := os.path.join(folder, RECIPE)):
        raise ValueError(f"{folder}: holds no run: there is no {RECIPE} in it")
    with suppress(yaml.YAMLError):  # reported when the recipe is read
        match yaml.safe_load(read_text(file)):
            case {"model": {**slots}, **others} if not others and len(slots) == 1:
                (slot, part), *_ = slots.items()
                if isinstance(part, dict) and "weights" in part:
                    use = f"it is for recipes, by extends: {file}, and there for training and evaluation"
                    problem = f"holds pretrained weights of model.{slot} alone, not a whole model"
                    raise ValueError(f"{folder}: {problem}; {use}")
    return file


def overrides_of(section: str, overrides: Sequence[str]) -> list[str]:
    """Select the overrides of a section of the recipe."""
    return [override for override in overrides if re.match(rf"{section}[.=]", override)]


def with_vocabulary(recipe: Recipe, folder: str) -> Recipe:
    """Return the recipe with the vocabulary in ``folder`` in place of the one that its data would build."""
    settings = {**recipe.data.settings, **dict.fromkeys(settings_with(recipe.data.cls, VOCABULARY), folder)}
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, settings=settings))


def with_start_vocabulary(recipe: Recipe) -> Recipe:
    """Return the recipe with the vocabulary of ``train.init_from``, unless the data's setting for it is set.

    Raises:
        ValueError: that folder has no weights.
    """
    weights_file(recipe.train.init_from)
    unset = not any(recipe.data.settings[name] for name in settings_with(recipe.data.cls, VOCABULARY))
    return with_vocabulary(recipe, recipe.train.init_from) if unset else recipe
