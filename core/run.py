"""``python -m core.run RECIPE [path=value ...]``: recipe, parts, training, evaluation, images: one folder."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core import discovery, runtime
from core.discovery import Catalog
from core.evaluation import Evaluation, report_on
from core.files import RECIPE, paths, write_text
from core.kinds import Data
from core.loading import build_data, build_model, with_start_vocabulary, with_vocabulary
from core.model import Model, ModelSpec
from core.objectives import Objectives
from core.recipe import Recipe, differences, dump, read
from core.training import checkpoint
from core.training.checkpoint import warm_start
from core.training.trainer import Trainer


@dataclass(frozen=True)
class Built:
    """A recipe's objects."""

    recipe: Recipe
    data: Data
    model: Model
    objectives: Objectives


def build(recipe: Recipe, *, begins: bool = True) -> Built:
    """Build the data, the model that fits it, and the objectives.

    Args:
        begins: take weights and vocabulary from ``train.init_from`` if the recipe sets it.

    Raises:
        PartError: a part cannot be built, or an objective needs what the model lacks.
        ValueError: the data has no split ``evaluate.split``, or ``train.init_from`` does not fit.
    """
    folder = recipe.train.init_from if begins else ""
    if folder:
        recipe = with_start_vocabulary(recipe)
    data = build_data(recipe)
    torch.manual_seed(recipe.run.seed)
    model = build_model(recipe.model, ModelSpec.of(data))
    if folder:  # before the objectives, whose teachers are copies of the model
        print(warm_start(model, folder), flush=True)
    objectives = assemble(recipe, model)
    return Built(recipe, data, objectives.model, objectives)


def assemble(recipe: Recipe, model: Model) -> Objectives:
    """Build the objectives of a recipe, with their weights, for a model."""
    parts = {name: slot.part() for name, slot in recipe.objectives.items()}
    return Objectives(model, parts, {name: slot.weight for name, slot in recipe.objectives.items()})


def run(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train by a recipe, then evaluate; returns the report, which is also written to the run's folder.

    Under torchrun all ranks train together; only rank 0 writes, evaluates and returns a report.

    Raises:
        RecipeErrors, PartError, ValueError: the recipe, its data or the run's folder is wrong.
        KeyboardInterrupt: training was interrupted; the message has the command that resumes it.
    """
    runtime.init_distributed()
    catalog = discovery.load()
    recipe = read(path, overrides, catalog)
    folder = recipe.run.folder or _fresh_folder(path)
    resumes = runtime.broadcast(lambda: _check_folder(folder, recipe, catalog))
    newest = runtime.broadcast(lambda: checkpoint.newest(folder) if recipe.run.resume else None)
    begins = not (resumes and newest)
    built = build(with_vocabulary(recipe, folder) if resumes else recipe, begins=begins)
    if runtime.rank() == 0:
        paths.mkdirs(folder)
        print(f"Run folder: {folder}", flush=True)
        if not resumes:
            _write_run_files(folder, recipe, built.data)
    trainer = Trainer(
        built.objectives,
        built.data,
        recipe.train,
        recipe.run,
        hooks=catalog.hooks,
        folder=folder,
        resume_from=newest,
        plugin_settings=recipe.plugin_settings,
    )
    if recipe.run.resume:
        print(f"{'Continuing' if resumes else 'No run to continue: starting'} from step {trainer.step}", flush=True)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        newest = os.path.basename(trainer.checkpoint or "none")
        again = shlex.join(["patchbay", "run", path, *overrides, f"run.folder={folder}", "run.resume=true"])
        stand = f"stopped after step {trainer.step} of {recipe.train.steps}; newest checkpoint: {newest}"
        raise KeyboardInterrupt(f"{stand}. Continue with:\n{again}") from None
    finally:
        runtime.destroy_distributed()
    if not (recipe.run.evaluate and trainer.is_main):
        return {}
    measured = (trainer.result, built.data, recipe.evaluate, trainer.device, trainer.precision)
    return report_on(catalog.hooks, Evaluation(*measured, recipe.plugin_settings), folder)


def _write_run_files(folder: str, recipe: Recipe, data: Data) -> None:
    """Write what loading needs: vocabulary, sizes and the recipe."""
    command = f"patchbay run {RECIPE} run.folder=NEW"
    placed = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, folder=folder, resume=False))
    data.tokenizer.save(folder)
    ModelSpec.of(data).write(folder)
    write_text(os.path.join(folder, RECIPE), dump(placed, command))  # last: it marks the run as begun


def _fresh_folder(path: str) -> str:
    stem = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.join("runs", f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    names = itertools.chain([folder], (f"{folder}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not os.path.exists(name))


def _check_folder(folder: str, recipe: Recipe, catalog: Catalog) -> bool:
    """Check whether the run resumes the one in the folder.

    Raises:
        ValueError: the folder has a run, and ``run.resume`` is not set or the recipes differ.
    """
    if recipe.run.resume and not recipe.run.folder:
        raise ValueError("run.resume=true needs run.folder=PATH: which run is to be continued?")
    file = os.path.join(folder, RECIPE)
    if not paths.isfile(file):
        return False
    if not recipe.run.resume:
        raise ValueError(
            f"{folder}: already holds a run. Add run.resume=true to continue it, or name another run.folder"
        )
    changed = differences(read(file, (), catalog), recipe)
    other = [path for path in changed if not catalog.settings.free_on_resume(path)]
    if other:
        raise ValueError(f"{folder}: cannot be continued, its recipe differs in {', '.join(other)}")
    return True


if __name__ == "__main__":
    from core.cli import main

    sys.argv.insert(1, "run")
    sys.exit(main())
