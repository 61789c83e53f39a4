"""``patchbay check``: find the problems of a recipe before training, without data and without its memory."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, json_only, put, put_json, run_cli

if TYPE_CHECKING:
    from core.recipe import Recipe

T = TypeVar("T")
MIN_BYTES = 2**20 / 20  # of a kind of memory that is printed
NOT_INCLUDED = "temporary tensors, memory cached by the allocator, the batch itself, data workers"


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("check", "find a recipe's problems; parameters, MACs, memory of a step", "plugins.commands.check:main")


def check(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return ``{ok, problems, notes, parameters, macs, memory, step}`` of a recipe.

    Reads the recipe (all its problems at once), checks that its data exists, builds every part and runs one step,
    forward and backward, on fake tensors. These have shapes but no values, so no memory or accelerator is needed.

    Returns:
        ``parameters`` {total, parts}: tied weights count once, teachers do not. ``macs`` {total, unpruned, parts}: of
        one image with one text of full length. ``memory``: bytes at the recipe's batch, see plugins.compute.dry_run.
        ``step`` {pictures, chunks, precision, device, teacher}: the step that the memory is estimated for; ``teacher``:
        True if it has a momentum teacher or a running mean. ``notes``: what could not be checked.
    """
    from core import discovery
    from core.recipe import RecipeErrors
    from plugins.compute.recipe_or_folder import read_recipe

    report: dict[str, Any] = {"ok": False, "problems": [], "notes": []}
    report |= {"parameters": {}, "macs": {}, "memory": {}, "step": {}}
    try:
        recipe = read_recipe(path, overrides, discovery.load())
    except RecipeErrors as err:
        report["problems"] = [str(problem) for problem in err.problems]
        return report
    Check(recipe, report, path if os.path.isdir(path) else "").run()
    report["ok"] = not report["problems"]
    return report


class Check:
    """Fill the report of a recipe that was read without problems; ``folder``: where it is from, or ""."""

    def __init__(self, recipe: Recipe, report: dict[str, Any], folder: str = ""):
        self.recipe, self.report, self.folder = recipe, report, folder
        self.problems: list[str] = report["problems"]

    def run(self) -> None:
        from core.training.checkpoint import weights_file
        from core.training.trainer import check_batch
        from plugins.compute import dry_run, memory

        train = self.recipe.train
        if train.init_from:
            try:
                weights_file(train.init_from)
            except ValueError as err:
                self.report["notes"].append(f"not checked: {err}")
        sizes = self.attempt("the data", lambda: dry_run.data_spec(self.recipe))
        if sizes is None:
            return
        self.report["notes"] += [f"not here, so not checked: {file}" for file in sizes.absent]
        dry = self.attempt("building", lambda: dry_run.build_dry_run(self.recipe, sizes))
        if dry is None:
            return
        self.attempt("the batch", lambda: check_batch(train, dry.objectives))
        if self.folder:
            self.attempt("the weights", lambda: dry_run.zero_model(self.recipe, sizes, self.folder))
        if self.problems:
            return
        self.report["step"] = {
            "pictures": train.batch,
            "chunks": train.gradcache_chunks,
            "precision": dry.precision,
            "device": dry.device.type,
            "teacher": bool(train.ema) or any(True for _, part in dry.objectives.items() for _ in part.parameters()),
        }
        parts = memory.parameters(dry.model)
        self.report["parameters"] = {"total": sum(parts.values()), "parts": parts}
        self.attempt("the optimizer", lambda: dry.memory(0))
        saved = self.attempt("one step", dry.step)
        if saved is None or self.problems:
            return
        self.report["memory"] = dry.memory(saved)
        self.report["macs"] = self.attempt("inference", lambda: dry_run.macs(dry)) or {}

    def attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """Return the result of ``work``. An error becomes a problem, or a note if only values are missing."""
        from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

        try:
            return work()
        except ValueError as err:
            self.problems += str(err).splitlines()
        except (DataDependentOutputException, DynamicOutputShapeException) as err:
            self.report["notes"].append(f"{name} depends on values, so it was not checked: {err}{_place(err)}")
        except Exception as err:
            self.problems.append(f"{name} fails: {type(err).__name__}: {err}{_place(err)}")
        return None


def _place(err: Exception) -> str:
    """Return the file and line of a part at which an error was raised."""
    frames = [f for f in traceback.extract_tb(err.__traceback__) if "torch" not in Path(f.filename).parts]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _mib(number: int) -> str:
    mib = number / 2**20
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def _table(report: dict[str, Any]) -> list[str]:
    from plugins.compute.torch_macs import amount
    from plugins.hooks.report_table import columns

    rows: list[tuple[str, str]] = []

    def block(title: str, total: str, parts: dict[str, str]) -> None:
        rows.append((title, total))
        rows.extend((f"  {part}", number) for part, number in parts.items())

    parameters, macs, memory = (report[key] for key in ("parameters", "macs", "memory"))
    block(
        "parameters",
        f"{parameters['total']:,}",
        {part: f"{number:,}" for part, number in parameters["parts"].items()},
    )
    if macs:
        parts = {part: amount(number) for part, number in macs["parts"].items() if number}
        whole = {"unpruned": amount(macs["unpruned"])} if macs["unpruned_parts"] != macs["parts"] else {}
        block("MACs of an image with a text", amount(macs["total"]), {**parts, **whole})
    if memory:
        step = report["step"]
        names = {"teacher": "teacher" if step["teacher"] else "frozen weights, buffers"}
        mib = {names.get(part, part): _mib(number) for part, number in memory.items() if number >= MIN_BYTES}
        chunks = f" in {step['chunks']} chunks" if step["chunks"] > 1 else ""
        title = f"memory of {step['pictures']} images{chunks}, {step['precision']} on {step['device']}, about"
        block(title, mib.pop("total", _mib(memory["total"])), mib)
    return [*columns(rows), *([f"  not included in memory: {NOT_INCLUDED}"] if memory else [])]


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="patchbay check",
        description="Find the problems of a recipe and estimate the cost of a step, without its memory or data. "
        f"Memory is an estimate for the recipe's batch, precision and device; it does not include {NOT_INCLUDED}.",
    )
    parser.add_argument(
        "recipe",
        metavar="recipe|folder",
        help="a YAML file, one of patchbay list, such as copa/pretrain, or the folder of a run or an import",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="path=value", help="train.steps=100, objectives.pta=null, ..."
    )
    parser.add_argument(
        "--json", action="store_true", help="print {ok, problems, notes, parameters, macs, memory, step}"
    )
    args = parser.parse_intermixed_args(argv)

    def work() -> int:
        with json_only(args.json) as output:
            report = check(args.recipe, args.overrides)
            if args.json:
                put_json(report, output, indent=2)
            elif report["ok"]:
                put("\n".join([f"{args.recipe}: no problems", *_table(report), *report["notes"]]))
            else:
                put("\n".join([*report["problems"], *report["notes"]]), sys.stderr)
        return 0 if report["ok"] else 2

    return run_cli(work)
