"""Inputs of a predictor: one or many images or texts, and the preprocessing of images.

Letters: S side of the model's images, (h, w) original size of an image.
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
from plugins.data.image_files import read_upright, shrink

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | Tensor  # a file, an image, or (3, h, w) uint8
Pictures: TypeAlias = Picture | Iterable[Picture]  # a tensor (n, 3, h, w) is n images
Texts: TypeAlias = str | Iterable[str]
T = TypeVar("T")
MAX_ASPECT_RATIO = 8  # of longer images the middle is used
LABELS = "{labels}"  # where a prompt has the class's name


def pictures_of(given: Pictures) -> Iterator[Picture]:
    """Iterate over one or many images, (3, h, w) each if they are tensors, without reading files."""
    if isinstance(given, (str, os.PathLike, Image.Image)) or (isinstance(given, Tensor) and given.ndim == 3):
        return iter([given])
    return iter(given)


def texts_of(given: Texts) -> list[str]:
    """List one or many texts.

    Raises:
        ValueError: an item is not a string.
    """
    texts = [given] if isinstance(given, str) else list(given)
    if wrong := [type(text).__name__ for text in texts if not isinstance(text, str)]:
        raise ValueError(f"a text is a string, got {wrong[0]}")
    return texts


def fill_prompts(names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Fill every name into every prompt; texts are ordered by prompt, then by name.

    Raises:
        ValueError: there are no names, a name is repeated, or a prompt has no placeholder.
    """
    if not names:
        raise ValueError("there are no classes to choose from")
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise ValueError(f"classes: {twice[0]!r} is there twice")
    if plain := [prompt for prompt in prompts if LABELS not in prompt]:
        raise ValueError(f"prompts: {plain[0]!r} has no {LABELS}, where the class's name belongs")
    return [prompt.replace(LABELS, name) for prompt in prompts for name in names]


def chunks(many: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split into lists of ``size``, and take no item before its list is due."""
    rest = iter(many)
    while chunk := list(islice(rest, size)):
        yield chunk


def preprocess(picture: Picture, sizes: ModelSpec) -> Tensor:
    """Convert an image to the model's input in evaluation, (3, S, S) uint8.

    Rotated by its EXIF orientation; CMYK, palettes, grey, 16 bits and transparency as in plugins.data.image_files.rgb.
    With ``sizes.crop`` the short side is resized to S and the center cropped, else the whole is resized to the square,
    as data parts do with held-out images; bicubic, antialiased.

    Raises:
        ValueError: the image is invalid; names its file.
    """
    side = sizes.image_size
    room = side if sizes.crop else ceil(side * sqrt(2))  # as data parts: crops of half the area have S x S pixels
    if isinstance(picture, (str, os.PathLike)):
        pixels = read_upright(os.fspath(picture), room).pixels  # (h, w, 3)
    else:
        pixels = shrink(_to_pil(picture), room)
    image = torch.from_numpy(pixels).permute(2, 0, 1)  # (3, h, w)
    if not sizes.crop:
        return squared(image, side)
    short, long = sorted(image.shape[1:])
    if long > MAX_ASPECT_RATIO * short:  # crop first: a resized strip would not fit into memory
        image = functional.center_crop(image, [min(edge, MAX_ASPECT_RATIO * short) for edge in image.shape[1:]])
    if short < side:
        image = functional.resize(image, [side], functional.InterpolationMode.BICUBIC)
    return functional.center_crop(image, [side, side])


def _to_pil(picture: Image.Image | Tensor) -> Image.Image:
    """Convert a tensor (3, h, w) uint8 to a PIL image.

    Raises:
        ValueError: neither such a tensor nor a PIL image.
    """
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, Tensor):
        raise ValueError(f"an image is a path, a PIL image or a tensor, got {type(picture).__name__}")
    if picture.dtype != torch.uint8 or picture.ndim != 3 or len(picture) != 3 or 0 in picture.shape:
        shape = " x ".join(map(str, picture.shape))
        raise ValueError(f"an image as a tensor is 3 x height x width of uint8, got {shape} of {picture.dtype}")
    return Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()))
