"""CSV, TSV and JSON lines as lists of records, each with its line in the file."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from plugins.data.annotations.records import short_repr
from plugins.data.bad_records import BadRecords

# names of the columns or keys of pairs; the first one has priority
IMAGE_KEYS = (
    *("image", "file_name", "filename", "filepath", "file_path", "file", "path"),
    *("image_path", "image_file", "image_name", "img", "img_path"),
)
CAPTION_KEYS = ("caption", "captions", "text", "title", "comment", "sentence", "description", "raw")
OTHER_KEYS = ("split",)  # columns that are read where a table has them
DELIMITERS = (",", "\t", ";", "|")
MAX_ROW_LINES = 100  # of a quoted field with line ends
MAX_LIST_LETTERS = 100_000  # of a list of captions in one field
PROBED_LINES = 10  # by which JSON lines are recognised
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # first line of some CSV files by Excel
IMAGE_FILE = re.compile(r".*\.(?:jpe?g|png|gif|webp|bmp)(?:#\d+)?", re.IGNORECASE)
CAPTION_NUMBER = re.compile(r"(?<=\.[a-zA-Z]{3})#\d+$|(?<=\.[a-zA-Z]{4})#\d+$")  # "1.jpg#0" of Flickr8k and Flickr30k


class Rows(NamedTuple):
    """Records of a table, with the line in the file on which each begins."""

    records: list[Any]
    lines: list[int]


def pick(keys: Sequence[str], names: Sequence[str], what: str) -> str | None:
    """Choose the key whose name is one of ``names``; None: there is none.

    Raises:
        ValueError: several are, and none of them is the first of ``names``.
    """
    matches = [key for key in keys if normal(key) in names]
    matches = [key for key in matches if normal(key) == names[0]] or matches
    if len(matches) > 1:
        raise ValueError(f"{' and '.join(map(repr, matches))} may both be the {what}: name one of them {names[0]!r}")
    return matches[0] if matches else None


def normal(key: str) -> str:
    """Normalise a column's name: "Image Name" gives "image_name"."""
    return re.sub(r"[\s-]+", "_", key.strip().lower())


def json_lines(text: str, file: str, bad: BadRecords) -> Rows | None:
    """Read one JSON object a line and count other lines as bad; None: most lines are something else."""
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    first_lines = list(islice(lines, PROBED_LINES))
    if 2 * sum(_is_object(line) for _, line in first_lines) < len(first_lines):
        return None
    rows = Rows([], [])
    for number, line in chain(first_lines, lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as err:
            bad.tried += 1
            bad.add("line is not JSON", f"{file}:{number}: is not JSON: {err}")
        else:
            rows.records.append(record)
            rows.lines.append(number)
    return rows


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class Layout(NamedTuple):
    """Columns of a table.

    ``places`` are the indexes of the columns that are read, by the key in a record; ``image`` is one of these keys.
    """

    delimiter: str
    first: int  # index of the first line with a record
    width: int  # number of columns
    places: dict[str, int]
    image: str
    quoted: bool  # a field may be in quotes


def table(text: str, file: str, bad: BadRecords) -> Rows | None:
    """Read a table of image files and captions; None: the text has one column. Broken rows are counted as bad.

    A table has a header with a name from IMAGE_KEYS and one from CAPTION_KEYS, or two columns without a header,
    one of them an image file.

    Raises:
        ValueError: the columns are others, or more than one may be the caption or the image; names them.
    """
    lines = text.split("\n")
    starts = list(islice((i for i, line in enumerate(lines) if line.strip()), 2))
    separator = SEPARATOR_LINE.fullmatch(lines[starts[0]].strip()) if starts else None
    start = next(iter(starts[1:] if separator else starts), -1)
    if start < 0 or lines[start].lstrip().startswith("<"):
        return None
    delimiters: Sequence[str] = separator[1] if separator else DELIMITERS
    headers = {mark: fields for mark in delimiters if len(fields := _header(lines[start], mark)) > 1}
    if not headers:
        return None
    try:
        layout = _layout(headers, start)
    except ValueError as err:
        names, texts, url = "', '".join(IMAGE_KEYS), "', '".join(CAPTION_KEYS), ""
        columns = max(headers.values(), key=len)
        if any("url" in column.lower() or "://" in column for column in columns):
            url = "; images behind links must be downloaded first"
        raise ValueError(
            f"{file}:{start + 1}: neither JSON nor a table of captions: the columns are {short_repr(columns)}: {err}. "
            f"Accepted are a header with one of '{names}' and one of '{texts}', or two columns "
            f"without a header{url}"
        ) from err
    return _rows(lines, layout, file, bad)


def _layout(headers: dict[str, list[str]], start: int) -> Layout:
    """Choose delimiter and columns by the fields of the first line, which are given for each delimiter.

    Raises:
        ValueError: no delimiter gives a column of images and one of captions.
    """
    for mark, fields in headers.items():
        image, caption = pick(fields, IMAGE_KEYS, "image file"), pick(fields, CAPTION_KEYS, "caption")
        if image is not None and caption is not None:
            others = {normal(field): i for i, field in enumerate(fields) if normal(field) in OTHER_KEYS}
            places = others | {image: fields.index(image), caption: fields.index(caption)}
            return Layout(mark, start + 1, len(fields), places, image, quoted=True)
    for mark, fields in headers.items():
        images = [i for i, field in enumerate(fields) if IMAGE_FILE.fullmatch(field)]
        if len(fields) == 2 and len(images) == 1:
            places = {"image": images[0], "caption": 1 - images[0]}
            return Layout(mark, start, 2, places, "image", quoted=mark in ",;")
    widest = max(headers.values(), key=len)
    missing = "an image file" if pick(widest, IMAGE_KEYS, "image file") is None else "a caption"
    raise ValueError(f"none of them is {missing}")


def _header(line: str, delimiter: str) -> list[str]:
    return next(_fields([line], 0, delimiter, quoted=True))[1] or []


def _fields(
    lines: Sequence[str], start: int, delimiter: str, *, quoted: bool
) -> Iterator[tuple[int, list[str] | None]]:
    """Iterate over rows with their line numbers; None: a quote is not closed, or a field is too long."""
    at = start
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        if not line.strip():
            continue
        if not quoted or '"' not in line:
            yield number, [field.strip() for field in line.split(delimiter)]
            continue
        block = lines[number - 1 : number - 1 + MAX_ROW_LINES]
        extra = chain((f"{each}\n" for each in block), ["\n"])  # a row that takes this last line has an open quote
        reader = csv.reader(extra, delimiter=delimiter, skipinitialspace=delimiter in ",;")
        try:
            row = next(reader)
        except csv.Error:
            yield number, None
            continue
        if reader.line_num > len(block) or any(_has_rows(field, delimiter) for field in row):
            yield number, None
        else:
            at = number - 1 + reader.line_num
            yield number, [field.strip() for field in row]


def _has_rows(field: str, delimiter: str) -> bool:
    """Test for rows inside a field of several lines: the quote that opens it is not closed."""
    if "\n" not in field:
        return False
    cells = (cell.strip(' "') for line in field.split("\n") for cell in line.split(delimiter))
    return any(IMAGE_FILE.fullmatch(cell) for cell in cells)


def _rows(lines: Sequence[str], layout: Layout, file: str, bad: BadRecords) -> Rows:
    """Collect the columns of ``layout``. A row must have as many as the header; further ones must be empty."""
    rows, width = Rows([], []), layout.width
    for number, fields in _fields(lines, layout.first, layout.delimiter, quoted=layout.quoted):
        if fields is None or len(fields) < width or any(fields[width:]):
            bad.tried += 1
            problem = (
                "a quote is not closed, or a field is too long"
                if fields is None
                else f"expected {width} columns, found {len(fields)}"
            )
            bad.add("broken row", f"{file}:{number}: {problem}")
            continue
        record = {key: captions_in(fields[place]) for key, place in layout.places.items()}
        record[layout.image] = CAPTION_NUMBER.sub("", fields[layout.places[layout.image]])
        rows.records.append(record)
        rows.lines.append(number)
    return rows


def captions_in(value: str) -> Any:
    """Parse a caption that is a list of texts in JSON or Python; others are returned unchanged."""
    if not (value.startswith("[") and value.endswith("]")) or len(value) > MAX_LIST_LETTERS:
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            texts = parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            return texts
    return value
