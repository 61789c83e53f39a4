"""``patchbay evaluate``: measure a finished run again."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, print_report, run_cli

RECIPE_COPY = "evaluated.yaml"
TRAINING = re.compile(r"(objectives|train(?!\.precision=)|run(?!\.device=))[.=]")  # settings of training alone


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("evaluate", "measure a finished run again", "plugins.commands.evaluate:main")


def evaluate(folder: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate the model of a run or an import; report, images and recipe are written to ``FOLDER/evaluate-SPLIT``.

    If overrides change the model, it is ``evaluate-SPLIT-HASH``, one folder for each change.

    Raises:
        RecipeErrors, PartError, ValueError: the folder's model cannot be loaded, or an override has no effect here.
    """
    from core import discovery
    from core.evaluation import Evaluation, report_on
    from core.files import SIZES, paths, write_text
    from core.loading import load_run
    from core.model import ModelSpec
    from core.recipe import dump
    from core.runtime import pick_device, pick_precision

    if idle := list(filter(TRAINING.match, overrides)):
        raise ValueError(f"override {idle[0]!r}: has no effect on an evaluation")
    catalog = discovery.load()
    recipe, data, model = load_run(folder, overrides, catalog)
    device = pick_device(recipe.run.device)
    changes = "\n".join(sorted(override for override in overrides if override.startswith("model.")))
    suffix = f"-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else ""
    target = os.path.join(folder, f"evaluate-{recipe.evaluate.split}{suffix}")
    paths.mkdirs(target)
    command = shlex.join(["patchbay", "evaluate", folder, *overrides])
    write_text(os.path.join(target, RECIPE_COPY), dump(recipe, command))
    if not paths.isfile(os.path.join(folder, SIZES)):  # an older run
        ModelSpec.of(data).write(folder)
    precision = pick_precision(recipe.train.precision, device)
    evaluation = Evaluation(model, data, recipe.evaluate, device, precision, recipe.plugin_settings)
    return report_on(catalog.hooks, evaluation, target)


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="patchbay evaluate",
        description="Measure the model of a run or an import; report and images are written to FOLDER/evaluate-SPLIT. "
        "If overrides change the model, it is FOLDER/evaluate-SPLIT-HASH; evaluated.yaml there is the recipe. An "
        "import needs data: data.name=coco 'data.sources=[{images: FOLDER, captions: [FILE]}]'.",
    )
    parser.add_argument("folder", help="the folder of a run or an import")
    example = "evaluate.candidates=64, model.backbone.prune[0].pruner.keep_rate=0.3, ..."
    parser.add_argument("overrides", nargs="*", default=[], metavar="path=value", help=example)
    parser.add_argument("--split", help="the same as evaluate.split=...")
    parser.add_argument("--json", action="store_true", help="print only the report, as JSON, on standard output")
    args = parser.parse_intermixed_args(argv)

    chosen = [f"evaluate.split={args.split}"] if args.split else []

    return run_cli(lambda: print_report(lambda: evaluate(args.folder, [*args.overrides, *chosen]), args.json))
