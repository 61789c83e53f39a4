"""``patchbay classify``: which class a picture is of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.cli import run_cli
from core.hookspecs import hookimpl
from plugins.inference.verbs import TEXT_HELP, Shown, answer, count, lines_of, parser

if TYPE_CHECKING:
    from plugins.inference.predictor import Predictor


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("classify", "say which class pictures are of", "plugins.commands.classify:main")


def main(argv: Sequence[str]) -> int:
    made = parser("classify", "Say which of some classes each picture is of: the likeliest, with probabilities.")
    said = "names with commas between them, or a file with one a line (default: those that the model was trained on)"
    made.add_argument("--classes", metavar="NAMES|FILE", help=said)
    prompt = f'such as "a photo of {{labels}}", where the name belongs; {TEXT_HELP} (default: as models are measured)'
    made.add_argument("--prompt", action="append", metavar="TEXT", help=prompt)
    made.add_argument("--top", type=count, default=5, metavar="K", help="classes told of each picture (default: 5)")
    args = made.parse_intermixed_args(argv)

    def classified(model: Predictor, shown: Shown) -> Iterator[dict[str, Any]]:
        names = None if args.classes is None else _names(args.classes)
        for place, ranked in enumerate(model.classified(shown, names, args.prompt, args.top)):
            best, odds = ranked[0]
            yield {"image": shown.names[place], "class": best, "score": odds, "top": dict(ranked)}

    return run_cli(lambda: answer(args, classified))


def _names(given: str) -> list[str]:
    if os.path.isfile(given):
        return lines_of(given)
    names = [name.strip() for name in given.split(",") if name.strip()]
    if len(names) < 2:
        raise ValueError(f"--classes {given}: no such file, and one class leaves nothing to choose from")
    return names
