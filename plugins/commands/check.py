"""``patchbay check``: everything that can be wrong before training, in one go, without memory or data."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.cli import run_cli
from core.hookspecs import hookimpl

if TYPE_CHECKING:
    from core.recipe import Recipe

T = TypeVar("T")
LEFT_OUT = "temporaries, what the allocator holds back, the batch itself, the workers that draw it"


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("check", "find a recipe's faults; parameters, MACs and memory of a step", "plugins.commands.check:main")


def check(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """``{ok, problems, notes, parameters, macs, memory, step}``; problems that stand before others are found first.

    Reads the recipe (all its problems at once), looks whether its data is there, builds every part and takes one step,
    forward and backward, on fake tensors: shapes without values, so neither memory nor an accelerator is needed.

    Returns:
        ``parameters`` {total, parts}: numbers; tied weights once, no teacher. ``macs`` {total, unpruned, parts}: of one
        picture with one text of full length. ``memory``: bytes at the recipe's batch, see plugins.compute.dry_run.
        ``step`` {pictures, chunks, precision, device}: what the memory is for. ``notes``: what could not be
        looked at, which is no fault.
    """
    from core import discovery
    from core.recipe import RecipeErrors, read

    report: dict[str, Any] = {"ok": False, "problems": [], "notes": []}
    report |= {"parameters": {}, "macs": {}, "memory": {}, "step": {}}
    try:
        recipe = read(path, overrides, discovery.load())
    except RecipeErrors as err:
        report["problems"] = [str(problem) for problem in err.problems]
        return report
    Check(recipe, report).run()
    report["ok"] = not report["problems"]
    return report


class Check:
    """Fills a report, which has lists of problems and notes, about a recipe that was read without a fault."""

    def __init__(self, recipe: Recipe, report: dict[str, Any]):
        self.recipe, self.report = recipe, report
        self.problems: list[str] = report["problems"]

    def run(self) -> None:
        from core.training.checkpoint import weights_file
        from core.training.trainer import check_batch
        from plugins.compute import dry_run, memory

        train = self.recipe.train
        self.attempt("the batch", lambda: check_batch(train))
        if self.problems:
            return
        if train.init_from:
            try:
                weights_file(train.init_from)
            except ValueError as err:
                self.report["notes"].append(f"not checked: {err}")
        sizes = self.attempt("the data", lambda: dry_run.sketch(self.recipe))
        if sizes is None:
            return
        self.report["notes"] += [f"not here, so not checked: {thing}" for thing in sizes.absent]
        made = self.attempt("building", lambda: dry_run.assembled(self.recipe, sizes))
        if made is None:
            return
        self.report["step"] = {
            "pictures": train.batch,
            "chunks": train.gradcache_chunks,
            "precision": made.precision,
            "device": made.device.type,
        }
        parts = memory.parameters(made.model)
        self.report["parameters"] = {"total": sum(parts.values()), "parts": parts}
        self.attempt("the optimizer", lambda: made.memory(0))
        saved = self.attempt("one step", made.step)
        if saved is None or self.problems:
            return
        self.report["memory"] = made.memory(saved)
        self.report["macs"] = self.attempt("inference", lambda: dry_run.macs(made)) or {}

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """The work's result; what stops it is noted, as a problem unless only values are missing."""
        from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

        try:
            return work()
        except ValueError as err:
            self.problems += str(err).splitlines()
        except (DataDependentOutputException, DynamicOutputShapeException) as err:
            self.report["notes"].append(f"{what} depends on values, so it was not checked: {err}{_place(err)}")
        except Exception as err:
            self.problems.append(f"{what} fails: {type(err).__name__}: {err}{_place(err)}")
        return None


def _place(err: Exception) -> str:
    """The line of a part's module at which it broke."""
    frames = [f for f in traceback.extract_tb(err.__traceback__) if "torch" not in Path(f.filename).parts]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _table(report: dict[str, Any]) -> list[str]:
    from core.evaluation import columns
    from plugins.compute.torch_macs import amount

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
        block("MACs of a picture with a text", amount(macs["total"]), {**parts, "unpruned": amount(macs["unpruned"])})
    if memory:
        mib = {part: f"{number / 2**20:,.0f} MiB" for part, number in memory.items()}
        step = report["step"]
        chunks = f" in {step['chunks']} chunks" if step["chunks"] > 1 else ""
        title = f"memory of {step['pictures']} pictures{chunks}, {step['precision']} on {step['device']}, about"
        block(title, mib.pop("total"), mib)
    return [*columns(rows), *([f"  memory leaves out: {LEFT_OUT}"] if memory else [])]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="patchbay check",
        description="Find a recipe's faults and say what a step would take, without memory or data. "
        f"Memory is an estimate for the recipe's batch, precision and device; it leaves out {LEFT_OUT}.",
    )
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="path=value", help="train.steps=100, objectives.pta=null, ..."
    )
    parser.add_argument(
        "--json", action="store_true", help="print {ok, problems, notes, parameters, macs, memory, step}"
    )
    args = parser.parse_intermixed_args(argv)

    def work() -> int:
        report = check(args.recipe, args.overrides)
        if args.json:
            print(json.dumps(report, indent=2))
        elif report["ok"]:
            print("\n".join([f"{args.recipe}: nothing wrong", *_table(report), *report["notes"]]))
        else:
            print("\n".join([*report["problems"], *report["notes"]]), file=sys.stderr)
        return 0 if report["ok"] else 2

    return run_cli(work)
