"""``patchbay evaluate``: measure a finished run anew."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from core.cli import guarded
from core.hookspecs import hookimpl


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("evaluate", "measure a finished run anew", "plugins.commands.evaluate:main")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="patchbay evaluate",
        description="Measure the model of a run's folder; report and pictures go to FOLDER/evaluate-SPLIT.",
    )
    parser.add_argument("folder", help="what patchbay run made")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="evaluate.candidates=64, ...")
    parser.add_argument("--split", help="the same as evaluate.split=...")
    parser.add_argument("--json", action="store_true", help="print only the report, as JSON, on standard output")
    args = parser.parse_intermixed_args(argv)

    def work() -> int:
        from core.run import evaluate, json_only

        chosen = [f"evaluate.split={args.split}"] if args.split else []
        with json_only(args.json):
            report = evaluate(args.folder, [*args.overrides, *chosen])
        if args.json:
            print(json.dumps(report, indent=2))
        return 0

    return guarded(work)
