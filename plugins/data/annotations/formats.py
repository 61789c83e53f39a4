"""The shapes of public annotation files: one reader each, from a JSON document to records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from plugins.data.annotations.records import Records, box_of, is_number, name_of, short_repr, text_of
from plugins.data.bad_records import BadRecord, BadRecords

SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}  # Karpathy's names and ours

Role = Literal["captions", "boxes"]


class RecordReader:
    """Reads the records of one file one by one, and counts the bad ones."""

    def __init__(self, file: str, bad: BadRecords):
        self.file, self.bad = file, bad

    def each(self, items: Any, path: str, read: Callable[[Any, str], None], expected: type = dict) -> None:
        """Call ``read`` with each item and its path, such as "annotations[3]"; count and skip those that raise."""
        if not isinstance(items, list):
            self.bad.tried += 1
            self.bad.add("wrong shape", f"{self.file}: {path}: expected a list, found {short_repr(items)}")
            return
        self.bad.tried += len(items)
        for i, item in enumerate(items):
            here = f"{path}[{i}]"
            try:
                read(_checked(item, expected), here)
            except BadRecord as err:
                self.bad.add(err.kind, f"{self.file}: {here}{err.place}: {err}")


def coco(document: dict[str, Any], role: Role, records: Records, reader: RecordReader) -> None:
    numbers: dict[Any, int | None] = {}  # by image id; None: a bad record, which takes its annotations with it
    names: dict[Any, str] = {}  # of categories, by id

    def image(record: dict[str, Any], here: str) -> None:
        key = _id(record, "id")
        if key in numbers:
            raise BadRecord("duplicate image", f"{key!r} is the id of an earlier image too", ".id")
        numbers[key] = None
        number = records.image_number(name_of(record.get("file_name"), "file name", ".file_name"))
        if role == "boxes" and ("width" in record or "height" in record):
            records.size(number, _side(record, "width"), _side(record, "height"))
        numbers[key] = number

    def category(record: dict[str, Any], here: str) -> None:
        names[_id(record, "id")] = text_of(record.get("name"), "category name", ".name")

    def owner(record: dict[str, Any]) -> int | None:
        key = _id(record, "image_id")
        if key not in numbers:
            raise BadRecord("unknown image", f"no image has the id {key!r}", ".image_id")
        return numbers[key]

    def caption(record: dict[str, Any], here: str) -> None:
        number, text = owner(record), text_of(record.get("caption"), "caption", ".caption")
        if number is not None:
            records.add_caption(number, text)

    def box(record: dict[str, Any], here: str) -> None:
        number, kind = owner(record), _id(record, "category_id")
        if kind not in names:
            raise BadRecord("unknown category", f"no category has the id {kind!r}", ".category_id")
        if number is None:
            return
        if record.get("iscrowd"):
            records.crowds.setdefault(number, set()).add(names[kind])
        else:
            records.add_box(number, box_of(record.get("bbox"), ".bbox"), names[kind], names[kind], ".bbox")

    reader.each(document["images"], "images", image)
    if role == "boxes":
        reader.each(document.get("categories"), "categories", category)
    reader.each(document["annotations"], "annotations", caption if role == "captions" else box)


def karpathy(document: dict[str, Any], role: Role, records: Records, reader: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        name, folder = name_of(record.get("filename"), "file name", ".filename"), record.get("filepath", "")
        path = f"{name_of(folder, 'file path', '.filepath')}/{name}" if folder else name
        split = record.get("split", "train")
        if not isinstance(split, str) or split not in SPLITS:
            raise BadRecord("unknown split", f"{short_repr(split)} is none of {', '.join(SPLITS)}", ".split")
        number = records.image_number(path)
        records.split[number] = SPLITS[split]

        def sentence(entry: dict[str, Any], place: str) -> None:
            records.add_caption(number, text_of(entry.get("raw"), "caption", ".raw"))

        reader.each(record.get("sentences"), f"{here}.sentences", sentence)

    reader.each(document["images"], "images", image)


def vg_regions(document: list[Any], role: Role, records: Records, reader: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        number = records.image_number(f"{_id(record, 'id' if 'id' in record else 'image_id')}.jpg")

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
        number = records.image_number(f"{_id(record, 'image_id' if 'image_id' in record else 'id')}.jpg")

        def object_(entry: dict[str, Any], place: str) -> None:
            names = entry.get("names")
            name = text_of(names[0] if isinstance(names, list) and names else names, "category name", ".names")
            width, height = entry.get("w", entry.get("width")), entry.get("h", entry.get("height"))
            records.add_box(number, box_of([entry.get("x"), entry.get("y"), width, height], ""), name, name)

        reader.each(record.get("objects"), f"{here}.objects", object_)

    reader.each(document, "", image)


def pairs(document: list[Any], role: Role, records: Records, reader: RecordReader) -> None:
    def pair(record: dict[str, Any], here: str) -> None:
        name, captions = name_of(record.get("image"), "file name", ".image"), record.get("caption")
        first = text_of(captions, "caption", ".caption") if not isinstance(captions, list) else ""
        if captions == []:
            raise BadRecord("empty caption", "is an empty list", ".caption")
        number = records.image_number(name)

        def one(text: Any, place: str) -> None:
            records.add_caption(number, text_of(text, "caption", ""))

        if first:
            records.add_caption(number, first)
        else:
            reader.each(captions, f"{here}.caption", one, object)

    reader.each(document, "", pair)


def _checked(item: Any, expected: type) -> Any:
    if not isinstance(item, expected):
        raise BadRecord("wrong shape", f"expected a mapping, found {short_repr(item)}")
    return item


def _id(record: dict[str, Any], key: str) -> int | str:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise BadRecord("record without id", f"expected a number or text, found {short_repr(value)}", f".{key}")
    return value


def _side(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if not is_number(value) or value < 1:
        raise BadRecord("image without size", f"expected a number of pixels, found {short_repr(value)}", f".{key}")
    return float(value)
