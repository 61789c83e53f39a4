"""Annotation files: any bytes are read or refused in words; tables and ids do not depend on their spelling."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from plugins.data.annotations.read import read_annotations
from plugins.data.annotations.records import Records
from plugins.text.invisible import remove_invisible
from properties.drawing import PROFILE

PIECES = st.sampled_from(
    [
        *("image", "caption", "file_name", "text", "url", ",", ";", "\t", "|", '"', "\n", "\r\n", "\0", "\ufeff", "#0"),
        *(
            "a.jpg",
            "a cat",
            "[",
            "]",
            "{",
            "}",
            ":",
            '{"image": "a.jpg", "caption": "b"}',
            "image,caption\n",
            "sep=;\n",
        ),
        *("NaN", "1e400", "\\ud800", "images", "annotations", "image_id", "bbox", "id", "\u200b", "<html>", "", "1.0"),
    ]
)
DOCUMENTS = st.lists(PIECES, max_size=25).map("".join)
CONTENTS = (
    st.binary(max_size=60)
    | DOCUMENTS.map(str.encode)
    | st.builds(str.encode, DOCUMENTS, st.sampled_from(["utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
)
WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=8)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
PAIRS = st.lists(st.tuples(st.sampled_from(["a.jpg", "b/c.png", "d e.JPEG"]), TEXTS), min_size=1, max_size=12)


def load(file: Path, role: str = "captions") -> Records:
    records = Records()
    read_annotations(str(file), role, records, 0.9)  # type: ignore[arg-type]
    records.pack()
    return records


def pairs_of(records: Records) -> list[tuple[str, str]]:
    return sorted((name, text) for i, name in enumerate(records.names) for text in records.captions_of(i))


@settings(PROFILE, max_examples=400)
@given(content=CONTENTS, role=st.sampled_from(["captions", "boxes"]), name=st.sampled_from(["a.csv", "a.json", "a"]))
@example(content=b"\0", role="captions", name="a.csv")
@example(content=b"image,caption\n\0,\0\na.jpg,\0b\n", role="captions", name="a.csv")
def test_any_bytes_are_read_or_refused_by_the_name_of_the_file(folder, content, role, name):
    file = folder / name
    file.write_bytes(content)
    try:
        records = load(file, role)
    except ValueError as err:
        message = str(err)
    else:
        message = str(file)
        assert len(records.captions) + len(records.boxes)
        assert all(text == " ".join(remove_invisible(text).split()) != "" for text in records.captions)
    assert message.startswith(str(file))


@settings(PROFILE, max_examples=100)
@given(
    pairs=PAIRS,
    delimiter=st.sampled_from(",;\t|"),
    ends=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_a_table_and_json_lines_hold_the_same_pairs_as_a_list(folder, pairs, delimiter, ends, quoting, encoding):
    table = io.StringIO()
    writer = csv.writer(table, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writerows([("n", "image", "caption"), *((i, *pair) for i, pair in enumerate(pairs))])
    records = [{"image": image, "caption": text} for image, text in pairs]
    texts = {
        "table": table.getvalue(),
        "lines": ends.join(json.dumps(record) for record in records),
        "list": json.dumps(records),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode(encoding))
        assert pairs_of(load(folder / name)) == sorted(pairs)


SPELLINGS = (int, float, str, "{:.1f}".format, "{:06}".format)


@PROFILE
@given(
    ids=st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=8, unique=True),
    spellings=st.tuples(st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS)),
)
def test_annotations_belong_to_the_same_images_in_every_spelling_of_ids(folder, ids, spellings):
    ours, theirs = spellings
    document = {
        "images": [{"id": ours(key), "file_name": f"{key}.jpg"} for key in ids],
        "annotations": [{"image_id": theirs(key), "caption": f"of {key}"} for key in reversed(ids)],
    }
    (folder / "a.json").write_text(json.dumps(document))
    assert pairs_of(load(folder / "a.json")) == sorted((f"{key}.jpg", f"of {key}") for key in ids)


@settings(PROFILE, max_examples=200)
@given(text=st.text(max_size=12))
def test_removing_invisible_characters_twice_changes_nothing(text):
    once = remove_invisible(text)
    assert remove_invisible(once) == once
