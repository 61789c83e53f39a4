"""The shapes of public annotation files: one reader each, from a JSON document to records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from plugins.data.annotations.ids import Id, IdTable, id_of
from plugins.data.annotations.records import Records, box_of, is_number, name_of, plain_path, short_repr, text_of
from plugins.data.annotations.tables import CAPTION_KEYS, IMAGE_KEYS, pick
from plugins.data.bad_records import BadRecord, BadRecords

KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
PAIR_SPLITS = KARPATHY_SPLITS | {"validation": "validation", "valid": "validation", "dev": "validation"}

PROBED_RECORDS = 10  # by which a file's format is recognised

Role = Literal["captions", "boxes"]


class RecordReader:
    """Reads the records of one file one by one, and counts the bad ones.

    Args:
        lines: of the records in the file, for messages; empty: they are named by their index.
    """

    def __init__(self, file: str, bad: BadRecords, lines: Sequence[int] = ()):
        self.file, self.bad, self.lines = file, bad, lines

    def each(self, items: Any, path: str, read: Callable[[Any, str], None], expected: type = dict) -> None:
        """Call ``read`` with each item and its path, such as "annotations[3]"; count and skip those that raise."""
        if not isinstance(items, list):
            self.bad.tried += 1
            self.bad.add("wrong shape", f"{self._at(path)}: expected a list, found {short_repr(items)}")
            return
        self.bad.tried += len(items)
        for i, item in enumerate(items):
            here = f"{path}[{i}]" if path or not self.lines else f":{self.lines[i]}"
            try:
                read(_checked(item, expected), here)
            except BadRecord as err:
                self.bad.add(err.kind, f"{self._at(here + err.place)}: {err}")

    def _at(self, path: str) -> str:
        """Format a place in the file: "a.json: images[3].id", or "a.csv:4: caption"."""
        return f"{self.file}{path.replace('.', ': ', 1)}" if path.startswith(":") else f"{self.file}: {path}"


def coco(document: dict[str, Any], role: Role, records: Records, reader: RecordReader) -> None:
    numbers: IdTable[int | None] = IdTable()  # by image id; None: a bad record
    files: dict[Id, str] = {}  # by image id
    names: IdTable[str] = IdTable()  # of categories, by id

    def image(record: dict[str, Any], here: str) -> None:
        key = id_of(record, "id")
        if numbers.get(key) is None:
            numbers[key] = None
        name = _path(record.get("file_name"), "file name", ".file_name")
        if plain_path(files.get(key, name)) != plain_path(name):
            message = f"{key!r} is the id of an earlier image too, {short_repr(files[key])}, which has its annotations"
            raise BadRecord("duplicate image", message, ".id")
        number = records.image_number(name)
        if role == "boxes" and (record.get("width") is not None or record.get("height") is not None):
            records.size(number, _side(record, "width"), _side(record, "height"))
        numbers[key], files[key] = number, name

    def category(record: dict[str, Any], here: str) -> None:
        key, name = id_of(record, "id"), text_of(record.get("name"), "category name", ".name")
        if (earlier := names.get(key)) not in (None, name):
            raise BadRecord("duplicate category", f"{key!r} is the id of {earlier!r} too, which has its boxes", ".id")
        names[key] = name

    def owner(record: dict[str, Any]) -> int:
        key = id_of(record, "image_id")
        number = numbers.find(key, "image", ".image_id")
        if number is None:
            raise BadRecord("annotation of a bad image", f"the image with the id {key!r} is skipped", ".image_id")
        return number

    def caption(record: dict[str, Any], here: str) -> None:
        if "caption" in record or "category_id" not in record:  # else of an object, which is in the same file
            number = owner(record)
            records.add_caption(number, text_of(record.get("caption"), "caption", ".caption"))

    def box(record: dict[str, Any], here: str) -> None:
        if "caption" in record and not record.keys() & {"bbox", "category_id"}:
            return
        number = owner(record)
        name = names.find(id_of(record, "category_id"), "category", ".category_id")
        if record.get("iscrowd") in (1, "1"):
            records.crowds.setdefault(number, set()).add(name)
        else:
            records.add_box(number, box_of(record.get("bbox"), ".bbox"), name, name, ".bbox")

    reader.each(document["images"], "images", image)
    if role == "boxes":
        reader.each(document.get("categories"), "categories", category)
    reader.each(document["annotations"], "annotations", caption if role == "captions" else box)


def karpathy(document: dict[str, Any] | list[Any], role: Role, records: Records, reader: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        name, folder = _path(record.get("filename"), "file name", ".filename"), record.get("filepath", "")
        path = f"{_path(folder, 'file path', '.filepath')}/{name}" if folder else name
        split = _split(record.get("split", "train"), KARPATHY_SPLITS)
        number = records.image_number(path)
        records.set_split(number, split, reader.file, here.replace(":", "line "))

        def sentence(entry: dict[str, Any], place: str) -> None:
            records.add_caption(number, text_of(entry.get("raw"), "caption", ".raw"))

        reader.each(record.get("sentences"), f"{here}.sentences", sentence)

    if isinstance(document, list):  # of JSON lines
        reader.each(document, "", image)
    else:
        reader.each(document["images"], "images", image)


def vg_regions(document: list[Any], role: Role, records: Records, reader: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        number = records.image_number(f"{id_of(record, 'id' if 'id' in record else 'image_id')}.jpg")

        def region(entry: dict[str, Any], place: str) -> None:
            phrase = text_of(entry.get("phrase"), "caption" if role == "captions" else "phrase", ".phrase")
            if role == "captions":
                records.add_caption(number, phrase)
            else:
                records.add_box(number, box_of([entry.get(k) for k in ("x", "y", "width", "height")], ""), phrase, "")

        reader.each(record.get("regions"), f"{here}.regions", region)

    reader.each(document, "", image)


def vg_objects(document: list[Any], role: Role, records: Records, reader: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        number = records.image_number(f"{id_of(record, 'image_id' if 'image_id' in record else 'id')}.jpg")

        def object_(entry: dict[str, Any], place: str) -> None:
            names = entry.get("names")
            name = text_of(names[0] if isinstance(names, list) and names else names, "category name", ".names")
            width, height = entry.get("w", entry.get("width")), entry.get("h", entry.get("height"))
            records.add_box(number, box_of([entry.get("x"), entry.get("y"), width, height], ""), name, name)

        reader.each(record.get("objects"), f"{here}.objects", object_)

    reader.each(document, "", image)


def pair_keys(document: Any) -> tuple[str, str] | None:
    """Find the keys of image file and caption in the first records of a list; None: they have none.

    Raises:
        ValueError: several keys may be one of them.
    """
    items = document[:PROBED_RECORDS] if isinstance(document, list) else []
    keys = list(dict.fromkeys(key for item in items if isinstance(item, dict) for key in item))
    image, caption = pick(keys, IMAGE_KEYS, "image file"), pick(keys, CAPTION_KEYS, "caption")
    return None if image is None or caption is None else (image, caption)


def pairs(document: list[Any], role: Role, records: Records, reader: RecordReader) -> None:
    image_key, caption_key = pair_keys(document) or ("image", "caption")

    def pair(record: dict[str, Any], here: str) -> None:
        name = _path(record.get(image_key), "file name", f".{image_key}")
        captions, place = record.get(caption_key), f".{caption_key}"
        first = text_of(captions, "caption", place) if not isinstance(captions, list) else ""
        if captions == []:
            raise BadRecord("empty caption", "is an empty list", place)
        split = _split(record["split"], PAIR_SPLITS) if record.get("split") else ""
        number = records.image_number(name)
        if split:
            records.set_split(number, split, reader.file, here.replace(":", "line "))

        def one(text: Any, place: str) -> None:
            records.add_caption(number, text_of(text, "caption", ""))

        if first:
            records.add_caption(number, first)
        else:
            reader.each(captions, f"{here}{place}", one, object)

    reader.each(document, "", pair)


def _split(value: Any, names: Mapping[str, str]) -> str:
    if not isinstance(value, str) or value not in names:
        raise BadRecord("unknown split", f"{short_repr(value)} is none of {', '.join(names)}", ".split")
    return names[value]


def _path(value: Any, what: str, place: str) -> str:
    """Check the path of a file; backslashes, as Windows writes them, become slashes.

    Raises:
        BadRecord: as ``name_of``, or a NUL character, which no path has.
    """
    path = name_of(value, what, place)
    if "\0" in path:
        raise BadRecord(f"{what} is no text", f"{short_repr(path)} contains a NUL character", place)
    return plain_path(path) if "\\" in path else path


def _checked(item: Any, expected: type) -> Any:
    if not isinstance(item, expected):
        raise BadRecord("wrong shape", f"expected a mapping, found {short_repr(item)}")
    return item


def _side(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if not is_number(value) or value < 1:
        raise BadRecord("image without size", f"expected a number of pixels, found {short_repr(value)}", f".{key}")
    return float(value)
