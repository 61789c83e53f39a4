"""CSV, TSV and JSON lines of people and of well-known data sets, whole and broken."""

from __future__ import annotations

import csv

import pytest

from plugins.data.annotations.read import read_annotations
from plugins.data.annotations.records import Records
from plugins.data.annotations.tables import captions_in, pick
from plugins.data.bad_records import BadRecords


def load(folder, content: str | bytes, name="captions.csv", budget=0.9) -> tuple[dict[str, list[str]], BadRecords]:
    """Captions by image, and what is wrong."""
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    records = Records()
    bad = read_annotations(str(file), "captions", records, budget)
    records.pack()
    bad.messages = [message.replace(f"{folder}/", "") for message in bad.messages]
    return {name: records.captions_of(i) for i, name in enumerate(records.names)}, bad


TWO = {"a.jpg": ["a cat, black", "one"], "b.jpg": ["two"]}
SAME = {
    "Kaggle's Flickr8k": 'image,caption\na.jpg,"a cat, black"\na.jpg,one\nb.jpg,two\n',
    "Flickr30k's results.csv": (
        "image_name| comment_number| comment\na.jpg| 0| a cat, black\na.jpg| 1| one\nb.jpg| 0| two\n"
    ),
    "Flickr8k.token.txt": "a.jpg#0\ta cat, black\na.jpg#1\tone\nb.jpg#0\ttwo\n",
    "Hugging Face's Flickr30k": (
        'raw,sentids,split,filename,img_id\n"[""a cat, black"", ""one""]","[0, 1]",test,a.jpg,0\n'
        '"[""two""]",[2],train,b.jpg,1\n'
    ),
    "lists by pandas": "file_name,captions\na.jpg,\"['a cat, black', 'one']\"\nb.jpg,['two']\n",
    "open_clip's csv": "filepath\ttitle\na.jpg\ta cat, black\na.jpg\tone\nb.jpg\ttwo\n",
    "metadata.csv": 'text,file_name\n"a cat, black",a.jpg\none,a.jpg\ntwo,b.jpg\n',
    "semicolons": "Image Name;Caption\na.jpg;a cat, black\na.jpg;one\nb.jpg;two\n",
    "Excel": 'sep=;\r\n"IMAGE";"Caption";"notes"\r\n"a.jpg";"a cat, black";"x"\r\na.jpg;one;\r\nb.jpg;two;"";;\r\n',
    "Unicode text of Windows": "\r\nfile\tcaption\r\na.jpg\ta cat, black\r\na.jpg\tone\r\nb.jpg\ttwo".encode("utf-16"),
    "byte order mark": "\ufeffimage,caption\na.jpg,'x'\n".replace("'x'", '"a cat, black"') + "a.jpg,one\nb.jpg,two\n",
    "index by pandas": ',image,caption\n0,a.jpg,"a cat, black"\n1,a.jpg,one\n2,b.jpg,two\n',
    "no header": 'a.jpg, "a cat, black"\na.jpg,one\nb.jpg,two\n',
    "caption first": '"a cat, black",a.jpg\none,a.jpg\ntwo,b.jpg\n',
    "blank lines": '\n\nimage,caption\n\na.jpg,"a cat, black"\n \na.jpg,one\nb.jpg,two\n\n\n',
    "line end in a field": 'image,caption\na.jpg,"a cat,\nblack"\na.jpg,one\n"b.jpg",two\n',
    "JSON lines": ('{"image": "a.jpg", "caption": ["a cat, black", "one"]}\n\n{"image": "b.jpg", "caption": "two"}\n'),
    "metadata.jsonl": (
        '\ufeff{"file_name": "a.jpg", "text": "a cat, black", "objects": {"bbox": []}}\r\n'
        '{"file_name": "a.jpg", "text": "one"}\r\n{"file_name": "b.jpg", "text": "two"}\r\n'
    ),
    "Karpathy's images as JSON lines": (
        '{"filename": "a.jpg", "sentences": [{"raw": "a cat, black"}, {"raw": "one"}]}\n'
        '{"filename": "b.jpg", "sentences": [{"raw": "two"}]}'
    ),
    "other keys in a list": (
        '[{"path": "a.jpg", "sentence": "a cat, black"}, {"path": "a.jpg", "sentence": "one"}, '
        '{"path": "b.jpg", "sentence": "two"}]'
    ),
}


@pytest.mark.parametrize("name", ["captions.csv", "captions.json", "captions"])
@pytest.mark.parametrize("case", SAME)
def test_a_table_is_recognised_by_its_content(tmp_path, case, name):
    captions, bad = load(tmp_path, SAME[case], name)
    assert captions == TWO
    assert bad.count == 0


def test_one_json_line(tmp_path):
    assert load(tmp_path, '{"image": "a.jpg", "caption": "one"}\n')[0] == {"a.jpg": ["one"]}


def test_quotes_in_a_table_without_header_are_letters(tmp_path):
    captions, _ = load(tmp_path, 'a.jpg#0\t"Hello" says a cat .\na.jpg#1\t" one\nb.jpg#0\ttwo\n')
    assert captions == {"a.jpg": ['"Hello" says a cat .', '" one'], "b.jpg": ["two"]}


BROKEN = {
    "no third column": ("image_name| n| comment\na.jpg| 0| one\nb.jpg| 4   two\n", ["expected 3 columns, found 2"]),
    "an unquoted comma": (
        "image,caption\na.jpg,one\nb.jpg,two, three\nc.jpg\n",
        ["expected 2 columns, found 3", "found 1"],
    ),
    "an open quote": ('image,caption\na.jpg,one\nb.jpg,"two\nc.jpg,three\n', ["a quote is not closed"]),
    "a huge field": (f'image,caption\na.jpg,one\nb.jpg,"{"x" * 200_000}"\n', ["or a field is too long"]),
    "a long caption": (f"image,caption\na.jpg,one\nb.jpg,{'x' * 3000}\n", ["caption: has 3000 letters"]),
    "an empty caption": ('image,caption\na.jpg,one\nb.jpg,""\n,two\n', ["caption: is empty", "image: is empty"]),
    "invisible": ("file,title\na.jpg,one\nb.jpg,\u200b\ufe0f\n", ["title: '\\u200b\\ufe0f' has no visible character"]),
    "a line that is no JSON": (
        '{"image": "a.jpg", "caption": "one"}\n{"image": "b.jpg"\n{"image": "c.jpg"}\n3\n',
        ["is not JSON: Expecting ',' delimiter", "caption: expected text, found None", "expected a mapping, found 3"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_rows_are_skipped_and_named_by_their_line(tmp_path, case):
    content, messages = BROKEN[case]
    captions, bad = load(tmp_path, content)
    assert captions["a.jpg"] == ["one"]
    assert bad.count == len(messages)
    assert bad.tried == bad.count + sum(map(len, captions.values()))
    first = content[: content.index("b.jpg")].count("\n") + 1
    located = sorted(bad.messages, key=lambda message: int(message.split(":")[1]))
    for line, (actual, expected) in enumerate(zip(located, messages, strict=True), first):
        assert actual.startswith(f"captions.csv:{line}: ")
        assert expected in actual


def test_a_row_after_an_open_quote_is_read(tmp_path):
    captions, bad = load(tmp_path, 'image,caption\na.jpg,"one\n' + "".join(f"{i}.jpg,of {i}\n" for i in range(300)))
    assert len(captions) == 300
    assert bad.messages == ["captions.csv:2: a quote is not closed, or a field is too long"]


@pytest.mark.parametrize(
    "content",
    [
        'image,caption\na.jpg,"x\nb.jpg,two\nc.jpg,three\nd.jpg,four "4"\n',
        'image,caption\na.jpg,"x\nb.jpg,two\nc.jpg,three\nd.jpg,four ""4""\n',
        'caption,image\n"x,a.jpg\ntwo,b.jpg\nthree,c.jpg\nfour "4",d.jpg\n',
        'n\timage\tcaption\n0\ta.jpg\t"x\n1\tb.jpg\ttwo\n2\tc.jpg\tthree\n3\td.jpg\tfour "4"\n',
    ],
)
def test_a_quote_that_a_later_row_would_close_takes_no_row_with_it(tmp_path, content):
    captions, bad = load(tmp_path, content)
    assert captions == {"b.jpg": ["two"], "c.jpg": ["three"], "d.jpg": [captions["d.jpg"][0]]}
    assert bad.messages == ["captions.csv:2: a quote is not closed, or a field is too long"]


def test_a_caption_of_several_lines_before_its_image(tmp_path):
    assert load(tmp_path, 'caption,image\n"a\ncat",a.jpg\n')[0] == {"a.jpg": ["a cat"]}


def test_the_budget_counts_broken_rows(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.csv: 1 of 2 records cannot be used; budget=0\.1 allows 0"):
        load(tmp_path, "image,caption\na.jpg,one\nb.jpg\n", budget=0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("url,caption\nhttp://a/b.jpg,one\n", r":1: neither JSON nor a table .* the columns are \['url', 'caption'\]"),
        ("a very typical bus station\thttp://a/b\n", "images behind links must be downloaded first"),
        ("\nimage,url\na.jpg,x\n", r"captions\.csv:2: .* none of them is a caption"),
        ("file_name,title,text\na.jpg,b,c\n", "'title' and 'text' may both be the caption: name one of them 'caption'"),
        ("image,caption,Caption\na.jpg,b,c\n", "'caption' and 'Caption' may both be the caption"),
        ("a.jpg,0,one\nb.jpg,0,two\n", "or two columns without a header"),
        ("just some text\n", r":1:1: is not JSON: Expecting value"),
        ("<html>,\n", r":1:1: is not JSON"),
        ("sep=;\n", r":1:1: is not JSON"),
        ("\n\n", r":3:1: is not JSON"),
        ('{"image": "a.jpg", "caption": "b"}\n{"image": "b.jpg"', r":2: is not JSON"),
        ('[\n{"image": "a.jpg", "caption": "b"},\n{"image": "b.jpg"', r":3:18: is not JSON: .*cut off"),
        ('{\n"images": [\n{"id": 1}\n', r":4:1: is not JSON: .*cut off"),
        ('{"images": [\n{"id": 1},\n{"id": 2}\n', r":4:1: is not JSON: .*cut off"),
        ('[{"file": "a.jpg", "path": "b", "text": "c"}]', "'file' and 'path' may both be the image file"),
        ('[{"image": "0.jpg", "conversations": []}]', r"a list of conversations \(LLaVA's format\) is no file"),
        ('{"images": [{"id": 0}], "annotations": []}', "a file whose list of annotations is empty"),
        ("image,caption\n", "holds no record"),
        ("äh\n".encode("latin-1"), r"captions\.csv:1:1: not UTF-8: byte 0xe4"),
    ],
)
def test_files_that_are_refused_and_why(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, content, budget=0.1)
    assert str(tmp_path / "captions.csv") in str(caught.value)


def test_a_table_has_no_boxes(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,one\n")
    with pytest.raises(ValueError, match=r"a\.csv: .* is no file of boxes; accepted: COCO instances"):
        read_annotations(str(tmp_path / "a.csv"), "boxes", Records(), 0.5)


def test_a_table_written_by_the_csv_module_is_read_unchanged(tmp_path):
    texts = ['a "big" dog', "a; b, c|d\te", "'quoted'", "[sic]", 'ends with a quote"', "日本語、猫"]
    for delimiter in (",", ";", "\t", "|"):
        with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows([["image", "caption"], *(["a.jpg", t] for t in texts)])
        captions, _ = load(tmp_path, (tmp_path / "captions.csv").read_bytes())
        assert captions == {"a.jpg": [" ".join(text.split()) for text in texts]}


@pytest.mark.parametrize("value", ["[sic]", "[1, 2]", "[]", '["a"', "a", "['a' + 'b']", "[" * 3000 + "]" * 3000])
def test_other_captions_are_no_lists(value):
    assert captions_in(value) == value


def test_the_first_accepted_name_has_priority():
    assert pick(["text", "caption"], ("caption", "text"), "caption") == "caption"
    assert pick(["Text"], ("caption", "text"), "caption") == "Text"
    assert pick(["a"], ("caption", "text"), "caption") is None


def test_splits_of_a_table_are_kept(tmp_path):
    (tmp_path / "a.csv").write_text(
        "image,caption,Split\na.jpg,one,train\nb.jpg,two,dev\nc.jpg,three,test\nc.jpg,four,train\nd.jpg,five,\ne.jpg,six,x\n"
    )
    records = Records()
    bad = read_annotations(str(tmp_path / "a.csv"), "captions", records, 0.9)
    assert [records.split.get(i) for i in range(4)] == ["train", "validation", "test", None]
    assert records.captions == ["one", "two", "three", "five"]
    assert [message.partition("a.csv")[2] for message in bad.messages] == [
        ":5: split: 'c.jpg' is in train here and in test in line 4; it is not used for training",
        ":7: split: 'x' is none of train, restval, val, test, validation, valid, dev",
    ]
