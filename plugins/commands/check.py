"""``patchbay check``: everything that can be wrong before training, in one go."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli import guarded
from core.hookspecs import hookimpl

if TYPE_CHECKING:
    from core.model import Model
    from core.recipe import Recipe


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("check", "read a recipe, build its parts, count them, run one tiny step", "plugins.commands.check:main")


def check(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """``{ok, problems, parameters: {total, parts}}``; problems that stand before others are found first.

    Reads the recipe (all its problems at once), builds every part, and runs one step forward on two examples.
    """
    from core import discovery
    from core.recipe import RecipeErrors, read

    report: dict[str, Any] = {"ok": False, "problems": [], "parameters": {}}
    try:
        recipe = read(path, overrides, discovery.load())
    except RecipeErrors as err:
        report["problems"] = [str(problem) for problem in err.problems]
        return report
    try:
        report["parameters"] = _try(recipe)
    except ValueError as err:
        report["problems"] = str(err).splitlines()
    report["ok"] = not report["problems"]
    return report


def _try(recipe: Recipe) -> dict[str, Any]:
    """Build, count, and run one step's losses on two examples.

    Raises:
        ValueError: what is wrong.
    """
    import torch

    from core.run import build

    built = build(recipe)
    batch = built.data.batch(0, size=2, seed=recipe.run.seed, reads=built.objectives.reads)
    try:
        with torch.no_grad():
            _, losses = built.objectives.train()(batch)
    except ValueError:
        raise
    except Exception as err:
        raise ValueError(f"one step on two examples fails: {type(err).__name__}: {err}{_place(err)}") from err
    endless = [name for name, loss in losses.items() if not bool(torch.isfinite(loss))]
    if endless:
        raise ValueError(f"one step on two examples: the loss of {', '.join(endless)} is not finite")
    parts = count(built.model)
    return {"total": sum(parts.values()), "parts": parts}


def count(model: Model) -> dict[str, int]:
    """Parameters by slot, those of the pruners apart from their backbone's; tied weights once, where first met."""
    pruners = {id(p) for pruner in model.pruners for p in pruner.parameters()}
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = "pruner" if id(parameter) in pruners else name.partition(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def _place(err: Exception) -> str:
    """The line of a part's module at which it broke."""
    frames = [f for f in traceback.extract_tb(err.__traceback__) if "torch" not in Path(f.filename).parts]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="patchbay check", description=(check.__doc__ or "").splitlines()[-2].strip())
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="train.steps=100, objectives.pta=null, ...")
    parser.add_argument("--json", action="store_true", help="print {ok, problems, parameters {total, parts}}")
    args = parser.parse_intermixed_args(argv)

    def work() -> int:
        report = check(args.recipe, args.overrides)
        if args.json:
            print(json.dumps(report, indent=2))
        elif report["ok"]:
            print(f"{args.recipe}: nothing wrong\nparameters{report['parameters']['total']:>14,}")
            for part, number in report["parameters"]["parts"].items():
                print(f"  {part:<12}{number:>10,}")
        else:
            print("\n".join(report["problems"]), file=sys.stderr)
        return 0 if report["ok"] else 2

    return guarded(work)
