"""``patchbay verify``: read every record and picture of a recipe's data, once and wholly, before a long run does."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from core.cli import run_cli
from core.hookspecs import hookimpl


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("verify", "read all of a recipe's data and count what cannot be used", "plugins.commands.verify:main")


def verify(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """``{pictures, records, skipped {kind: count}, messages}``, whatever the recipe's budget for bad data is.

    Raises:
        RecipeErrors, PartError, ValueError: the recipe is wrong, or a file as a whole cannot be read.
    """
    from core import discovery
    from core.recipe import read

    data = read(path, overrides, discovery.load()).data
    if "budget" in data.settings:
        data = dataclasses.replace(data, settings={**data.settings, "budget": 1.0})
    return data().verify()


def _told(report: dict[str, Any]) -> list[str]:
    if not report:
        return ["made, not read: nothing to verify"]
    skipped = sum(report["skipped"].values())
    lines = [f"{report['pictures']:,} pictures, {report['records']:,} records: {skipped:,} cannot be used"]
    lines += [f"  {count:>8,}  {kind}" for kind, count in sorted(report["skipped"].items())]
    shown = len(report["messages"])
    return [*lines, *report["messages"], *([f"and {skipped - shown:,} more"] if skipped > shown else [])]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="patchbay verify",
        description="Read every record and every picture of a recipe's data and count what cannot be used. "
        "Ends with status 1 where there is any: training skips it within data.budget.",
    )
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument("overrides", nargs="*", default=[], metavar="path=value", help="data.sources=[...], ...")
    parser.add_argument("--json", action="store_true", help="print {pictures, records, skipped, messages}")
    args = parser.parse_intermixed_args(argv)

    def work() -> int:
        report = verify(args.recipe, args.overrides)
        print(json.dumps(report, indent=2) if args.json else "\n".join(_told(report)))
        return 1 if report.get("skipped") else 0

    return run_cli(work)
