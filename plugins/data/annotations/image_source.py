"""One source of ``coco``: a folder of pictures with what annotation files say of them, split and read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.files import paths
from core.types import Region
from plugins.data.annotations.read import beside, read_annotations
from plugins.data.annotations.records import ASPECT, BoxLabel, Records, clip
from plugins.data.bad_records import Fault, Faults
from plugins.data.drawing.compositing import fraction, stream
from plugins.data.image_files import read_rgb
from registry.part import NonNegativeFloat

SPLITS = ("train", "validation", "test")
SUBFOLDERS = ("VG_100K", "VG_100K_2")  # where Visual Genome keeps its pictures
PROBED = 5  # pictures of which one must be usable
TRIES = 100  # draws of something that is not in a picture


@dataclass(frozen=True)
class PictureSource:
    """Pictures with annotation files."""

    images: str  # folder
    captions: list[str] = field(default_factory=list)  # files
    boxes: list[str] = field(default_factory=list)  # files
    weight: NonNegativeFloat = 0.0  # of its pictures in a batch; 0 for all sources: in proportion to their pictures

    def files(self, where: str) -> list[tuple[str, str]]:
        """The annotation files, each with its place in the recipe."""
        captions = [(f"{where}.captions[{i}]", file) for i, file in enumerate(self.captions)]
        return captions + [(f"{where}.boxes[{i}]", file) for i, file in enumerate(self.boxes)]

    def absent(self, where: str) -> list[str]:
        """What the source names and is not there."""
        missing = (
            [] if paths.isdir(self.images) else [f"{where}.images: no folder {self.images!r}{beside(self.images)}"]
        )
        return missing + [
            f"{place}: no file {file!r}{beside(file)}" for place, file in self.files(where) if not paths.isfile(file)
        ]


@dataclass(frozen=True)
class Photo:
    """A picture at the size at which it is kept, with its boxes."""

    image: Tensor  # (3, h, w) uint8
    regions: tuple[Region, ...]
    left_out: tuple[str, ...] = ()  # of boxes with nothing inside the picture


class Collection:
    """Numbered pictures of one source.

    Attributes:
        split: (pictures,) index into SPLITS, as a file says, else by a hash of the seed and the file's name: of sources
            whose files name no splits, all have a picture of one name in the same.

    Args:
        where: the source's place in the recipe, for messages.
        held_out: share of the pictures for validation, and as much for test.
        budget: share of a file's records that may be bad.

    Raises:
        ValueError: a file or folder is missing or cannot be used.
    """

    def __init__(self, source: PictureSource, where: str, seed: int, held_out: float, budget: float):
        self.where, self.folder, self.seed = where, source.images, seed
        if missing := source.absent(where):
            raise ValueError("; ".join(missing))
        if not source.captions and not source.boxes:
            raise ValueError(f"{where}: names neither captions nor boxes")
        roots = [os.path.join(source.images, name) for name in SUBFOLDERS]
        self._roots = [source.images, *(root for root in roots if paths.isdir(root))]
        self.records, self.faults = Records(), Faults()
        for file in source.captions:
            self.faults.merge(read_annotations(file, "captions", self.records, budget))
        for file in source.boxes:
            self.faults.merge(read_annotations(file, "boxes", self.records, budget))
        self.records.pack()
        self.split = self._split(held_out)

    def _split(self, share: float) -> NDArray[np.int8]:
        split = np.zeros(len(self.records.names), np.int8)
        said = self.records.split
        for number, name in enumerate(self.records.names):
            if number in said:
                split[number] = SPLITS.index(said[number])
            elif share:
                place = self.lot(name)
                split[number] = 1 if place < share else 2 if place < 2 * share else 0
        return split

    def lot(self, name: str) -> float:
        """A number in [0, 1) that hangs on the seed and the file's own name."""
        return fraction(self.seed, "split", os.path.basename(name))

    def in_split(self, split: str, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some pictures that are in a split."""
        return chosen[self.split[chosen] == SPLITS.index(split)]

    def file(self, number: int) -> str:
        """A picture's path; where several folders are searched, that of the first that has it."""
        files = [os.path.join(root, self.records.names[number]) for root in self._roots]
        return files[0] if len(files) == 1 else next(filter(paths.isfile, files), files[0])

    def probe(self, room: int) -> None:
        """See whether any of a few pictures can be used.

        Raises:
            ValueError: none can.
        """
        count, faults = len(self.records.names), Faults()
        if not count:
            raise ValueError(f"{self.where}: its files name no picture")
        for number in range(0, count, -(-count // PROBED)):
            try:
                self.photo(number, room)
                return
            except Fault as fault:
                faults.add(fault.kind, str(fault))
        raise ValueError(f"{self.where}: none of {faults.count} pictures tried can be used: {faults}")

    def photo(self, number: int, room: int) -> Photo:
        """A picture with its boxes.

        Args:
            room: a picture whose short side is longer is kept at this.

        Raises:
            Fault: it cannot be used, or is none that its boxes can speak of.
        """
        file = self.file(number)
        pixels, (width, height) = read_rgb(file, room)  # (h, w, 3)
        said = self.records.sizes.get(number, (width, height))
        if abs(said[0] * height / (said[1] * width) - 1) > ASPECT:
            sizes = f"{width} x {height} pixels, and its record says {said[0]:g} x {said[1]:g}"
            raise Fault("size differs", f"{file}: has {sizes}: not the same proportions")
        scale = pixels.shape[1] / said[0], pixels.shape[0] / said[1]
        regions, left_out = [], []
        for spoken in self.records.spoken(number):
            try:
                box = clip(spoken.box, *said)
            except Fault as fault:
                left_out.append(f"{file}: {spoken.phrase!r}: {fault}")
                continue
            regions.append(_region(box, scale, spoken))
        if left_out and not regions:
            raise Fault("box outside the picture", f"none of its {len(left_out)} boxes is inside: {left_out[0]}")
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, h, w)
        return Photo(image, tuple(regions), tuple(left_out))

    def absent(self, number: int, regions: tuple[Region, ...]) -> str:
        """A class that a picture shows nothing of, or a phrase of another picture; "": none was found.

        The captions do not name it either, and no crowd without boxes is of it.
        """
        if not regions:
            return ""
        rng = stream("absent", self.seed, self.records.names[number])
        there = {region.phrase for region in regions} | self.records.crowds.get(number, set())
        said = " ".join(self.records.captions_of(number)).lower()
        pool = self.records.classes if regions[0].label else self.records.phrases
        drawn = (rng.choice(pool) for _ in range(TRIES))
        return next((phrase for phrase in drawn if phrase not in there and phrase.lower() not in said), "")


def _region(box: tuple[float, float, float, float], scale: tuple[float, float], spoken: BoxLabel) -> Region:
    x0, y0, x1, y1 = box
    return Region((x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]), spoken.phrase, spoken.label)
