"""Annotation files in the public formats, recognised by their structure and read record by record.

COCO's captions and instances; Karpathy's splits of COCO and Flickr30k; Visual Genome's region descriptions and objects;
and pairs of image and caption: a JSON list (Conceptual Captions and SBU in ALBEF and mPLUG), JSON lines, CSV or TSV.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from core.files import paths
from plugins.data.annotations import formats, tables
from plugins.data.annotations.formats import PROBED_RECORDS, RecordReader, Role, pair_keys
from plugins.data.annotations.records import Records, short_repr
from plugins.data.bad_records import BadRecord, BadRecords
from plugins.data.image_files import read_bytes
from registry import near
from registry.decoding import decode

MAX_BYTES = 2**31  # of an annotation file
SHAPES = {
    "captions": (
        "COCO captions {images, annotations: [{image_id, caption}]}, Karpathy's {images: [{filename, sentences, "
        "split}]}, Visual Genome regions [{id, regions: [{phrase}]}], or pairs [{image, caption}], also as JSON "
        "lines or as CSV or TSV with a header such as image,caption"
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
    bad = BadRecords()
    document, lines = _load(file, bad)
    try:
        reader = _reader(document, role)
        if reader is None and isinstance(document, dict) and (reader := _reader([document], role)):
            document, lines = [document], [1]  # JSON lines of one line
    except ValueError as err:
        raise ValueError(f"{file}: {err}") from err
    if reader is None:
        raise ValueError(f"{file}: {_describe(document)} is no file of {role}; accepted: {SHAPES[role]}")
    records.begin_file()
    reader(document, role, records, RecordReader(file, bad, lines))
    bad.check_budget(file, budget)
    return bad


def _load(file: str, bad: BadRecords) -> tuple[Any, list[int]]:
    """Load a JSON document; or JSON lines or a table, as records with their lines in the file."""
    text = _read_text(file)
    try:
        return _parse(text, file), []
    except ValueError:
        start = text.lstrip()[:1]
        rows = tables.json_lines(text, file, bad) if start == "{" else None
        if start not in ("{", "["):
            rows = tables.table(text, file, bad)
        if rows is None:
            raise
    if not rows.records:
        bad.check_budget(file, 0)  # raises
    return rows


def load_json(file: str) -> Any:
    """Load a JSON document.

    Raises:
        ValueError: no such file, too large, no text or not JSON; names the file and the place in it.
    """
    return _parse(_read_text(file), file)


def _read_text(file: str) -> str:
    try:
        content = read_bytes(file, MAX_BYTES)
    except BadRecord as err:
        raise ValueError(f"{file}: {err}{similar_name(file) if err.kind == 'missing file' else ''}") from err
    return decode(content, file)


def _parse(text: str, file: str) -> Any:
    try:
        return json.loads(text)
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
    if isinstance(document, dict) and isinstance(document.get("images"), list) and document.get("annotations") == []:
        return "a file whose list of annotations is empty, as that of a test set,"
    if isinstance(document, dict):
        return f"a mapping with the keys {short_repr(list(document))}"
    if isinstance(document, list):
        first = document[0] if document else None
        if isinstance(first, dict) and "conversations" in first:
            return "a list of conversations (LLaVA's format)"
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
        content, annotations = "caption" if role == "captions" else "bbox", document.get("annotations")
        # a file with both captions and boxes may begin with thousands of the other
        fits = isinstance(annotations, list) and any(has([each], "image_id", content) for each in annotations)
        return formats.coco if fits and "images" in document else None
    if has(document, "regions"):
        return formats.vg_regions
    if role == "boxes":
        return formats.vg_objects if has(document, "objects") else None
    if has(document, "filename", "sentences"):
        return formats.karpathy
    return formats.pairs if pair_keys(document) else None
