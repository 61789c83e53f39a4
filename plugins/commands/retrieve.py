"""``patchbay retrieve``: the pictures that a text speaks of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.cli import run_cli
from core.hookspecs import hookimpl
from plugins.inference.verbs import TEXT_HELP, Shown, answer, count, parser, texts_of

if TYPE_CHECKING:
    from plugins.inference.predictor import Predictor


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("retrieve", "find the pictures that texts speak of", "plugins.commands.retrieve:main")


def main(argv: Sequence[str]) -> int:
    made = parser("retrieve", "Find the pictures that are nearest to each text, the nearest first.")
    made.add_argument("--text", action="append", metavar="TEXT", help=f"what to look for; {TEXT_HELP}")
    made.add_argument("--texts", metavar="FILE", help="a file with one text a line")
    made.add_argument("--top", type=count, default=5, metavar="K", help="pictures told of each text (default: 5)")
    args = made.parse_intermixed_args(argv)
    if not (args.text or args.texts):
        made.error("give --text or --texts: what is to be looked for?")

    def retrieved(model: Predictor, shown: Shown) -> Iterator[dict[str, Any]]:
        texts = texts_of(args)
        for text, found in zip(texts, model.retrieve(shown, texts, args.top), strict=True):
            for rank, (place, score) in enumerate(found):
                yield {"text": text, "rank": rank + 1, "image": shown.names[place], "score": score}

    return run_cli(lambda: answer(args, retrieved))
