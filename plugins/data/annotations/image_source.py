"""One source of ``coco``: a folder of images with their annotation files, split and read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.files import paths
from core.types import Region
from plugins.data.annotations.orientation import SWAPPED, BoxFrame, box_frame, turn_box
from plugins.data.annotations.read import read_annotations, similar_name
from plugins.data.annotations.records import Box, BoxLabel, Records, clip, plain_path
from plugins.data.bad_records import BadRecord, BadRecords
from plugins.data.drawing.compositing import fraction, stream
from plugins.data.held_out import SPLITS
from plugins.data.image_files import read_upright
from registry.part import NonNegativeFloat

SUBFOLDERS = ("VG_100K", "VG_100K_2")  # of Visual Genome's images
PROBED_IMAGES = 5  # one of them must be usable
MAX_DRAWS = 100  # of a phrase that is not in an image


@dataclass(frozen=True)
class SourceFiles:
    """Names of an image folder and its annotation files, as in a recipe."""

    images: str  # folder
    captions: list[str] = field(default_factory=list)  # files
    boxes: list[str] = field(default_factory=list)  # files
    weight: NonNegativeFloat = (
        0.0  # of its images in a batch; 0 for all sources: in proportion to their numbers of images
    )

    def files(self, where: str) -> list[tuple[str, str]]:
        """List the annotation files, each with its place in the recipe."""
        captions = [(f"{where}.captions[{i}]", file) for i, file in enumerate(self.captions)]
        return captions + [(f"{where}.boxes[{i}]", file) for i, file in enumerate(self.boxes)]

    def absent(self, where: str) -> list[str]:
        """List the files and folders that do not exist, as messages for the user."""
        images, missing = self.images, [(place, file) for place, file in self.files(where) if not paths.isfile(file)]
        folder = [] if paths.isdir(images) else [f"{where}.images: no folder {images!r}{similar_name(images)}"]
        return folder + [f"{place}: no file {file!r}{similar_name(file)}" for place, file in missing]


@dataclass(frozen=True)
class Photo:
    """An image at the size at which it is cached, with its boxes."""

    image: Tensor  # (3, h, w) uint8
    regions: tuple[Region, ...]
    left_out: tuple[str, ...] = ()  # messages about boxes outside the image
    turn_note: tuple[str, str] | None = None  # about its EXIF orientation: the kind and a message


class ImageSource:
    """Numbered images of one source.

    Attributes:
        split: (images,) index into SPLITS: the one in an annotation file, otherwise by a hash of the seed and the
            image's path within the source. ``SharedImages`` changes it where several sources name an image.

    Args:
        where: the source's place in the recipe, for messages.
        held_out: share of the images for validation, and as much for test.
        budget: share of a file's records that may be bad.

    Raises:
        ValueError: a file or folder is missing or cannot be used.
    """

    def __init__(self, source: SourceFiles, where: str, seed: int, held_out: float, budget: float):
        self.where, self.folder, self.seed = where, source.images, seed
        if missing := source.absent(where):
            raise ValueError("; ".join(missing))
        if not source.captions and not source.boxes:
            raise ValueError(f"{where}: names neither captions nor boxes")
        self._prefix = os.path.join(os.path.abspath(source.images), "")
        roots = [os.path.join(source.images, name) for name in SUBFOLDERS]
        self._roots = [source.images, *(root for root in roots if paths.isdir(root))]
        self.records, self.bad = Records(), BadRecords()
        for file in source.captions:
            self.bad.merge(read_annotations(file, "captions", self.records, budget))
        for file in source.boxes:
            self.bad.merge(read_annotations(file, "boxes", self.records, budget))
        self.records.pack()
        self.split = self._split(held_out)

    def _split(self, share: float) -> NDArray[np.int8]:
        split = np.zeros(len(self.records.names), np.int8)
        named = self.records.split
        for number, name in enumerate(self.records.names):
            if number in named:
                split[number] = SPLITS.index(named[number])
            elif share:
                place = self.hash_fraction(name)
                split[number] = 1 if place < share else 2 if place < 2 * share else 0
        return split

    def path(self, name: str) -> str:
        """Return an image's path within the source, in one spelling."""
        return plain_path(name).removeprefix(self._prefix)

    def hash_fraction(self, name: str) -> float:
        """Return a number in [0, 1) that depends on the seed and the image's path within the source only."""
        return fraction(self.seed, "split", self.path(name))

    def in_split(self, split: str, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Select the images that are in a split."""
        return chosen[self.split[chosen] == SPLITS.index(split)]

    def file(self, number: int) -> str:
        """Return an image's path: the first one that exists if several folders are searched."""
        files = [os.path.join(root, self.records.names[number]) for root in self._roots]
        return files[0] if len(files) == 1 else next(filter(paths.isfile, files), files[0])

    def probe(self, max_short_side: int) -> None:
        """Read a few images until one can be used.

        Raises:
            ValueError: none of them can.
        """
        count, bad = len(self.records.names), BadRecords()
        if not count:
            raise ValueError(f"{self.where}: its files name no image")
        for number in range(0, count, -(-count // PROBED_IMAGES)):
            try:
                self.photo(number, max_short_side)
                return
            except BadRecord as err:
                bad.add(err.kind, str(err))
        raise ValueError(f"{self.where}: none of {bad.count} images read can be used: {bad}")

    def photo(self, number: int, max_short_side: int) -> Photo:
        """Read an image with its boxes.

        Args:
            max_short_side: pixels; an image whose short side is longer is reduced to this.

        Raises:
            BadRecord: it cannot be used, or its proportions differ from those in its record.
        """
        file, box_labels = self.file(number), self.records.box_labels(number)
        image = read_upright(file, max_short_side)
        try:
            frame = box_frame(image, self.records.sizes.get(number), [each.box for each in box_labels])
        except BadRecord as err:
            raise BadRecord(err.kind, f"{file}: {err}") from err
        regions, left_out = [], []
        for box_label in box_labels:
            try:
                box = clip(box_label.box, *frame.size)
            except BadRecord as err:
                left_out.append(f"{file}: {box_label.phrase!r}: {err}")
                continue
            regions.append(_region(box, frame, image.pixels, box_label))
        if left_out and not regions:
            raise BadRecord("box outside the picture", f"none of its {len(left_out)} boxes is inside: {left_out[0]}")
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1).contiguous()  # (3, h, w)
        return Photo(
            pixels, tuple(regions), tuple(left_out), frame.note and (frame.note[0], f"{file}: {frame.note[1]}")
        )

    def absent(self, number: int, regions: tuple[Region, ...], others: Sequence[tuple[ImageSource, int]] = ()) -> str:
        """Draw a class that is not in the image, or a phrase of another image; "" if none was found.

        It does not occur in the captions, and no crowd without boxes has its class.

        Args:
            others: sources that name the image too, each with its number there.
        """
        if not regions:
            return ""
        rng = stream("absent", self.seed, self.path(self.records.names[number]))
        there, captions = {region.phrase for region in regions}, ""
        for source, i in [(self, number), *others]:
            records = source.records
            there |= records.crowds.get(i, set()).union(*((box.phrase, box.label) for box in records.box_labels(i)))
            captions += " ".join(records.captions_of(i)).lower() + " "
        pool = self.records.classes if regions[0].label else self._sorted_phrases
        drawn = (rng.choice(pool) for _ in range(MAX_DRAWS))
        return next((phrase for phrase in drawn if phrase not in there and phrase.lower() not in captions), "")

    @cached_property
    def _sorted_phrases(self) -> list[str]:
        """Phrases of all boxes, frequent ones repeated, in an order that does not depend on that of the files."""
        return sorted(self.records.phrases)


def _region(box: Box, frame: BoxFrame, pixels: NDArray[np.uint8], box_label: BoxLabel) -> Region:
    """Turn a box upright and scale it to the pixels (h, w, 3)."""
    x0, y0, x1, y1 = turn_box(box, frame.size, frame.orientation)
    width, height = frame.size[::-1] if frame.orientation in SWAPPED else frame.size
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    return Region((x0 * across, y0 * down, x1 * across, y1 * down), box_label.phrase, box_label.label)
