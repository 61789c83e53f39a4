"""RandAugment (Cubuk et al. 2020) as ALBEF and mPLUG set it for captions: nothing that turns or inverts colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import atan, degrees

from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional

MAGNITUDE = 0.7  # 7 of 10
FACTOR = 0.1 + 1.8 * MAGNITUDE  # of brightness and sharpness
SHEAR = 0.3 * MAGNITUDE  # pixels to a pixel
SHIFT = 10 / 256 * MAGNITUDE  # of the picture's side
ANGLE = 30 * MAGNITUDE  # degrees
GREY = [128.0, 128.0, 128.0]  # where a moved picture leaves room


def moved(
    image: Tensor, *, angle: float = 0, shift: Sequence[float] = (0, 0), shear: Sequence[float] = (0, 0)
) -> Tensor:
    """``angle`` and ``shear`` (x, y) in degrees; ``shift`` (x, y) as shares of the sides of ``image`` (3, H, W)."""
    pixels = [shift[0] * image.shape[-1], shift[1] * image.shape[-2]]
    return functional.affine(image, angle, pixels, 1.0, list(shear), functional.InterpolationMode.BILINEAR, fill=GREY)


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {  # of a picture and a sign
    "identity": lambda image, sign: image,
    "autocontrast": lambda image, sign: functional.autocontrast(image),
    "equalize": lambda image, sign: functional.equalize(image),
    "brightness": lambda image, sign: functional.adjust_brightness(image, FACTOR),
    "sharpness": lambda image, sign: functional.adjust_sharpness(image, FACTOR),
    "shear_x": lambda image, sign: moved(image, shear=(sign * degrees(atan(SHEAR)), 0)),
    "shear_y": lambda image, sign: moved(image, shear=(0, sign * degrees(atan(SHEAR)))),
    "translate_x": lambda image, sign: moved(image, shift=(sign * SHIFT, 0)),
    "translate_y": lambda image, sign: moved(image, shift=(0, sign * SHIFT)),
    "rotate": lambda image, sign: moved(image, angle=sign * ANGLE),
}


def rand_augment(image: Tensor, rng: Generator, count: int = 2) -> Tensor:
    """``count`` operations drawn with replacement, each carried out with probability 1/2. (3, H, W) uint8 both."""
    names = list(OPERATIONS)
    for _ in range(count):
        name, carried_out, sign = names[rng.integers(len(names))], rng.random() < 0.5, 1 if rng.random() < 0.5 else -1
        if carried_out:
            image = OPERATIONS[name](image, sign)
    return image
