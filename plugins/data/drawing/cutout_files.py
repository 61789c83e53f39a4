"""Objects and backgrounds that ``cutouts`` reads from a user's folders, and their splits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.files import paths, read_text
from plugins.data.drawing.compositing import ObjectSpec, Sprite, make_sprite, stream
from plugins.data.image_files import read_rgba
from plugins.data.image_folders import list_files
from plugins.text.invisible import remove_invisible

WITHHELD_FRACTION = 0.15  # fraction of the captions that do not occur in training
HELD_OUT_FRACTION = 0.1  # fraction of the backgrounds for validation; the same for test
OBJECT_SIDES = (0.24, 0.27, 0.3)  # longest side of an object, as fractions of the image's side
BACKGROUND_SCALE = 1.25  # short side of a stored background; images are crops of it; fraction of the image's side
GET_OBJECTS = (
    "On Debian or Ubuntu: apt-get install tuxpaint-stamps-default, then data.objects=/usr/share/tuxpaint/stamps"
)
GET_BACKGROUNDS = (
    "On Debian or Ubuntu: apt-get install scratch, then data.backgrounds= its Media/Backgrounds folder "
    "(dpkg -L scratch | grep Backgrounds)"
)


@dataclass
class Cutout:
    """All object images with one caption, in every size."""

    spec: ObjectSpec
    sprites: list[Sprite]


def head(noun: str) -> str:
    """The last word of a noun phrase: "teddy bear" gives "bear"."""
    return noun.split()[-1]


def _require_folder(setting: str, folder: str, hint: str) -> None:
    if not folder or not paths.isdir(folder):
        raise ValueError(f"{setting}: {f'no folder {folder!r}' if folder else 'no folder is set'}. {hint}")


def read_caption(file: str) -> tuple[str, str]:
    """Read a caption file's first line, in lower case: its article ("" if there is none) and the rest.

    "An abalone." gives "an" and "abalone".

    Raises:
        ValueError: the file is not UTF-8, or the line is empty; names the file.
    """
    words = remove_invisible(read_text(file).partition("\n")[0]).strip().rstrip(".").lower().split()
    article = words.pop(0) if words and words[0] in ("a", "an", "the", "some") else ""
    if not words:
        raise ValueError(f"{file}:1: the caption is empty; expected a phrase such as 'An abalone.'")
    return article, " ".join(words)


def read_objects(folder: str, image_size: int) -> dict[str, Cutout]:
    """Read the captioned PNGs of a folder, by noun, each trimmed to its visible part and resized.

    Raises:
        ValueError: no such folder, or an invalid file; names it.
    """
    _require_folder("objects", folder, GET_OBJECTS)
    cutouts: dict[str, Cutout] = {}
    for file in list_files(folder, (".png",), beside=".txt"):
        article, noun = read_caption(os.path.splitext(file)[0] + ".txt")
        image = read_rgba(file, ("PNG",))
        image = image.crop(image.getchannel("A").getbbox())
        cutout = cutouts.setdefault(noun, Cutout(ObjectSpec(noun, noun, article), []))
        for side in OBJECT_SIDES:
            scale = side * image_size / max(image.size)
            sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            try:
                cutout.sprites.append(make_sprite(np.asarray(image.resize(sides, Image.Resampling.BICUBIC))))
            except ValueError as err:
                raise ValueError(f"{file}: {err}") from err
    return cutouts


def read_background(file: str, image_size: int) -> NDArray[np.uint8]:
    """Read a background as (3, h, w), its short side BACKGROUND_SCALE times the image's."""
    image = read_rgba(file, ("JPEG", "PNG")).convert("RGB")
    scale = BACKGROUND_SCALE * image_size / min(image.size)
    image = image.resize((ceil(image.width * scale), ceil(image.height * scale)), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _shuffled(seed: int, names: Sequence[str]) -> list[str]:
    """Shuffle names in an order that depends on the seed and the names, not on the order of the list."""
    return sorted(names, key=lambda name: stream("split", seed, name).random())


def split_objects(cutouts: dict[str, Cutout], seed: int, folder: str) -> tuple[list[str], list[str]]:
    """Split the nouns: those of training, and those withheld from it.

    Raises:
        ValueError: too few captions for both splits; names the folder.
    """
    nouns = _shuffled(seed, list(cutouts))
    num_withheld = max(2, round(WITHHELD_FRACTION * len(nouns)))
    training_heads, withheld_heads = (
        {head(noun) for noun in nouns[num_withheld:]},
        {head(noun) for noun in nouns[:num_withheld]},
    )
    if len(training_heads) < 6 or len(withheld_heads) < 2:
        raise ValueError(
            f"objects: {folder!r} holds {len(nouns)} captions on transparent PNGs (a.png with a.txt beside it); "
            f"at least 8 are needed, with different last words. {GET_OBJECTS}"
        )
    return sorted(nouns[num_withheld:]), sorted(nouns[:num_withheld])


def split_backgrounds(folder: str, seed: int) -> dict[str, list[str]]:
    """Split a folder's photos; "withheld" has the same as "test".

    Raises:
        ValueError: no such folder, or too few photos; names it and says where to get some.
    """
    _require_folder("backgrounds", folder, GET_BACKGROUNDS)
    names = {os.path.relpath(file, folder): file for file in list_files(folder, (".jpg", ".jpeg", ".png"))}
    if len(names) < 3:
        raise ValueError(
            f"backgrounds: {folder!r} holds {len(names)} JPEG or PNG files; at least 3 are needed. {GET_BACKGROUNDS}"
        )
    order = [names[name] for name in _shuffled(seed, list(names))]
    count = max(1, round(HELD_OUT_FRACTION * len(order)))
    test = order[count : 2 * count]
    return {"validation": order[:count], "test": test, "withheld": test, "train": order[2 * count :]}
