"""``patchbay classify``: classify images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.hookspecs import hookimpl
from plugins.commands.console import run_cli
from plugins.inference.verbs import TEXT_HELP, ImageStream, count, lines_of, parser, run_image_verb

if TYPE_CHECKING:
    from plugins.inference.predictor import Predictor


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("classify", "classify images", "plugins.commands.classify:main")


def main(argv: Sequence[str]) -> int:
    options = parser("classify", "Classify each image: the most likely classes and their probabilities.")
    classes = "names separated by commas, or a file with one per line (default: those that the model was trained on)"
    options.add_argument("--classes", metavar="NAMES|FILE", help=classes)
    prompt = f'such as "a photo of {{labels}}"; {TEXT_HELP} (default: the prompts of the evaluation)'
    options.add_argument("--prompt", action="append", metavar="TEXT", help=prompt)
    options.add_argument("--top", type=count, default=5, metavar="K", help="number of classes per image (default: 5)")
    args = options.parse_intermixed_args(argv)

    def classified(model: Predictor, images: ImageStream) -> Iterator[dict[str, Any]]:
        names = None if args.classes is None else _names(args.classes)
        for place, ranked in enumerate(model.classified(images, names, args.prompt, args.top)):
            best, odds = ranked[0]
            yield {"image": images.names[place], "class": best, "score": odds, "top": dict(ranked)}

    return run_cli(lambda: run_image_verb(args, classified))


def _names(given: str) -> list[str]:
    if os.path.isfile(given):
        return lines_of(given)
    names = [name.strip() for name in given.split(",") if name.strip()]
    if len(names) < 2:
        raise ValueError(f"--classes {given}: no such file, and one class leaves nothing to choose from")
    return names
