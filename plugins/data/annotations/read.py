"""Annotation files as the public ones are, recognised by their shape and read record by record.

COCO's captions and instances; Karpathy's splits of COCO and Flickr30k; Visual Genome's region descriptions and objects;
and plain lists of {image, caption}, as ALBEF and mPLUG keep Conceptual Captions and SBU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from core.files import paths
from plugins.data.annotations import formats
from plugins.data.annotations.formats import RecordReader, Role
from plugins.data.annotations.records import Records, shown
from plugins.data.bad_records import Fault, Faults
from plugins.data.image_files import read_bytes
from registry import near

MOST_BYTES = 2**31  # of an annotation file
LOOKED_AT = 10  # records by which a file's shape is recognised
SHAPES = {
    "captions": (
        "COCO captions {images, annotations: [{image_id, caption}]}, Karpathy's {images: [{filename, sentences, "
        "split}]}, Visual Genome regions [{id, regions: [{phrase}]}], or [{image, caption}]"
    ),
    "boxes": (
        "COCO instances {images, categories, annotations: [{image_id, category_id, bbox}]}, Visual Genome regions "
        "[{id, regions: [{x, y, width, height, phrase}]}] or objects [{image_id, objects: [{x, y, w, h, names}]}]"
    ),
}


def read_annotations(file: str, role: Role, records: Records, budget: float) -> Faults:
    """Add what a file says of pictures.

    Args:
        role: what is wanted of it: its captions or its boxes.
        budget: share of its records that may be bad; they are skipped, counted and logged.

    Raises:
        ValueError: not to be read as one of the accepted shapes, or too much of it is bad; names the file.
    """
    document = load_json(file)
    read = _reader(document, role)
    if read is None:
        raise ValueError(f"{file}: {_found(document)} is no file of {role}; accepted: {SHAPES[role]}")
    faults = Faults()
    records.begin_file()
    read(document, role, records, RecordReader(file, faults))
    faults.settle(file, budget)
    return faults


def load_json(file: str) -> Any:
    """A JSON document in UTF-8.

    Raises:
        ValueError: no such file, too large, not UTF-8 or not JSON; names the file and the place in it.
    """
    try:
        content = read_bytes(file, MOST_BYTES)
    except Fault as err:
        raise ValueError(f"{file}: {err}{beside(file) if err.kind == 'missing file' else ''}") from err
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as err:
        raise ValueError(f"{file}: is not UTF-8: byte {err.start} is {content[err.start]:#04x}") from err
    del content
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as err:
        cut = " (the file is cut off)" if err.pos >= len(text.rstrip()) or "Unterminated" in err.msg else ""
        raise ValueError(f"{file}:{err.lineno}:{err.colno}: is not JSON: {err.msg}{cut}") from err
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{file}: is not JSON that can be read: {err}") from err


def beside(path: str) -> str:
    """What is there under a similar name: ". Did you mean 'captions.json'?", or that the folder is not there either."""
    folder, name = os.path.split(path.rstrip("/"))
    if not paths.isdir(folder or "."):
        return f"; no folder {folder!r}"
    hint = near(name, sorted(paths.ls(folder or ".")))
    return f".{hint}" if hint else ""


def _found(document: Any) -> str:
    """A document's shape in a few words."""
    if isinstance(document, dict):
        return f"a mapping with the keys {shown(list(document))}"
    if isinstance(document, list):
        first = document[0] if document else None
        return (
            f"a list of {f'mappings with the keys {shown(list(first))}' if isinstance(first, dict) else shown(first)}"
        )
    return shown(document)


def _reader(document: Any, role: Role) -> Callable[[Any, Role, Records, RecordReader], None] | None:
    """Which of the readers below fits; None: none does."""

    def has(items: Any, *keys: str) -> bool:
        some = items[:LOOKED_AT] if isinstance(items, list) else []
        return any(isinstance(item, dict) and all(key in item for key in keys) for item in some)

    if isinstance(document, dict):
        if has(document.get("images"), "filename", "sentences"):
            return formats.karpathy if role == "captions" else None
        wanted = "caption" if role == "captions" else "bbox"
        return formats.coco if has(document.get("annotations"), "image_id", wanted) and "images" in document else None
    if has(document, "regions"):
        return formats.vg_regions
    if has(document, "objects"):
        return formats.vg_objects if role == "boxes" else None
    return formats.pairs if has(document, "image", "caption") and role == "captions" else None
