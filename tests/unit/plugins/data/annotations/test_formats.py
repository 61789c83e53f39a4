"""One reader for each annotation format, on documents of a few records."""

from __future__ import annotations

import pytest

from plugins.data.annotations import formats
from plugins.data.annotations.formats import RecordReader
from plugins.data.annotations.records import Records
from plugins.data.bad_records import BadRecords


def packed(read, document, role="captions") -> tuple[Records, BadRecords]:
    records, bad = Records(), BadRecords()
    read(document, role, records, RecordReader("notes.json", bad))
    records.pack()
    return records, bad


COCO = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 10, "height": 8},
        {"id": "8", "file_name": "b.jpg", "width": 6, "height": 6},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "teddy  bear"}],
    "annotations": [
        {"image_id": "8", "category_id": 2, "bbox": [1, 1, 2, 3], "caption": "a  bear"},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 20, 4], "caption": "a cat"},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1], "iscrowd": 1, "caption": "bears"},
    ],
}


def test_coco_captions_need_neither_sizes_nor_categories():
    records, bad = packed(formats.coco, {"images": COCO["images"], "annotations": COCO["annotations"]})
    assert records.names == ["a.jpg", "b.jpg"]
    assert [records.captions_of(n) for n in range(2)] == [["a cat", "bears"], ["a bear"]]
    assert records.sizes == {}
    assert (bad.tried, bad.count) == (5, 0)


def test_coco_boxes_are_clipped_and_crowds_have_none():
    records, bad = packed(formats.coco, COCO, "boxes")
    assert records.box_labels(0) == [((0, 0, 10, 4), "cat", "cat")]
    assert records.box_labels(1) == [((1, 1, 3, 4), "teddy bear", "teddy bear")]
    assert records.crowds == {0: {"teddy bear"}}
    assert records.sizes == {0: (10, 8), 1: (6, 6)}
    assert (bad.tried, bad.count) == (7, 0)


@pytest.mark.parametrize(
    ("section", "record", "kind", "message"),
    [
        ("images", {"id": 7, "file_name": "c.jpg"}, "duplicate image", "images[2].id: 7 is the id of an earlier"),
        ("images", {"id": True, "file_name": "c"}, "record without id", "images[2].id: expected a number or text"),
        ("images", {"id": 9}, "file name is no text", "images[2].file_name: expected text, found None"),
        (
            "images",
            {"id": 9, "file_name": "c", "width": 5},
            "image without size",
            "images[2].height: expected a number",
        ),
        ("images", ["c.jpg"], "wrong shape", "images[2]: expected a mapping, found ['c.jpg']"),
        ("categories", {"id": 3, "name": ""}, "empty category name", "categories[2].name: is empty"),
        ("annotations", {"image_id": 1}, "unknown image", "annotations[3].image_id: no image has the id 1"),
        (
            "annotations",
            {"image_id": 7, "category_id": 5},
            "unknown category",
            "annotations[3].category_id: no category",
        ),
        (
            "annotations",
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 0, 1]},
            "box without area",
            "annotations[3].bbox",
        ),
    ],
)
def test_a_bad_coco_record_is_counted_with_its_place_and_the_others_are_read(section, record, kind, message):
    records, bad = packed(formats.coco, {**COCO, section: [*COCO[section], record]}, "boxes")
    assert dict(bad.kinds) == {kind: 1}
    assert bad.messages[0].startswith(f"notes.json: {message}")
    assert len(records.boxes) == 2


def test_annotations_of_a_bad_image_are_counted_and_named():
    document = {**COCO, "images": [{"id": 7, "file_name": ""}, COCO["images"][1]]}
    records, bad = packed(formats.coco, document)
    assert dict(bad.kinds) == {"empty file name": 1, "annotation of a bad image": 2}
    assert bad.messages[1] == "notes.json: annotations[1].image_id: the image with the id 7 is skipped"
    assert records.captions == ["a bear"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"id": 7, "file_name": "a.jpg"}, {"id": 7.0, "file_name": "a.jpg"}),
        ({"id": 7, "file_name": None}, {"id": 7, "file_name": "a.jpg"}),  # the second repairs the first
    ],
)
def test_a_repeated_image_record_costs_no_annotation(first, second):
    document = {"images": [first, second], "annotations": [{"image_id": 7, "caption": "a cat"}]}
    records, bad = packed(formats.coco, document)
    assert (records.names, records.captions) == (["a.jpg"], ["a cat"])
    assert bad.count == (first["file_name"] is None)


@pytest.mark.parametrize(
    ("images", "annotations"),
    [([1, 2], [2.0, 1.0]), ([1.0, 2.0], ["2", "1"]), (["000000001", "000000002"], [2, 1]), (["1.0", "2.0"], [2, 1])],
)
def test_images_and_annotations_may_spell_their_ids_differently(images, annotations):
    document = {
        "images": [{"id": key, "file_name": f"{i}.jpg"} for i, key in enumerate(images)],
        "annotations": [{"image_id": key, "caption": f"of {i}"} for i, key in enumerate(annotations)],
    }
    records, bad = packed(formats.coco, document)
    assert bad.count == 0
    assert [records.captions_of(n) for n in range(2)] == [["of 1"], ["of 0"]]


def test_category_ids_of_every_spelling_and_two_names_for_one_id():
    categories = [{"id": "1", "name": "cat"}, {"id": 1.0, "name": "cat"}, {"id": "1", "name": "dog"}]
    annotations = [{"image_id": 0, "category_id": 1.0, "bbox": [0, 0, 2, 2]}]
    document = {"images": [{"id": 0, "file_name": "a.jpg", "width": None, "height": None}], "annotations": annotations}
    records, bad = packed(formats.coco, document | {"categories": categories}, "boxes")
    assert bad.messages == ["notes.json: categories[2].id: '1' is the id of 'cat' too, which has its boxes"]
    assert [box.label for box in records.box_labels(0)] == ["cat"]


@pytest.mark.parametrize("crowd", [0, 0.0, False, None, float("nan"), "0"])
def test_only_one_marks_a_crowd(crowd):
    annotation = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": crowd}
    document = {
        "images": [{"id": 0, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [annotation],
    }
    assert len(packed(formats.coco, document, "boxes")[0].boxes) == 1


def test_one_file_of_captions_and_boxes_serves_both_roles():
    document = {
        "images": [{"id": 0, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 0, "category_id": 1, "bbox": [0, 0, 2, 2]},
            {"image_id": 0, "caption": "a cat"},
            {"image_id": 0, "category_id": 1, "bbox": [0, 0, 2, 1], "caption": "the cat"},
            {"image_id": 0, "category_id": 1, "keypoints": [1, 1, 2]},
        ],
    }
    records, bad = packed(formats.coco, document)
    assert (records.captions, bad.count) == (["a cat", "the cat"], 0)
    records, bad = packed(formats.coco, document, "boxes")
    assert len(records.boxes) == 2
    assert bad.messages == ["notes.json: annotations[3].bbox: expected x, y, width, height in pixels, found None"]


def test_places_in_files_with_lines():
    records, bad = Records(), BadRecords()
    document = [{"file": "a.jpg", "text": ["one", ""]}, {"file": "b.jpg", "text": 3}, 4]
    formats.pairs(document, "captions", records, RecordReader("notes.jsonl", bad, [1, 2, 5]))
    assert bad.messages == [
        "notes.jsonl:1: text[1]: is empty",
        "notes.jsonl:2: text: expected text, found 3",
        "notes.jsonl:5: expected a mapping, found 4",
    ]


def test_karpathy_paths_splits_and_sentences():
    document = {
        "images": [
            {
                "filename": "a.jpg",
                "filepath": "val2014",
                "split": "restval",
                "sentences": [{"raw": "one"}, {"raw": "two"}],
            },
            {"filename": "b.jpg", "split": "val", "sentences": [{"raw": "three"}, {"raw": 3}]},
            {"filename": "c.jpg", "sentences": None},
            {"filename": "d.jpg", "split": "dev", "sentences": []},
        ]
    }
    records, bad = packed(formats.karpathy, document)
    assert records.names == ["val2014/a.jpg", "b.jpg", "c.jpg"]
    assert records.split == {0: "train", 1: "validation", 2: "train"}
    assert [records.captions_of(n) for n in range(3)] == [["one", "two"], ["three"], []]
    assert bad.messages == [
        "notes.json: images[1].sentences[1].raw: expected text, found 3",
        "notes.json: images[2].sentences: expected a list, found None",
        "notes.json: images[3].split: 'dev' is none of train, restval, val, test",
    ]
    assert bad.tried == 4 + 2 + 2 + 1  # images, sentences, and the list that is missing


@pytest.mark.parametrize("splits", [("val", "train"), ("train", "val"), ("val", "test"), ("restval", "test")])
def test_an_image_in_two_splits_of_a_file_is_a_bad_record(splits):
    names = ["0.jpg", "./0.jpg"]  # another spelling is the same image
    images = [
        {"filename": name, "filepath": "val2014", "split": split, "sentences": [{"raw": split}]}
        for name, split in zip(names, splits, strict=True)
    ]
    records, bad = packed(formats.karpathy, {"images": [*images, images[0]]})
    stated = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
    first, second = (stated[split] for split in splits)
    assert records.split == {0: max(first, second, key=["train", "validation", "test"].index)}
    third_agrees = records.split == {0: first}
    assert dict(bad.kinds) == {"image in two splits": 1 if third_agrees else 2}
    assert bad.messages[0] == (
        f"notes.json: images[1].split: 'val2014/0.jpg' is in {second} here and in {first} in images[0]; "
        "it is not used for training"
    )


def test_equal_entries_of_an_image_are_merged():
    image = {"filename": "0.jpg", "split": "val", "sentences": [{"raw": "a"}]}
    records, bad = packed(formats.karpathy, {"images": [image, {**image, "sentences": [{"raw": "b"}]}]})
    assert (records.names, records.captions_of(0), bad.count) == (["0.jpg"], ["a", "b"], 0)


REGIONS = [{"id": 3, "regions": [{"phrase": "red  car", "x": 1, "y": 2, "width": 3, "height": 4}]}]


@pytest.mark.parametrize("key", ["id", "image_id"])
def test_visual_genome_regions_are_captions_or_boxes_without_class(key):
    document = [{key: 3, "regions": REGIONS[0]["regions"]}]
    records, _ = packed(formats.vg_regions, document)
    assert (records.names, records.captions) == (["3.jpg"], ["red car"])
    records, _ = packed(formats.vg_regions, document, "boxes")
    assert records.box_labels(0) == [((1, 2, 4, 6), "red car", "")]
    assert records.classes == []


def test_visual_genome_objects_have_both_spellings_of_their_sides():
    objects = [
        {"names": ["car", "auto"], "x": 0, "y": 0, "w": 2, "h": 2},
        {"names": "tree", "x": 1, "y": 1, "width": 2, "height": 3},
        {"names": [], "x": 1, "y": 1, "w": 2, "h": 3},
    ]
    records, bad = packed(formats.vg_objects, [{"image_id": 4, "id": 9, "objects": objects}], "boxes")
    assert records.names == ["4.jpg"]
    assert records.box_labels(0) == [((0, 0, 2, 2), "car", "car"), ((1, 1, 3, 4), "tree", "tree")]
    assert bad.messages == ["notes.json: [0].objects[2].names: expected text, found []"]


def test_pairs_have_one_caption_or_a_list():
    document = [
        {"image": "a.jpg", "caption": "one"},
        {"image": "b.jpg", "caption": ["two", "", "three"]},
        {"image": "a.jpg", "caption": "four"},
        {"image": "c.jpg", "caption": []},
        {"image": "d.jpg"},
    ]
    records, bad = packed(formats.pairs, document)
    assert records.names == ["a.jpg", "b.jpg"]  # no image of a record without captions
    assert [records.captions_of(n) for n in range(2)] == [["one", "four"], ["two", "three"]]
    assert bad.messages == [
        "notes.json: [1].caption[1]: is empty",
        "notes.json: [3].caption: is an empty list",
        "notes.json: [4].caption: expected text, found None",
    ]


def test_paths_of_windows_name_files_in_folders():
    records, _ = packed(
        formats.pairs, [{"image": "a\\b\\c.jpg", "caption": "one"}, {"image": "a/b/c.jpg", "caption": "two"}]
    )
    assert (records.names, records.captions) == (["a/b/c.jpg"], ["one", "two"])
    record = {"filename": "c.jpg", "filepath": "a\\b", "sentences": [{"raw": "one"}]}
    assert packed(formats.karpathy, {"images": [record]})[0].names == ["a/b/c.jpg"]
    document = {"images": [{"id": 1, "file_name": "a\\c.jpg"}], "annotations": [{"image_id": 1, "caption": "one"}]}
    assert packed(formats.coco, document)[0].names == ["a/c.jpg"]


def test_a_file_name_with_a_nul_character_is_refused():
    _, bad = packed(formats.pairs, [{"image": "a\0.jpg", "caption": "one"}])
    assert bad.messages == ["notes.json: [0].image: 'a\\x00.jpg' contains a NUL character"]
