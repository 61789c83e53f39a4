"""``patchbay evaluate``: measure a finished run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, print_report, run_cli


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("evaluate", "measure a finished run again", "plugins.commands.evaluate:main")


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

    def work() -> dict[str, Any]:
        from core.run import evaluate

        return evaluate(args.folder, [*args.overrides, *chosen])

    return run_cli(lambda: print_report(work, args.json))
