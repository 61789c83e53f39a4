"""Augmentation of images with their boxes and texts. All random numbers come from the generator argument."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, floor, log, sqrt

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from core.types import Example
from plugins.data.sides import flip_text, is_mirrorable

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601 luma


@dataclass(frozen=True)
class View:
    """A crop of an image, with the regions that are still visible in it."""

    image: Tensor  # (3, size, size) uint8
    boxes: tv_tensors.BoundingBoxes  # (n, 4) float, x0 y0 x1 y1 in pixels of the view
    kept: tuple[int, ...]  # index of each box's region in the example

    def mirror(self) -> View:
        """Mirror the view horizontally, with its boxes."""
        image, boxes = (functional.horizontal_flip(part) for part in (self.image, self.boxes))
        return View(image, boxes, self.kept)


def flip_some(images: Tensor, texts: list[str], rng: Generator) -> tuple[Tensor, list[str], NDArray[np.bool_]]:
    """Mirror each image (B, 3, H, W) and its text with probability 1/2; never those of an uncertain side.

    Returns:
        images, texts, and (B,) bool, True for each mirrored row.
    """
    flipped = (rng.random(len(texts)) < 0.5) & np.array([is_mirrorable(text) for text in texts], bool)  # (B,)
    mirrored = functional.horizontal_flip(images)
    images = torch.where(torch.from_numpy(flipped)[:, None, None, None], mirrored, images)
    texts = [flip_text(text) if flip else text for text, flip in zip(texts, flipped, strict=True)]
    return images, texts, flipped


def jitter(images: Tensor, rng: Generator, strength: float = 0.2) -> Tensor:
    """Change brightness and contrast of each image; never its hue, because texts name colours.

    Args:
        images: (B, 3, H, W) uint8, or clips (B, T, 3, H, W), whose frames all get the same factors.
        strength: each factor is uniform in [1 - strength, 1 + strength].
    """
    shape = (2, len(images), *[1] * (images.ndim - 1))
    brightness, contrast = torch.from_numpy(rng.uniform(1 - strength, 1 + strength, shape)).float()  # (B, 1, ...) each
    x = images.float()
    grey = (x.mean((-2, -1), keepdim=True) * torch.tensor(LUMA_WEIGHTS).view(3, 1, 1)).sum(
        -3, keepdim=True
    )  # (B, ..., 1, 1, 1)
    # contrast about the mean grey, after brightness: (b x - b grey) c + b grey
    x = x.mul_(brightness * contrast).add_(brightness * grey * (1 - contrast))
    return x.round_().clamp_(0, 255).to(torch.uint8)


def region_view(example: Example, region: int, rng: Generator, size: int, *, least: float = 0.75) -> View:
    """Crop at random around one region's whole box, and resize to (3, size, size).

    As in the region loaders of X-VLM and TiMix; ``least`` is ours. Another region is kept if more than half of its box
    is inside the crop; its box is clipped to the crop.

    Args:
        example: an image (3, H, W) of any size with regions; no box is empty.
        region: index of the region that the crop must contain.
        size: side of the view in pixels.
        least: minimum fraction of the image's width and height in the crop; limits the magnification.
    """
    height, width = (int(n) for n in example.image.shape[-2:])
    x0, y0, x1, y1 = example.regions[region].box
    left, right = _span(x0, x1, width, least, rng)
    top, bottom = _span(y0, y1, height, least, rng)

    boxes = tv_tensors.BoundingBoxes(
        [region.box for region in example.regions], format="XYXY", canvas_size=(height, width), dtype=torch.float32
    )  # (all, 4)
    area = _area(boxes)
    image, boxes = (
        functional.crop(part, top, left, bottom - top, right - left) for part in (example.image, boxes)
    )  # also clips the boxes
    kept = (_area(boxes) > 0.5 * area).nonzero().flatten()  # (n,)
    boxes = tv_tensors.wrap(boxes[kept], like=boxes)  # (n, 4)
    image, boxes = (functional.resize(part, [size, size]) for part in (image, boxes))
    return View(image, boxes, tuple(kept.tolist()))


def random_crop(image: Tensor, rng: Generator, size: int, least: float) -> Tensor:
    """Crop an image (3, H, W) at random and resize it to (3, size, size).

    Args:
        least: the area is uniform in [least, 1] of the image's, the aspect ratio log-uniform in [3/4, 4/3].
    """
    height, width = (int(n) for n in image.shape[-2:])
    down, across = height, width  # the whole image, if none of ten draws fits
    for _ in range(10):
        area, ratio = height * width * rng.uniform(least, 1), exp(rng.uniform(log(3 / 4), log(4 / 3)))
        tried = round(sqrt(area / ratio)), round(sqrt(area * ratio))
        if 0 < tried[0] <= height and 0 < tried[1] <= width:
            down, across = tried
            break
    top, left = (int(rng.integers(0, room, endpoint=True)) for room in (height - down, width - across))
    return squared(functional.crop(image, top, left, down, across), size)


def squared(image: Tensor, size: int) -> Tensor:
    """Resize an image (3, H, W) of any aspect ratio to (3, size, size)."""
    return functional.resize(image, [size, size], functional.InterpolationMode.BICUBIC)


def _span(low: float, high: float, side: int, least: float, rng: Generator) -> tuple[int, int]:
    """Draw a span of whole pixels in [0, side], around [low, high], at least ``least * side`` long."""
    shortest = ceil(least * side)
    start = int(rng.integers(0, min(floor(max(low, 0)), side - shortest), endpoint=True))
    stop = int(rng.integers(max(ceil(min(high, side)), start + shortest), side, endpoint=True))
    return start, stop


def _area(boxes: Tensor) -> Tensor:
    """The areas of boxes, (n, 4) -> (n,)."""
    x0, y0, x1, y1 = boxes.as_subclass(Tensor).unbind(-1)
    return (x1 - x0) * (y1 - y0)
