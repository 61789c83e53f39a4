"""Shared by the commands on images: arguments, reading of images, and JSON lines.

Does not import torch at its top: the command line imports these modules also to print help.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from plugins.commands.console import Parser, json_only, put, put_json
from registry import terminal

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm

    from plugins.inference.predictor import Predictor

ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
READ_THREADS = 4
READ_AHEAD_IMAGES = 64  # read before the model needs them, at most
OVERRIDE = re.compile(r"(model|objectives|data|train|evaluate|run)(?=[.=])[.\w\[\]-]*=")
TEXT_HELP = "may be given more than once"


def parser(verb: str, description: str, images: str = "+") -> argparse.ArgumentParser:
    """Build a parser with FOLDER, IMAGES... and the common options."""
    arguments = Parser(
        prog=f"patchbay {verb}",
        description=f"{description} Prints one JSON line per result, at once. Images that cannot be read are named on "
        "standard error and skipped; the exit status is then 1. Settings of the model can be changed among the images: "
        "model.backbone.prune[0].pruner.keep_rate=0.3; a file of such a name is written ./NAME.",
    )
    arguments.add_argument("folder", help="folder written by patchbay run or patchbay import")
    files = f"image files, and folders that are searched for {' '.join(ENDINGS)}"
    arguments.add_argument("images", nargs=images, default=[] if images == "*" else None, help=files)
    arguments.add_argument("--out", metavar="FILE", help="write into this file")
    arguments.add_argument(
        "--batch", type=count, default=32, metavar="N", help="images or texts per pass (default: 32)"
    )
    arguments.add_argument("--device", default="auto", help="a torch device name (default: the accelerator if any)")
    precisions = ("auto", "fp32", "bf16")
    arguments.add_argument("--precision", default="auto", choices=precisions, help="default: bf16 where that is faster")
    return arguments


def count(text: str) -> int:
    """Parse a whole number above 0.

    Raises:
        ArgumentTypeError: it is less than 1.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"it must be at least 1, got {number}")
    return number


def lines_of(file: str) -> list[str]:
    """Read the lines of a text file that are not blank, without invisible characters.

    Raises:
        ValueError: the file cannot be read or has no such line; names it.
    """
    from core.files import read_text
    from plugins.text.invisible import remove_invisible

    lines = [text for line in read_text(file).split("\n") if (text := remove_invisible(line).strip())]
    if not lines:
        raise ValueError(f"{file}: has no lines")
    return lines


def texts_of(args: argparse.Namespace) -> list[str]:
    """Collect the texts of ``--text`` and of the file ``--texts``."""
    return [*(args.text or ()), *(lines_of(args.texts) if args.texts else ())]


def files_of(given: Iterable[str]) -> list[str]:
    """List files, and the images in folders and their subfolders, sorted by path; each real file once.

    Subfolders that cannot be listed come last: reading them as images fails, and so they are reported.

    Raises:
        ValueError: a folder has no images.
    """
    from plugins.data.image_folders import FileList

    listing = FileList(ENDINGS)
    for path in given:
        if not listing.add(path) and not FileList(ENDINGS).add(path):  # none, or only files that are listed already?
            raise ValueError(f"{path}: no image in this folder; looked for {', '.join(ENDINGS)}")
    return listing.files + listing.unreadable


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate overrides, "section.path=value" for a section of a recipe, from files and folders.

    An argument that names an existing file or folder is never an override.
    """
    overrides = [text for text in arguments if OVERRIDE.match(text) and not os.path.exists(text)]
    return overrides, [text for text in arguments if text not in overrides]


@dataclass
class ImageStream:
    """Images for a model, read in threads. Those that cannot be read are reported, counted and skipped."""

    model: Predictor
    files: list[str]
    bar: tqdm[Any]
    names: list[str] = field(default_factory=list)  # of the files that could be read, in their order
    faults: int = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over preprocessed images, (3, S, S) uint8 each."""
        from plugins.inference.inputs import preprocess

        with ThreadPoolExecutor(READ_THREADS) as pool:
            rest = iter(self.files)
            pending: deque[tuple[str, Future[Tensor]]] = deque()

            def submit(number: int) -> None:
                pending.extend((file, pool.submit(preprocess, file, self.model.sizes)) for file in islice(rest, number))

            submit(READ_AHEAD_IMAGES)
            while pending:
                file, future = pending.popleft()
                submit(1)
                self.bar.update()
                try:
                    image = future.result()
                except ValueError as err:
                    self.faults += 1
                    self.bar.write(terminal.printable(str(err)), file=sys.stderr)
                    continue
                self.names.append(file)
                yield image


def run_image_verb(args: argparse.Namespace, work: Callable[[Predictor, ImageStream], Iterator[dict[str, Any]]]) -> int:
    """Load the model and print the records of ``work`` as JSON lines.

    Returns:
        The exit status: 1 if an image could not be read, else 0.
    """
    from tqdm import tqdm

    from core import load

    overrides, images = split_overrides(args.images)
    files = files_of(images)
    if args.out:
        check_output_path(args.out)
    with ExitStack() as stack:
        output = stack.enter_context(json_only(True))  # before any plugin is imported
        model: Predictor = load(args.folder, args.device, args.precision, overrides)
        model.batch = args.batch
        silent = not (files and sys.stderr.isatty())
        bar = stack.enter_context(tqdm(total=len(files), unit="image", dynamic_ncols=True, disable=silent))
        stream = ImageStream(model, files, bar)
        records = work(model, stream)
        first = list(islice(records, 1))  # an invalid request fails before an older file is emptied
        if args.out:
            output = stack.enter_context(open(args.out, "w", encoding="utf-8"))
        for record in chain(first, records):
            with bar.external_write_mode(file=sys.stderr):  # where the bar is
                put_json(record, output)
            output.flush()
    if stream.faults:
        put(f"{stream.faults} of {len(files)} images could not be read", sys.stderr)
    return 1 if stream.faults else 0


def check_output_path(out: str) -> str:
    """Return the path of an output file after a check that its folder exists.

    Raises:
        ValueError: the folder does not exist.
    """
    folder = os.path.dirname(out) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"{out}: there is no folder {folder!r}")
    return out
