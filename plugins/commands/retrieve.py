"""``patchbay retrieve``: find images by text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.hookspecs import hookimpl
from plugins.commands.console import run_cli
from plugins.inference.verbs import TEXT_HELP, ImageStream, count, parser, run_image_verb, texts_of

if TYPE_CHECKING:
    from plugins.inference.predictor import Predictor


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("retrieve", "find images by text", "plugins.commands.retrieve:main")


def main(argv: Sequence[str]) -> int:
    options = parser("retrieve", "Find the images that are most similar to each text, the most similar first.")
    options.add_argument("--text", action="append", metavar="TEXT", help=f"a text to search for; {TEXT_HELP}")
    options.add_argument("--texts", metavar="FILE", help="a file with one text per line")
    options.add_argument("--top", type=count, default=5, metavar="K", help="number of images per text (default: 5)")
    args = options.parse_intermixed_args(argv)
    if not (args.text or args.texts):
        options.error("give --text or --texts")

    def retrieved(model: Predictor, images: ImageStream) -> Iterator[dict[str, Any]]:
        texts = texts_of(args)
        for text, matches in zip(texts, model.retrieve(images, texts, args.top), strict=True):
            for rank, (place, score) in enumerate(matches):
                yield {"text": text, "rank": rank + 1, "image": images.names[place], "score": score}

    return run_cli(lambda: run_image_verb(args, retrieved))
