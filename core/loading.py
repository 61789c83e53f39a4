"""A folder that holds a model, as a run leaves it and an import makes it: the model out of it, without any data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from core import discovery
from core.discovery import Catalog
from core.files import RECIPE, paths
from core.kinds import Data
from core.model import LoadedModel, Model, ModelSpec
from core.recipe import Recipe, read, read_model
from core.runtime import pick_device, pick_precision
from core.training import checkpoint
from core.training.checkpoint import weights_file
from registry import near
from registry.part import Part

PRECISIONS = ("auto", "fp32", "bf16")


def load(folder: str | os.PathLike[str], device: str = "auto", precision: str = "auto") -> Any:
    """The model in a folder, ready for use: what the plugins' ``use`` hook makes of it
    (plugins.inference.predictor.Loaded).

    The folder is all that is read: recipe.yaml's model, sizes.json, the vocabulary, model.safetensors. Files that the
    recipe's parts were started from (their setting ``weights``) and the data may be gone.

    Args:
        folder: of a run or an import.
        device: as torch names it; auto: the accelerator where there is one.
        precision: auto, fp32 or bf16; auto: bf16 where the machine multiplies it faster.

    Raises:
        RecipeErrors, PartError, ValueError: the folder holds no whole model, or one that cannot be built here.
    """
    folder = os.fspath(folder)
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}")
    try:
        place = pick_device(device)
    except ValueError as err:
        raise ValueError(str(err).removeprefix("run.")) from None
    catalog = discovery.load()
    part = read_model(recipe_in(folder), catalog)
    sizes = ModelSpec.read(folder)
    tokenizer = catalog.hooks.hook.read_tokenizer(folder=folder, length=sizes.text_length)
    model = sizes.build(without_pretrained(part))
    checkpoint.load_weights(model, folder)
    loaded = LoadedModel(model.eval().to(place), tokenizer, sizes, place, pick_precision(precision, place))
    return catalog.hooks.hook.wrap_loaded_model(loaded=loaded)


def recipe_in(folder: str) -> str:
    """The path of the recipe in a folder.

    Raises:
        ValueError: there is none.
    """
    file = os.path.join(folder, RECIPE)
    if not paths.isfile(file):
        raise ValueError(f"{folder}: holds no run: there is no {RECIPE} in it")
    return file


def with_vocabulary(recipe: Recipe, folder: str) -> Recipe:
    """The recipe with the vocabulary that lies in a folder, whatever its data would make today."""
    if "vocabulary" not in recipe.data.settings:
        return recipe
    settings = {**recipe.data.settings, "vocabulary": folder}
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, settings=settings))


def with_start_vocabulary(recipe: Recipe) -> Recipe:
    """The recipe with the vocabulary of the folder that it starts from, unless it names one.

    Raises:
        ValueError: there are no weights in the folder.
    """
    own = weights_file(recipe.train.init_from) and recipe.data.settings.get("vocabulary") == ""
    return with_vocabulary(recipe, recipe.train.init_from) if own else recipe


def without_pretrained(value: Any) -> Any:
    """A part, or what holds parts, whose settings ``weights`` name no file: its tensors come from the folder."""
    if isinstance(value, Part):
        settings = {key: without_pretrained(setting) for key, setting in value.settings.items()}
        return dataclasses.replace(value, settings=settings | ({"weights": ""} if "weights" in settings else {}))
    if isinstance(value, dict):
        return {key: without_pretrained(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_pretrained, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{f.name: without_pretrained(getattr(value, f.name)) for f in _init(value)})
    return value


def _init(value: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(value) if field.init]


def check_split(splits: Sequence[str], split: str) -> None:
    if split not in splits:
        known = ", ".join(splits)
        raise ValueError(f"evaluate.split: {split!r} is no split of this data.{near(split, splits)} It has: {known}.")


def load_run(folder: str, overrides: Sequence[str] = (), catalog: Catalog | None = None) -> tuple[Recipe, Data, Model]:
    """A run's recipe, data and trained model, from its folder alone.

    A data part with a ``vocabulary`` setting gets the run's own vocabulary unless an override names another.

    Raises:
        RecipeErrors, PartError, ValueError: the folder holds no whole run, or one that cannot be built here.
    """
    recipe = read(recipe_in(folder), overrides, catalog or discovery.load())
    given = any(override.startswith("data.vocabulary=") for override in overrides)
    recipe = recipe if given else with_vocabulary(recipe, folder)
    data = recipe.data()
    check_split(data.splits(), recipe.evaluate.split)
    model = ModelSpec.of(data).build(without_pretrained(recipe.model))
    checkpoint.load_weights(model, folder)
    return recipe, data, model
