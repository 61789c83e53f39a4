"""Comparison of an import's outputs with the original library's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-4  # of the largest difference, relative to the largest value where that is above 1


def random_image(height: int, width: int) -> Tensor:
    """Return one image (1, 3, H, W) of random bytes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)


def normalise(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise bytes (B, 3, H, W) as the original libraries do, by mean and deviation of pixels between 0 and 1."""
    return (image / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def random_ids(below: int, length: int) -> Tensor:
    """Return ids (1, L) of words, the same at every call."""
    return torch.randint(1, below, (1, length), generator=torch.Generator().manual_seed(0))


def compare(library: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], on: str) -> str:
    """Compare outputs of the same names and of any shape; returns a line that states the largest difference.

    Raises:
        ValueError: a shape differs, or a difference is above the tolerance.
    """
    largest, relative, place = 0.0, 0.0, ""
    for name, theirs_value in theirs.items():
        if ours[name].shape != theirs_value.shape:
            shapes = f"{tuple(ours[name].shape)} here, {tuple(theirs_value.shape)} there"
            raise ValueError(f"refused: {name} differ from {library}'s: {shapes}")
        difference = float((ours[name].double() - theirs_value.double()).abs().max())
        scale = float(theirs_value.abs().max())
        if not difference / max(1.0, scale) <= relative:  # NaN too
            relative, place = difference / max(1.0, scale), name
        largest = max(largest, difference)
    line = f"compared with {library} on {on}: largest difference {largest:.1e} (relative {relative:.1e}) in "
    if not relative <= TOLERANCE:
        raise ValueError(f"refused: {line}{place}; at most {TOLERANCE:g} is accepted")
    return line + " and ".join(theirs)
