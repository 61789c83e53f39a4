"""``patchbay caption``: caption images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.hookspecs import hookimpl
from plugins.commands.console import run_cli
from plugins.inference.verbs import ImageStream, count, parser, run_image_verb

if TYPE_CHECKING:
    from plugins.inference.predictor import Predictor

SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {  # of plugins.generation.settings.Generation
    "beams": (count, "width of the beam search"),
    "max_length": (count, "maximum number of tokens (default: 30, or the decoder's context length if shorter)"),
    "min_length": (int, "minimum number of tokens"),
    "length_penalty": (float, "scores are divided by length to the power of this (default: 1)"),
    "repetition_penalty": (float, "penalty on tokens that occur already (default: 1, none)"),
    "temperature": (float, "sample tokens; logits are divided by this"),
    "top_k": (int, "sample from the K most likely tokens"),
    "top_p": (float, "sample from the most likely tokens that together have this probability"),
}


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("caption", "caption images", "plugins.commands.caption:main")


def main(argv: Sequence[str]) -> int:
    options = parser("caption", "Write a caption of each image; by default by greedy search.")
    options.add_argument("--prompt", default="", metavar="TEXT", help="text that every caption begins with")
    for name, (kind, help_text) in SETTINGS.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=help_text)
    options.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampling (default: 0)")
    args = options.parse_intermixed_args(argv)
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}

    def captioned(model: Predictor, images: ImageStream) -> Iterator[dict[str, Any]]:
        for place, (text, score) in enumerate(model.captions(images, args.prompt, seed=args.seed, **settings)):
            yield {"image": images.names[place], "caption": text, "score": score}

    return run_cli(lambda: run_image_verb(args, captioned))
