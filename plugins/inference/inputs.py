"""What the verbs of a model take: one picture or text, or many, from anywhere.

Letters: S the side of the model's pictures, (h, w) a picture's own size.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import ceil, sqrt
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from core.model import ModelSpec
from plugins.data.augment import squared
from plugins.data.image_files import read_rgb, shrink

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | Tensor  # a file, or a picture, or (3, h, w) uint8
Pictures: TypeAlias = Picture | Iterable[Picture]  # a tensor (n, 3, h, w) is n pictures
Texts: TypeAlias = str | Iterable[str]
T = TypeVar("T")
THIN = 8  # times its short side: of a longer strip the middle is looked at
LABELS = "{labels}"  # where a prompt has the class's name


def pictures_of(given: Pictures) -> Iterator[Picture]:
    """One picture or many as many, none of them read."""
    if isinstance(given, (str, os.PathLike, Image.Image)) or (isinstance(given, Tensor) and given.ndim == 3):
        return iter([given])
    return iter(given)


def texts_of(given: Texts) -> list[str]:
    """One text or many as many.

    Raises:
        ValueError: something among them is no text.
    """
    texts = [given] if isinstance(given, str) else list(given)
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"a text is a string, got {type(wrong).__name__}")
    return texts


def asked(names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Every name in every prompt, the names of a prompt together.

    Raises:
        ValueError: there are no names, or one twice, or a prompt without a place for it.
    """
    if not names:
        raise ValueError("there are no classes to choose from")
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise ValueError(f"classes: {twice[0]!r} is there twice")
    if plain := [prompt for prompt in prompts if LABELS not in prompt]:
        raise ValueError(f"prompts: {plain[0]!r} has no {LABELS}, where the class's name belongs")
    return [prompt.replace(LABELS, name) for prompt in prompts for name in names]


def chunks(many: Iterable[T], size: int) -> Iterator[list[T]]:
    """``size`` at a time; no more of them are asked for than that."""
    rest = iter(many)
    while chunk := list(islice(rest, size)):
        yield chunk


def prepared(picture: Picture, sizes: ModelSpec) -> Tensor:
    """A picture as the model was measured with, (3, S, S) uint8, whatever it came in.

    The right way up, as its metadata say; CMYK, palettes, grey, 16 bits and transparency as in
    plugins.data.image_files.rgb. Where ``sizes.crop`` is set the short side becomes S and the middle is cut out,
    else the
    whole is squeezed to the square as data parts do with held-out pictures; bicubic, with a filter against aliasing.

    Raises:
        ValueError: not such a picture; a file is named.
    """
    side = sizes.image_size
    room = side if sizes.crop else ceil(side * sqrt(2))  # data: crops of half the area have S x S pixels
    if isinstance(picture, (str, os.PathLike)):
        pixels, _ = read_rgb(os.fspath(picture), room, upright=True)  # (h, w, 3)
    else:
        pixels = shrink(_opened(picture), room)
    image = torch.from_numpy(pixels).permute(2, 0, 1)  # (3, h, w)
    if not sizes.crop:
        return squared(image, side)
    short, long = sorted(image.shape[1:])
    if long > THIN * short:  # of a strip, its middle first: enlarged it would not fit into memory
        image = functional.center_crop(image, [min(edge, THIN * short) for edge in image.shape[1:]])
    if short < side:
        image = functional.resize(image, [side], functional.InterpolationMode.BICUBIC)
    return functional.center_crop(image, [side, side])


def _opened(picture: Image.Image | Tensor) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, Tensor):
        raise ValueError(f"a picture is a path, a PIL image or a tensor, got {type(picture).__name__}")
    if picture.dtype != torch.uint8 or picture.ndim != 3 or len(picture) != 3 or 0 in picture.shape:
        shape = " x ".join(map(str, picture.shape))
        raise ValueError(f"a picture as a tensor is 3 x height x width of uint8, got {shape} of {picture.dtype}")
    return Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()))
