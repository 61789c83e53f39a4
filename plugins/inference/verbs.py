"""What the verbs on pictures share: their arguments, the pictures one after the other, the lines that they print.

Imports no torch by itself: the verbs' modules, which this one serves, are imported to ask for help.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm

    from plugins.inference.predictor import Predictor

ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
READERS, AHEAD = 4, 64  # threads that read pictures, and how many pictures they may be ahead
TEXT_HELP = "may be given more than once"


def parser(verb: str, description: str, images: str = "+") -> argparse.ArgumentParser:
    """FOLDER IMAGES... and the options that all of these verbs have."""
    made = argparse.ArgumentParser(
        prog=f"patchbay {verb}",
        description=f"{description} Prints JSON, a line each as soon as it is known. Pictures that cannot be read are "
        "named on standard error and passed over; the exit status is then 1.",
    )
    made.add_argument("folder", help="what patchbay run or patchbay import made")
    files = f"picture files, and folders to be searched for {' '.join(ENDINGS)}"
    made.add_argument("images", nargs=images, default=[] if images == "*" else None, help=files)
    made.add_argument("--out", metavar="FILE", help="print into this file")
    made.add_argument("--batch", type=count, default=32, metavar="N", help="pictures or texts to a pass (default: 32)")
    made.add_argument("--device", default="auto", help="as torch names it (default: the accelerator, if there is one)")
    precisions = ("auto", "fp32", "bf16")
    made.add_argument("--precision", default="auto", choices=precisions, help="default: bf16 where that is faster")
    return made


def count(text: str) -> int:
    """An argument that is a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"it must be at least 1, got {number}")
    return number


def lines_of(file: str) -> list[str]:
    """The lines of a text file that hold anything.

    Raises:
        ValueError: not to be read, or empty; names it.
    """
    from core.files import read_text

    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file}: holds no line")
    return lines


def texts_of(args: argparse.Namespace) -> list[str]:
    """Those of ``--text`` and of the file of ``--texts``."""
    return [*(args.text or ()), *(lines_of(args.texts) if args.texts else ())]


def files_of(given: Iterable[str]) -> list[str]:
    """Files as they are given, folders as the pictures in them and their subfolders, in order of their paths.

    Raises:
        ValueError: a folder without pictures.
    """
    from core.files import paths
    from plugins.data.drawing.cutout_files import list_files

    found: list[str] = []
    for path in given:
        inside = list_files(path, ENDINGS) if paths.isdir(path) else [path]
        if not inside:
            raise ValueError(f"{path}: no picture in this folder; looked for {', '.join(ENDINGS)}")
        found += inside
    return found


@dataclass
class Shown:
    """Pictures on their way to a model. Those that cannot be read are named, counted and passed over."""

    model: Predictor
    files: list[str]
    bar: tqdm[Any]
    names: list[str] = field(default_factory=list)  # of those that could be read, in the order in which they came
    faults: int = 0

    def __iter__(self) -> Iterator[Tensor]:
        """(3, S, S) uint8 each, read ahead by a few threads."""
        from plugins.inference.inputs import prepared

        with ThreadPoolExecutor(READERS) as pool:
            rest = iter(self.files)
            waiting: deque[tuple[str, Future[Tensor]]] = deque()

            def ask(number: int) -> None:
                waiting.extend((file, pool.submit(prepared, file, self.model.sizes)) for file in islice(rest, number))

            ask(AHEAD)
            while waiting:
                file, future = waiting.popleft()
                ask(1)
                self.bar.update()
                try:
                    picture = future.result()
                except ValueError as err:
                    self.faults += 1
                    self.bar.write(str(err), file=sys.stderr)
                    continue
                self.names.append(file)
                yield picture


def answer(args: argparse.Namespace, work: Callable[[Predictor, Shown], Iterator[dict[str, Any]]]) -> int:
    """Load the model, print what the work tells of the pictures, and count what was passed over.

    Returns:
        1 where a picture was, else 0.
    """
    from tqdm import tqdm

    from core import load

    files = files_of(args.images)
    if args.out:
        usable(args.out)
    model: Predictor = load(args.folder, args.device, args.precision)
    model.batch = args.batch
    with ExitStack() as stack:
        silent = not (files and sys.stderr.isatty())
        bar = stack.enter_context(tqdm(total=len(files), unit="image", dynamic_ncols=True, disable=silent))
        shown = Shown(model, files, bar)
        records = work(model, shown)
        first = list(islice(records, 1))  # what is wrong with the request shows before an older file is emptied
        stream = stack.enter_context(open(args.out, "w", encoding="utf-8")) if args.out else sys.stdout
        for record in chain(first, records):
            bar.write(json.dumps(record, ensure_ascii=False), file=stream)
            stream.flush()
    if shown.faults:
        print(f"{shown.faults} of {len(files)} pictures could not be read", file=sys.stderr)
    return 1 if shown.faults else 0


def usable(out: str) -> str:
    """Where a file of results is to go, before work is done for it.

    Raises:
        ValueError: its folder does not exist.
    """
    folder = os.path.dirname(out) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"{out}: there is no folder {folder!r}")
    return out
