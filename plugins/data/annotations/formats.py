"""The shapes of public annotation files: one reader each, from a JSON document to records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from plugins.data.annotations.records import Records, box_of, is_number, name_of, shown, text_of
from plugins.data.bad_records import Fault, Faults

SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}  # Karpathy's names and ours

Role = Literal["captions", "boxes"]


class RecordReader:
    """Goes through records, and counts the bad ones."""

    def __init__(self, file: str, faults: Faults):
        self.file, self.faults = file, faults

    def each(self, items: Any, path: str, read: Callable[[Any, str], None], wanted: type = dict) -> None:
        """Call ``read`` with each item and its path, "annotations[3]"; what raises a Fault is counted and skipped."""
        if not isinstance(items, list):
            self.faults.tried += 1
            self.faults.add("wrong shape", f"{self.file}: {path}: expected a list, found {shown(items)}")
            return
        self.faults.tried += len(items)
        for i, item in enumerate(items):
            here = f"{path}[{i}]"
            try:
                if not isinstance(item, wanted):
                    raise Fault("wrong shape", f"expected a mapping, found {shown(item)}")
                read(item, here)
            except Fault as fault:
                self.faults.add(fault.kind, f"{self.file}: {here}{fault.place}: {fault}")


def coco(document: dict[str, Any], role: Role, records: Records, walk: RecordReader) -> None:
    numbers: dict[Any, int | None] = {}  # by image id; None: a bad record, which takes its annotations with it
    names: dict[Any, str] = {}  # of categories, by id

    def image(record: dict[str, Any], here: str) -> None:
        key = _id(record, "id")
        if key in numbers:
            raise Fault("duplicate image", f"{key!r} is the id of an earlier image too", ".id")
        numbers[key] = None
        number = records.picture(name_of(record.get("file_name"), "file name", ".file_name"))
        if role == "boxes" and ("width" in record or "height" in record):
            records.size(number, _side(record, "width"), _side(record, "height"))
        numbers[key] = number

    def category(record: dict[str, Any], here: str) -> None:
        names[_id(record, "id")] = text_of(record.get("name"), "category name", ".name")

    def owner(record: dict[str, Any]) -> int | None:
        key = _id(record, "image_id")
        if key not in numbers:
            raise Fault("unknown image", f"no image has the id {key!r}", ".image_id")
        return numbers[key]

    def caption(record: dict[str, Any], here: str) -> None:
        number, text = owner(record), text_of(record.get("caption"), "caption", ".caption")
        if number is not None:
            records.add_caption(number, text)

    def box(record: dict[str, Any], here: str) -> None:
        number, kind = owner(record), _id(record, "category_id")
        if kind not in names:
            raise Fault("unknown category", f"no category has the id {kind!r}", ".category_id")
        if number is None:
            return
        if record.get("iscrowd"):
            records.crowds.setdefault(number, set()).add(names[kind])
        else:
            records.add_box(number, box_of(record.get("bbox"), ".bbox"), names[kind], names[kind], ".bbox")

    walk.each(document["images"], "images", image)
    if role == "boxes":
        walk.each(document.get("categories"), "categories", category)
    walk.each(document["annotations"], "annotations", caption if role == "captions" else box)


def karpathy(document: dict[str, Any], role: Role, records: Records, walk: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        name, folder = name_of(record.get("filename"), "file name", ".filename"), record.get("filepath", "")
        path = f"{name_of(folder, 'file path', '.filepath')}/{name}" if folder else name
        split = record.get("split", "train")
        if not isinstance(split, str) or split not in SPLITS:
            raise Fault("unknown split", f"{shown(split)} is none of {', '.join(SPLITS)}", ".split")
        number = records.picture(path)
        records.split[number] = SPLITS[split]

        def sentence(said: dict[str, Any], place: str) -> None:
            records.add_caption(number, text_of(said.get("raw"), "caption", ".raw"))

        walk.each(record.get("sentences"), f"{here}.sentences", sentence)

    walk.each(document["images"], "images", image)


def vg_regions(document: list[Any], role: Role, records: Records, walk: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        number = records.picture(f"{_id(record, 'id' if 'id' in record else 'image_id')}.jpg")

        def region(said: dict[str, Any], place: str) -> None:
            phrase = text_of(said.get("phrase"), "caption" if role == "captions" else "phrase", ".phrase")
            if role == "captions":
                records.add_caption(number, phrase)
            else:
                records.add_box(number, box_of([said.get(k) for k in ("x", "y", "width", "height")], ""), phrase, "")

        walk.each(record.get("regions"), f"{here}.regions", region)

    walk.each(document, "", image)


def vg_objects(document: list[Any], role: Role, records: Records, walk: RecordReader) -> None:
    def image(record: dict[str, Any], here: str) -> None:
        number = records.picture(f"{_id(record, 'image_id' if 'image_id' in record else 'id')}.jpg")

        def thing(said: dict[str, Any], place: str) -> None:
            names = said.get("names")
            name = text_of(names[0] if isinstance(names, list) and names else names, "category name", ".names")
            sides = [said.get("x"), said.get("y"), said.get("w", said.get("width")), said.get("h", said.get("height"))]
            records.add_box(number, box_of(sides, ""), name, name)

        walk.each(record.get("objects"), f"{here}.objects", thing)

    walk.each(document, "", image)


def pairs(document: list[Any], role: Role, records: Records, walk: RecordReader) -> None:
    def pair(record: dict[str, Any], here: str) -> None:
        name, said = name_of(record.get("image"), "file name", ".image"), record.get("caption")
        first = text_of(said, "caption", ".caption") if not isinstance(said, list) else ""
        if said == []:
            raise Fault("empty caption", "is an empty list", ".caption")
        number = records.picture(name)

        def one(text: Any, place: str) -> None:
            records.add_caption(number, text_of(text, "caption", ""))

        if first:
            records.add_caption(number, first)
        else:
            walk.each(said, f"{here}.caption", one, object)

    walk.each(document, "", pair)


def _id(record: dict[str, Any], key: str) -> int | str:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise Fault("record without id", f"expected a number or text, found {shown(value)}", f".{key}")
    return value


def _side(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if not is_number(value) or value < 1:
        raise Fault("image without size", f"expected a number of pixels, found {shown(value)}", f".{key}")
    return float(value)
