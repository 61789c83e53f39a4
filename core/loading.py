"""From a recipe, or from a folder that a run or an import has written, to data, model and weights."""

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
from core.training.checkpoint import load_weights, weights_file
from registry import near
from registry.part import VOCABULARY, Part, settings_with, without_pretrained

PRECISIONS = ("auto", "fp32", "bf16")


def build_data(recipe: Recipe) -> Data:
    """Build a recipe's data.

    Raises:
        PartError, ValueError: a setting or a file of the data is wrong, or it has no split ``evaluate.split``.
    """
    data = recipe.data()
    check_split(data.splits(), recipe.evaluate.split)
    return data


def build_model(model: Part[Model], spec: ModelSpec, folder: str = "") -> Model:
    """Build a model of the sizes ``spec``, with the weights of ``folder``; without one as its parts initialise it.

    Raises:
        PartError, ValueError: a part cannot be built, or the folder's weights are missing or do not fit the model.
    """
    part = without_pretrained(model) if folder else model
    sizes = {"vocabulary": spec.vocabulary, "text_length": spec.text_length, "image_size": spec.image_size}
    built = part(**sizes, classes=len(spec.classes))
    if folder:
        load_weights(built, folder)
    return built


def load_model(folder: str, catalog: Catalog | None = None, overrides: Sequence[str] = ()) -> tuple[Model, ModelSpec]:
    """Load the model of a run or an import, and its sizes, from recipe.yaml, sizes.json and model.safetensors alone.

    Raises:
        RecipeErrors, PartError, ValueError: a file is missing or damaged, or the model cannot be built here; or an
            override is not one of the model.
    """
    if other := [override for override in overrides if not override.startswith("model.")]:
        raise ValueError(f"override {other[0]!r}: only the model can be changed here, such as model.backbone.prune=[]")
    file, spec = recipe_in(folder), ModelSpec.read(folder)
    return build_model(read_model(file, catalog or discovery.load(), overrides), spec, folder), spec


def load(
    folder: str | os.PathLike[str], device: str = "auto", precision: str = "auto", overrides: Sequence[str] = ()
) -> Any:
    """Load the model of a run or an import for inference: by the hook ``wrap_loaded_model`` an object with its verbs.

    Args:
        folder: of a run or an import; only its files are read.
        device: a torch device name; auto: an accelerator if there is one.
        precision: auto, fp32 or bf16; auto: bf16 if the device multiplies it natively.
        overrides: changes of the model, as on the command line: ``model.backbone.prune[0].pruner.keep_rate=0.3``.

    Raises:
        RecipeErrors, PartError, ValueError: a file is damaged, or there is no such device or precision.
    """
    folder = os.fspath(folder)
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}")
    try:
        torch_device = pick_device(device)
    except ValueError as err:
        raise ValueError(str(err).removeprefix("run.")) from None
    catalog = discovery.load()
    model, spec = load_model(folder, catalog, overrides)
    tokenizer = catalog.hooks.hook.read_tokenizer(folder=folder, length=spec.text_length)
    model = model.eval().to(torch_device)
    loaded = LoadedModel(model, tokenizer, spec, torch_device, pick_precision(precision, torch_device))
    old: Any = catalog.hooks.hook.use(**{"held": loaded})  # noqa: PIE804  (an old name)
    return catalog.hooks.hook.wrap_loaded_model(loaded=loaded) if old is None else old


def load_run(folder: str, overrides: Sequence[str] = (), catalog: Catalog | None = None) -> tuple[Recipe, Data, Model]:
    """Load the recipe, data and trained model of a run.

    A data part with a setting of the type ``Vocabulary`` gets the run's vocabulary unless an override names another.

    Raises:
        RecipeErrors, PartError, ValueError: a file is missing or damaged, or a part cannot be built here.
    """
    recipe = read_folder(folder, overrides, catalog or discovery.load())
    data = build_data(recipe)
    return recipe, data, build_model(recipe.model, ModelSpec.of(data), folder)


def read_folder(folder: str, overrides: Sequence[str], catalog: Catalog) -> Recipe:
    """Read the recipe of a run or an import; its data uses the folder's vocabulary unless an override names another.

    Raises:
        RecipeErrors, ValueError: as ``read`` and ``recipe_in``.
    """
    recipe = read(recipe_in(folder), overrides, catalog)
    names = tuple(f"data.{name}=" for name in settings_with(recipe.data.cls, VOCABULARY))
    return recipe if any(override.startswith(names) for override in overrides) else with_vocabulary(recipe, folder)


def recipe_in(folder: str) -> str:
    """Return the path of the recipe in a folder.

    Raises:
        ValueError: there is none.
    """
    if not paths.isfile(file := os.path.join(folder, RECIPE)):
        raise ValueError(f"{folder}: holds no run: there is no {RECIPE} in it")
    return file


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


def check_split(splits: Sequence[str], split: str) -> None:
    """Check ``evaluate.split``.

    Raises:
        ValueError: the data has no such split; lists those that it has.
    """
    if split not in splits:
        known = ", ".join(splits)
        raise ValueError(f"evaluate.split: {split!r} is no split of this data.{near(split, splits)} It has: {known}.")
