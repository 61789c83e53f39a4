"""``patchbay verify``: read every record and image of a recipe's data once, before a long run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, json_only, put, put_json, run_cli
from plugins.data.bad_records import MAX_MESSAGES

NOTHING = "this data is generated, not read: nothing to verify"


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("verify", "read all of a recipe's data and count bad records", "plugins.commands.verify:main")


def verify(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read all of a recipe's data, whatever its budget for bad data.

    Returns:
        ``{pictures, records, splits {train, validation, test}, skipped {kind: count}, messages}``. ``pictures`` are the
        different images that the files name; ``splits`` counts those with captions or boxes, also if they cannot be
        read. Of generated data all counts are 0, and a message states that.

    Raises:
        RecipeErrors, PartError, ValueError: the recipe has problems, or a file cannot be read at all.
    """
    from core import discovery
    from core.recipe import read
    from plugins.data.held_out import SPLITS

    data = read(path, overrides, discovery.load()).data
    if "budget" in data.settings:
        data = dataclasses.replace(data, settings={**data.settings, "budget": 1.0})
    empty = {"pictures": 0, "records": 0, "splits": dict.fromkeys(SPLITS, 0), "skipped": {}, "messages": [NOTHING]}
    return {**empty, **data().verify()}


def _format(report: dict[str, Any]) -> list[str]:
    if report["messages"] == [NOTHING]:
        return [NOTHING]
    skipped = sum(report["skipped"].values())
    lines = [f"{report['pictures']:,} images, {report['records']:,} records: {skipped:,} cannot be used"]
    lines += [", ".join(f"{split} {count:,}" for split, count in report["splits"].items())]
    lines += [f"  {count:>8,}  {kind}" for kind, count in sorted(report["skipped"].items())]
    rest = skipped - MAX_MESSAGES
    return [*lines, *report["messages"], *([f"and {rest:,} more"] if rest > 0 else [])]


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="patchbay verify",
        description="Read every record and every image of a recipe's data and count those that cannot be used. "
        "The exit status is 1 if there are any: training skips them up to data.budget. Images with captions or boxes "
        "are counted by split, each once over all sources.",
    )
    parser.add_argument("recipe", help="a YAML file, or one of patchbay list, such as copa/pretrain")
    parser.add_argument("overrides", nargs="*", default=[], metavar="path=value", help="data.sources=[...], ...")
    parser.add_argument("--json", action="store_true", help="print {pictures, records, splits, skipped, messages}")
    args = parser.parse_intermixed_args(argv)

    def work() -> int:
        with json_only(args.json) as output:
            report = verify(args.recipe, args.overrides)
            if args.json:
                put_json(report, output, indent=2)
            else:
                put("\n".join(_format(report)))
        return 1 if report["skipped"] else 0

    return run_cli(work)
