"""Annotation files in the public formats, recognised by their structure and read record by record.

COCO's captions and instances; Karpathy's splits of COCO and Flickr30k; Visual Genome's region descriptions and objects;
and plain lists of {image, caption}, the format of Conceptual Captions and SBU in ALBEF and mPLUG.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from core.files import paths
from plugins.data.annotations import formats
from plugins.data.annotations.formats import RecordReader, Role
from plugins.data.annotations.records import Records, short_repr
from plugins.data.bad_records import BadRecord, BadRecords
from plugins.data.image_files import read_bytes
from registry import near

MAX_BYTES = 2**31  # of an annotation file
PROBED_RECORDS = 10  # by which a file's format is recognised
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


def read_annotations(file: str, role: Role, records: Records, budget: float) -> BadRecords:
    """Add the captions or boxes of a file to ``records``.

    Args:
        role: "captions" or "boxes".
        budget: share of its records that may be bad; they are skipped, counted and logged.

    Raises:
        ValueError: in none of the accepted formats, or too many records are bad; names the file.
    """
    document = load_json(file)
    read = _reader(document, role)
    if read is None:
        raise ValueError(f"{file}: {_describe(document)} is no file of {role}; accepted: {SHAPES[role]}")
    bad = BadRecords()
    records.begin_file()
    read(document, role, records, RecordReader(file, bad))
    bad.check_budget(file, budget)
    return bad


def load_json(file: str) -> Any:
    """Load a JSON document in UTF-8.

    Raises:
        ValueError: no such file, too large, not UTF-8 or not JSON; names the file and the place in it.
    """
    try:
        content = read_bytes(file, MAX_BYTES)
    except BadRecord as err:
        raise ValueError(f"{file}: {err}{similar_name(file) if err.kind == 'missing file' else ''}") from err
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


def similar_name(path: str) -> str:
    """Return a hint for a missing path: ". Did you mean 'captions.json'?", or "; no folder ..."."""
    folder, name = os.path.split(path.rstrip("/"))
    if not paths.isdir(folder or "."):
        return f"; no folder {folder!r}"
    hint = near(name, sorted(paths.ls(folder or ".")))
    return f".{hint}" if hint else ""


def _describe(document: Any) -> str:
    """Describe a document's structure in a few words."""
    if isinstance(document, dict):
        return f"a mapping with the keys {short_repr(list(document))}"
    if isinstance(document, list):
        first = document[0] if document else None
        entries = f"mappings with the keys {short_repr(list(first))}" if isinstance(first, dict) else short_repr(first)
        return f"a list of {entries}"
    return short_repr(document)


def _reader(document: Any, role: Role) -> Callable[[Any, Role, Records, RecordReader], None] | None:
    """Choose the reader for a document's format; None: no reader fits."""

    def has(items: Any, *keys: str) -> bool:
        some = items[:PROBED_RECORDS] if isinstance(items, list) else []
        return any(isinstance(item, dict) and all(key in item for key in keys) for item in some)

    if isinstance(document, dict):
        if has(document.get("images"), "filename", "sentences"):
            return formats.karpathy if role == "captions" else None
        content = "caption" if role == "captions" else "bbox"
        return formats.coco if has(document.get("annotations"), "image_id", content) and "images" in document else None
    if has(document, "regions"):
        return formats.vg_regions
    if has(document, "objects"):
        return formats.vg_objects if role == "boxes" else None
    return formats.pairs if has(document, "image", "caption") and role == "captions" else None
