"""``patchbay run`` and ``python -m core.run``: train a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, print_report, run_cli
from registry import terminal


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("run", "train a recipe, then evaluate and draw", "plugins.commands.run:main")


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="patchbay run",
        description="Train a recipe, then evaluate and draw. The run goes on if nobody reads its output any more.",
    )
    parser.add_argument("recipe", help="a YAML file, or one of patchbay list, such as copa/pretrain")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="path=value", help="train.steps=100, objectives.pta=null, ..."
    )
    parser.add_argument("--json", action="store_true", help="print only the report, as JSON, on standard output")
    args = parser.parse_intermixed_args(argv)

    def work() -> dict[str, Any]:
        from core.run import run

        return run(args.recipe, args.overrides)

    terminal.output_is_a_log()
    return run_cli(lambda: print_report(work, args.json))
