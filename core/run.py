"""``python -m core.run RECIPE [path=value ...]``: recipe, parts, training, measures, pictures: one folder."""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core import discovery, runtime
from core.discovery import Catalog
from core.evaluation import Evaluation, report_on
from core.files import RECIPE, SIZES, VERSIONS, paths, write_json, write_text
from core.kinds import Data
from core.loading import build_data, build_model, load_run, with_start_vocabulary, with_vocabulary
from core.model import Model, ModelSpec
from core.objectives import Objectives
from core.recipe import Recipe, differences, dump, read
from core.runtime import pick_device, pick_precision
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
    """Data, then the model that fits it, then the objectives.

    Args:
        begins: whether weights and vocabulary come from ``train.init_from``, where the recipe has one.

    Raises:
        PartError: a part cannot be built, or an objective needs what the model lacks.
        ValueError: the split to measure on is not one of the data's, or the folder to start from does not fit.
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
    parts = {name: slot.part() for name, slot in recipe.objectives.items()}
    return Objectives(model, parts, {name: slot.weight for name, slot in recipe.objectives.items()})


def run(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train by a recipe and measure the result; returns the report, which also lies in the run's folder.

    Under torchrun all ranks train together; the first alone writes, measures and returns a report.

    Raises:
        RecipeErrors, PartError, ValueError: what the user can put right, in words.
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
            again = f"patchbay run {RECIPE} run.folder=NEW"
            placed = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, folder=folder, resume=False))
            built.data.tokenizer.save(folder)
            ModelSpec.of(built.data).write(folder)
            write_text(os.path.join(folder, RECIPE), dump(placed, again))  # last: it marks the run as begun
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
    if trainer.is_main:
        write_json(os.path.join(folder, VERSIONS), versions(catalog, str(trainer.device), trainer.precision))
    if recipe.run.resume:
        print(f"{'Continuing' if resumes else 'No run to continue: starting'} from step {trainer.step}", flush=True)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        held = os.path.basename(trainer.checkpoint or "none")
        again = shlex.join(["patchbay", "run", path, *overrides, f"run.folder={folder}", "run.resume=true"])
        stand = f"stopped after step {trainer.step} of {recipe.train.steps}; newest checkpoint: {held}"
        raise KeyboardInterrupt(f"{stand}. Continue with:\n{again}") from None
    finally:
        runtime.destroy_distributed()
    if not (recipe.run.evaluate and trainer.is_main):
        return {}
    device, precision = trainer.device, trainer.precision
    return report_on(catalog.hooks, _evaluation(recipe, trainer.result, built.data, device, precision), folder)


def evaluate(folder: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure a finished run anew; report and pictures go to ``FOLDER/evaluate-SPLIT``."""
    catalog = discovery.load()
    recipe, data, model = load_run(folder, overrides, catalog)
    device = pick_device(recipe.run.device)
    precision = pick_precision(recipe.train.precision, device)
    target = os.path.join(folder, f"evaluate-{recipe.evaluate.split}")
    paths.mkdirs(target)
    if not paths.isfile(os.path.join(folder, SIZES)):  # a run of before there were any
        ModelSpec.of(data).write(folder)
    return report_on(catalog.hooks, _evaluation(recipe, model, data, device, precision), target)


def _evaluation(recipe: Recipe, model: Model, data: Data, device: torch.device, precision: str) -> Evaluation:
    return Evaluation(model, data, recipe.evaluate, device, precision, recipe.plugin_settings)


def versions(catalog: Catalog, device: str, precision: str) -> dict[str, Any]:
    """What the run was made with: the content of versions.json."""
    entry_points = [dataclasses.asdict(o) for o in catalog.plugins if o.distribution != discovery.DISTRIBUTION]
    return {
        "patchbay": discovery.version(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": device,
        "precision": precision,
        "plugins": entry_points,
    }


def _commit() -> str:
    """The commit of the checkout that runs, or the empty string."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.exists(os.path.join(root, ".git")):
        return ""
    try:
        found = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def _fresh_folder(path: str) -> str:
    stem = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.join("runs", f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    free, count = folder, 1
    while os.path.exists(free):
        count += 1
        free = f"{folder}-{count}"
    return free


def _check_folder(folder: str, recipe: Recipe, catalog: Catalog) -> bool:
    """Whether the run continues what the folder holds.

    Raises:
        ValueError: it holds a run that is not to be continued, or was made by another recipe.
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

    sys.exit(main(["run", *sys.argv[1:]]))
