"""``patchbay caption``: write captions of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.cli import run_cli
from core.hookspecs import hookimpl
from plugins.inference.verbs import Shown, answer, count, parser

if TYPE_CHECKING:
    from plugins.inference.predictor import Predictor

SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {  # of plugins.generation.settings.Generation
    "beams": (count, "beam search of this width"),
    "max_length": (count, "the most tokens written (default: 30, or as many as the decoder can read)"),
    "min_length": (int, "tokens written before a caption may end"),
    "length_penalty": (float, "scores are divided by length to this power (default: 1)"),
    "repetition_penalty": (float, "makes words that are there already less likely (default: 1, none)"),
    "temperature": (float, "draw words, from logits divided by this"),
    "top_k": (int, "draw words from the k likeliest"),
    "top_p": (float, "draw words from the likeliest that together have this probability"),
}


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("caption", "write captions of pictures", "plugins.commands.caption:main")


def main(argv: Sequence[str]) -> int:
    made = parser("caption", "Write a caption of each picture, of the likeliest words unless told otherwise.")
    made.add_argument("--prompt", default="", metavar="TEXT", help="what every caption begins with")
    for name, (kind, said) in SETTINGS.items():
        made.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=said)
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    args = made.parse_intermixed_args(argv)
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}

    def captioned(model: Predictor, shown: Shown) -> Iterator[dict[str, Any]]:
        for place, (text, score) in enumerate(model.captions(shown, args.prompt, seed=args.seed, **settings)):
            yield {"image": shown.names[place], "caption": text, "score": score}

    return run_cli(lambda: answer(args, captioned))
