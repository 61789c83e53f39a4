"""``patchbay embed``: compute features of images and texts, such as for a search index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.hookspecs import hookimpl
from plugins.commands.console import run_cli
from plugins.inference.verbs import TEXT_HELP, ImageStream, check_output_path, parser, run_image_verb, texts_of

if TYPE_CHECKING:
    from torch import Tensor

    from plugins.inference.predictor import Predictor

TENSORS = ".safetensors"


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("embed", "features of images and texts in their shared space", "plugins.commands.embed:main")


def main(argv: Sequence[str]) -> int:
    options = parser(
        "embed",
        "Compute features of images and texts. They have length 1, so that dot products are cosine similarities. With "
        "--out NAME.safetensors they are saved as tensors 'images' and 'texts'; NAME.json lists the file or text of "
        "each row.",
        images="*",
    )
    options.add_argument("--text", action="append", metavar="TEXT", help=f"a text; {TEXT_HELP}")
    options.add_argument("--texts", metavar="FILE", help="a file with one text per line")
    args = options.parse_intermixed_args(argv)
    if not (args.images or args.text or args.texts):
        options.error("nothing to embed: give images, --text or --texts")
    if args.out and args.out.endswith(TENSORS):
        return run_cli(lambda: _save(args))
    return run_cli(lambda: run_image_verb(args, lambda model, images: _records(model, images, texts_of(args))))


def _records(model: Predictor, images: ImageStream, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    if texts:
        for text, row in zip(texts, model.embed_texts(texts), strict=True):
            yield {"text": text, "embedding": _numbers(row)}
    place = 0
    if images.files:
        for part in model.image_features(images):
            for row in part:
                yield {"image": images.names[place], "embedding": _numbers(row)}
                place += 1


def _numbers(row: Tensor) -> list[float]:
    """Convert a feature (D,) to numbers; nine digits are exact for float32."""
    return [float(f"{number:.9g}") for number in row.tolist()]


def _save(args: Any) -> int:
    """Save features and names to two files at the end; print one line with their paths and shapes."""
    from safetensors.torch import save_file

    from core.files import write_json

    out, args.out = check_output_path(args.out), None
    texts = texts_of(args)

    def save(model: Predictor, images: ImageStream) -> Iterator[dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        if images.files:
            tensors["images"] = model.embed_images(images)
        if texts:
            tensors["texts"] = model.embed_texts(texts)
        save_file(tensors, out)
        names = os.path.splitext(out)[0] + ".json"
        write_json(names, {"images": images.names, "texts": texts})
        yield {"tensors": out, "names": names, **{name: list(tensor.shape) for name, tensor in tensors.items()}}

    return run_image_verb(args, save)
