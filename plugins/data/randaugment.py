"""RandAugment (Cubuk et al. 2020) with the operations of ALBEF: no colour, invert, posterize or solarize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import atan, degrees

from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional

MAGNITUDE = 0.7  # 7 on RandAugment's scale of 10
ENHANCE_FACTOR = 0.1 + 1.8 * MAGNITUDE  # of brightness and sharpness
MAX_SHEAR = 0.3 * MAGNITUDE  # displacement in pixels for each pixel of distance
MAX_SHIFT = 10 / 256 * MAGNITUDE  # fraction of the image's side
MAX_ANGLE = 30 * MAGNITUDE  # degrees
FILL_COLOUR = [128.0, 128.0, 128.0]  # of the area that a transformed image does not cover


def affine(
    image: Tensor, *, angle: float = 0, shift: Sequence[float] = (0, 0), shear: Sequence[float] = (0, 0)
) -> Tensor:
    """Transform ``image`` (3, H, W): angles in degrees, ``shift`` (x, y) as fractions of W and H."""
    pixels = [shift[0] * image.shape[-1], shift[1] * image.shape[-2]]
    return functional.affine(
        image, angle, pixels, 1.0, list(shear), functional.InterpolationMode.BILINEAR, fill=FILL_COLOUR
    )


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {  # arguments: image (3, H, W), sign
    "identity": lambda image, sign: image,
    "autocontrast": lambda image, sign: functional.autocontrast(image),
    "equalize": lambda image, sign: functional.equalize(image),
    "brightness": lambda image, sign: functional.adjust_brightness(image, ENHANCE_FACTOR),
    "sharpness": lambda image, sign: functional.adjust_sharpness(image, ENHANCE_FACTOR),
    "shear_x": lambda image, sign: affine(image, shear=(sign * degrees(atan(MAX_SHEAR)), 0)),
    "shear_y": lambda image, sign: affine(image, shear=(0, sign * degrees(atan(MAX_SHEAR)))),
    "translate_x": lambda image, sign: affine(image, shift=(sign * MAX_SHIFT, 0)),
    "translate_y": lambda image, sign: affine(image, shift=(0, sign * MAX_SHIFT)),
    "rotate": lambda image, sign: affine(image, angle=sign * MAX_ANGLE),
}


def rand_augment(image: Tensor, rng: Generator, count: int = 2) -> Tensor:
    """Apply ``count`` operations, drawn with replacement, each with probability 1/2: (3, H, W) uint8 -> (3, H, W)."""
    names = list(OPERATIONS)
    for _ in range(count):
        name, applied, sign = names[rng.integers(len(names))], rng.random() < 0.5, 1 if rng.random() < 0.5 else -1
        if applied:
            image = OPERATIONS[name](image, sign)
    return image
