"""What ``cutouts`` reads from a user's folders, and how it is split."""

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

UNSEEN = 0.15  # share of the captions that training never shows
HELD_OUT = 0.1  # share of the backgrounds kept for validation, and again for test
SIDES = (0.24, 0.27, 0.3)  # longest side of an object as a share of the picture's side
ROOM = 1.25  # short side of a stored background, of which pictures show a part, as a share of the picture's side
GET_OBJECTS = (
    "On Debian or Ubuntu: apt-get install tuxpaint-stamps-default, then data.objects=/usr/share/tuxpaint/stamps"
)
GET_BACKGROUNDS = (
    "On Debian or Ubuntu: apt-get install scratch, then data.backgrounds= its Media/Backgrounds folder "
    "(dpkg -L scratch | grep Backgrounds)"
)


@dataclass
class Cutout:
    """All pictures with one caption, in every size."""

    spec: ObjectSpec
    sprites: list[Sprite]


def head(noun: str) -> str:
    return noun.split()[-1]


def _need(setting: str, folder: str, hint: str) -> None:
    if not folder or not paths.isdir(folder):
        raise ValueError(f"{setting}: {f'no folder {folder!r}' if folder else 'no folder is set'}. {hint}")


def list_files(folder: str, endings: tuple[str, ...]) -> list[str]:
    """Files of a folder and its subfolders, in order of their paths."""
    found = []
    for name in sorted(paths.ls(folder)):
        path = os.path.join(folder, name)
        if paths.isdir(path):
            found += list_files(path, endings)
        elif name.lower().endswith(endings):
            found.append(path)
    return found


def read_caption(file: str) -> tuple[str, str]:
    """A caption file's first line in lower case as its article, "" where there is none, and the rest.

    "An abalone." gives "an" and "abalone".

    Raises:
        ValueError: not readable as UTF-8, or the line is empty; names the file.
    """
    words = read_text(file).lstrip("\ufeff").partition("\n")[0].strip().rstrip(".").lower().split()
    article = words.pop(0) if words and words[0] in ("a", "an", "the", "some") else ""
    if not words:
        raise ValueError(f"{file}:1: the caption is empty; expected a phrase such as 'An abalone.'")
    return article, " ".join(words)


def read_objects(folder: str, image_size: int) -> dict[str, Cutout]:
    """The captioned PNGs of a folder by noun, each cut to what is visible and brought to its working sizes.

    Raises:
        ValueError: no such folder, or a file cannot be used; names it.
    """
    _need("objects", folder, GET_OBJECTS)
    cutouts: dict[str, Cutout] = {}
    for file in list_files(folder, (".png",)):
        beside = os.path.splitext(file)[0] + ".txt"
        if not paths.exists(beside):
            continue
        article, noun = read_caption(beside)
        image = read_rgba(file, ("PNG",))
        image = image.crop(image.getchannel("A").getbbox())
        cutout = cutouts.setdefault(noun, Cutout(ObjectSpec(noun, noun, article), []))
        for side in SIDES:
            scale = side * image_size / max(image.size)
            sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            try:
                cutout.sprites.append(make_sprite(np.asarray(image.resize(sides, Image.Resampling.BICUBIC))))
            except ValueError as err:
                raise ValueError(f"{file}: {err}") from err
    return cutouts


def read_background(file: str, image_size: int) -> NDArray[np.uint8]:
    """(3, h, w), its short side a little longer than the picture's."""
    image = read_rgba(file, ("JPEG", "PNG")).convert("RGB")
    scale = ROOM * image_size / min(image.size)
    image = image.resize((ceil(image.width * scale), ceil(image.height * scale)), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _shuffled(seed: int, names: Sequence[str]) -> list[str]:
    """In an order that depends on the seed and on the names, not on how they were listed."""
    return sorted(names, key=lambda name: stream("split", seed, name).random())


def split_objects(cutouts: dict[str, Cutout], seed: int, folder: str) -> tuple[list[str], list[str]]:
    """Nouns that training shows, and nouns that it never shows.

    Raises:
        ValueError: too few captions to compose pictures of both; names the folder.
    """
    nouns = _shuffled(seed, list(cutouts))
    unseen = max(2, round(UNSEEN * len(nouns)))
    seen_heads, unseen_heads = {head(noun) for noun in nouns[unseen:]}, {head(noun) for noun in nouns[:unseen]}
    if len(seen_heads) < 6 or len(unseen_heads) < 2:
        raise ValueError(
            f"objects: {folder!r} holds {len(nouns)} captions on transparent PNGs (a.png with a.txt beside it); "
            f"at least 8 are needed, with different last words. {GET_OBJECTS}"
        )
    return sorted(nouns[unseen:]), sorted(nouns[:unseen])


def split_backgrounds(folder: str, seed: int) -> dict[str, list[str]]:
    """A folder's photos by split; "withheld" has those of "test".

    Raises:
        ValueError: no such folder, or too few photos; names it and says where to get some.
    """
    _need("backgrounds", folder, GET_BACKGROUNDS)
    names = {os.path.relpath(file, folder): file for file in list_files(folder, (".jpg", ".jpeg", ".png"))}
    if len(names) < 3:
        raise ValueError(
            f"backgrounds: {folder!r} holds {len(names)} JPEG or PNG files; at least 3 are needed. {GET_BACKGROUNDS}"
        )
    order = [names[name] for name in _shuffled(seed, list(names))]
    held = max(1, round(HELD_OUT * len(order)))
    test = order[held : 2 * held]
    return {"validation": order[:held], "test": test, "withheld": test, "train": order[2 * held :]}
