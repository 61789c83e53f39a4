"""Augmentation of pictures, their boxes and their texts together. All chance comes from the generator passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil, exp, floor, log, sqrt

import torch
from numpy.random import Generator
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from core.types import Example

MIRRORED = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
MIRRORED |= {right: left for left, right in MIRRORED.items()}
SIDE_WORD = re.compile(rf"\b({'|'.join(MIRRORED)})\b")
GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma


@dataclass(frozen=True)
class View:
    """A part of a picture, with the regions that can still be seen in it."""

    image: Tensor  # (3, size, size) uint8
    boxes: Tensor  # (n, 4) float, x0 y0 x1 y1 as shares of the view's width and height
    kept: tuple[int, ...]  # which of the example's regions they belong to
    flipped: bool  # left and right are swapped


def flip_text(text: str) -> str:
    """Swap the words left and right: what a caption says of the mirrored picture."""
    return SIDE_WORD.sub(lambda found: MIRRORED[found[0]], text)


def flip_some(images: Tensor, texts: list[str], rng: Generator) -> tuple[Tensor, list[str]]:
    """Mirror each picture (B, 3, H, W) with probability 1/2, its text with it."""
    flipped = rng.random(len(texts)) < 0.5
    mirrored = functional.horizontal_flip(images)
    images = torch.where(torch.from_numpy(flipped)[:, None, None, None], mirrored, images)
    return images, [flip_text(text) if flip else text for text, flip in zip(texts, flipped, strict=True)]


def jitter(images: Tensor, rng: Generator, strength: float = 0.2) -> Tensor:
    """Another brightness and contrast for each picture; never another hue, since texts name colours.

    Args:
        images: (B, 3, H, W) uint8, or clips (B, T, 3, H, W), whose frames vary alike.
        strength: each factor is uniform in [1 - strength, 1 + strength].
    """
    shape = (2, len(images), *[1] * (images.ndim - 1))
    brightness, contrast = torch.from_numpy(rng.uniform(1 - strength, 1 + strength, shape)).float()  # (B, 1, ...) each
    x = images.float()
    grey = (x.mean((-2, -1), keepdim=True) * torch.tensor(GREY).view(3, 1, 1)).sum(
        -3, keepdim=True
    )  # (B, ..., 1, 1, 1)
    # contrast about the mean grey, after brightness: (b x - b grey) c + b grey
    x = x.mul_(brightness * contrast).add_(brightness * grey * (1 - contrast))
    return x.round_().clamp_(0, 255).to(torch.uint8)


def region_view(
    example: Example, chosen: int, rng: Generator, size: int, *, flip: bool = True, least: float = 0.75
) -> View:
    """A random crop that wholly holds the chosen region's box, resized, and mirrored with probability 1/2.

    As the region loaders of X-VLM and TiMix cut it; ``least`` is ours. Another region is kept when more than half of
    its box is inside the crop, and its box is clipped to the crop.

    Args:
        example: a picture of any size with its regions; boxes have an area.
        chosen: index of the region that must be seen.
        size: side of the view in pixels.
        flip: whether it may be mirrored.
        least: least share of the picture's width and height in the crop, so that little is blown up much.
    """
    height, width = (int(n) for n in example.image.shape[-2:])
    x0, y0, x1, y1 = example.regions[chosen].box
    left, right = _span(x0, x1, width, least, rng)
    top, bottom = _span(y0, y1, height, least, rng)
    flipped = flip and bool(rng.random() < 0.5)

    boxes = tv_tensors.BoundingBoxes(
        [region.box for region in example.regions], format="XYXY", canvas_size=(height, width), dtype=torch.float32
    )  # (all, 4)
    area = _area(boxes)
    image, boxes = (
        functional.crop(part, top, left, bottom - top, right - left) for part in (example.image, boxes)
    )  # boxes come out clipped
    kept = (_area(boxes) > 0.5 * area).nonzero().flatten()  # (n,)
    boxes = tv_tensors.wrap(boxes[kept], like=boxes)  # (n, 4)
    image, boxes = (functional.resize(part, [size, size]) for part in (image, boxes))
    if flipped:
        image, boxes = (functional.horizontal_flip(part) for part in (image, boxes))
    return View(image, boxes.as_subclass(Tensor) / size, tuple(kept.tolist()), flipped)


def random_crop(image: Tensor, rng: Generator, size: int, least: float) -> Tensor:
    """A random part of a picture (3, H, W), resized to (3, size, size).

    Args:
        least: its area is uniform in [least, 1] of the picture's, its proportions log-uniform in [3/4, 4/3].
    """
    height, width = (int(n) for n in image.shape[-2:])
    down, across = height, width  # after ten draws that do not fit: the whole picture
    for _ in range(10):
        area, ratio = height * width * rng.uniform(least, 1), exp(rng.uniform(log(3 / 4), log(4 / 3)))
        tried = round(sqrt(area / ratio)), round(sqrt(area * ratio))
        if 0 < tried[0] <= height and 0 < tried[1] <= width:
            down, across = tried
            break
    top, left = (int(rng.integers(0, room, endpoint=True)) for room in (height - down, width - across))
    return squared(functional.crop(image, top, left, down, across), size)


def squared(image: Tensor, size: int) -> Tensor:
    """A picture (3, H, W) of any proportions as a square (3, size, size)."""
    return functional.resize(image, [size, size], functional.InterpolationMode.BICUBIC)


def _span(low: float, high: float, side: int, least: float, rng: Generator) -> tuple[int, int]:
    """Start and stop of a random whole-pixel span in [0, side] that holds [low, high] and is ``least * side`` long."""
    shortest = ceil(least * side)
    start = int(rng.integers(0, min(floor(max(low, 0)), side - shortest), endpoint=True))
    stop = int(rng.integers(max(ceil(min(high, side)), start + shortest), side, endpoint=True))
    return start, stop


def _area(boxes: Tensor) -> Tensor:
    x0, y0, x1, y1 = boxes.as_subclass(Tensor).unbind(-1)
    return (x1 - x0) * (y1 - y0)
