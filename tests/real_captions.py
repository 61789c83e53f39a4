"""COCO's human captions, for tests of caption metrics."""

from __future__ import annotations

import json
from pathlib import Path

from plugins.metrics.caption_scores import tokenise

REAL = Path(__file__).parents[1].parent / "shared/data/coco/captions.json"


def real_photos() -> list[list[list[str]]]:
    """The five captions of each of 100 photos."""
    photos: dict[int, list[list[str]]] = {}
    for record in json.loads(REAL.read_text())["annotations"]:
        photos.setdefault(record["image_id"], []).append(tokenise(record["caption"]))
    return list(photos.values())


def held_out(photos, place):
    """One caption of each photo, and the others."""
    return [photo[place] for photo in photos], [photo[:place] + photo[place + 1 :] for photo in photos]
