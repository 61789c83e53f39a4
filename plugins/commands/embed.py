"""``patchbay embed``: the features of pictures and texts, for an index of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.cli import run_cli
from core.hookspecs import hookimpl
from plugins.inference.verbs import TEXT_HELP, Shown, answer, parser, texts_of, usable

if TYPE_CHECKING:
    from torch import Tensor

    from plugins.inference.predictor import Predictor

TENSORS = ".safetensors"


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("embed", "features of pictures and texts, in the space that they share", "plugins.commands.embed:main")


def main(argv: Sequence[str]) -> int:
    made = parser(
        "embed",
        "Write the features of pictures and texts, of length 1: products are cosines. With --out NAME.safetensors they "
        "become the tensors 'images' and 'texts', and NAME.json says what each row is of.",
        images="*",
    )
    made.add_argument("--text", action="append", metavar="TEXT", help=f"a text; {TEXT_HELP}")
    made.add_argument("--texts", metavar="FILE", help="a file with one text a line")
    args = made.parse_intermixed_args(argv)
    if not (args.images or args.text or args.texts):
        made.error("nothing to embed: give images, --text or --texts")
    if args.out and args.out.endswith(TENSORS):
        return run_cli(lambda: _stored(args))
    return run_cli(lambda: answer(args, lambda model, shown: _told(model, shown, texts_of(args))))


def _told(model: Predictor, shown: Shown, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    if texts:
        for text, row in zip(texts, model.embed_texts(texts), strict=True):
            yield {"text": text, "embedding": _numbers(row)}
    place = 0
    if shown.files:
        for part in model.image_features(shown):
            for row in part:
                yield {"image": shown.names[place], "embedding": _numbers(row)}
                place += 1


def _numbers(row: Tensor) -> list[float]:
    """Nine digits say a float32 exactly."""
    return [float(f"{number:.9g}") for number in row.tolist()]


def _stored(args: Any) -> int:
    """Both files, when all is known; they say in the end what was written."""
    from safetensors.torch import save_file

    from core.files import write_json

    out, args.out = usable(args.out), None
    texts = texts_of(args)

    def stored(model: Predictor, shown: Shown) -> Iterator[dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        if shown.files:
            tensors["images"] = model.embed_images(shown)
        if texts:
            tensors["texts"] = model.embed_texts(texts)
        save_file(tensors, out)
        names = os.path.splitext(out)[0] + ".json"
        write_json(names, {"images": shown.names, "texts": texts})
        yield {"tensors": out, "names": names, **{name: list(tensor.shape) for name, tensor in tensors.items()}}

    return answer(args, stored)
