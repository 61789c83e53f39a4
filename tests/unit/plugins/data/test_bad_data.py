"""Everything that can be wrong with pictures and annotation files: exact counts, exact messages, and what is read all
the same."""

import json
import logging
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from plugins.data import image_files
from plugins.data.annotations import read
from plugins.data.annotations.image_source import SourceFiles
from plugins.data.annotations.read import load_json, read_annotations
from plugins.data.annotations.records import Records
from plugins.data.bad_records import BadRecord
from plugins.data.coco import Coco
from plugins.data.image_files import read_upright

GOOD = [f"good{i}.jpg" for i in range(12)]
KINDS = ["cmyk.jpg", "grey16.png", "palette.png", "animation.gif", "transparent.png"]
BAD = ["cut.jpg", "page.jpg", "empty.jpg", "bomb.png", "missing.jpg"]
NAMES = GOOD + KINDS + BAD
WIDTH, HEIGHT = 48, 36
KEYS = ["id", "image_id", "category_id", "bbox", "iscrowd", "caption", "file_name", "width", "height", "name", "names"]
KEYS += [
    "filename",
    "filepath",
    "sentences",
    "raw",
    "split",
    "regions",
    "objects",
    "phrase",
    "x",
    "y",
    "w",
    "h",
    "image",
]
READS = frozenset({"masked", "prefixed", "regions"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve good photos, five of unusual make, four that cannot be used, and one that is not there."""
    root = tmp_path_factory.mktemp("bad")
    images = root / "images"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for i, name in enumerate(GOOD):
        Image.fromarray(np.roll(noise, i, 0)).save(images / name)
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(images / "cmyk.jpg", quality=95)
    ramp = np.linspace(0, 65535, WIDTH).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (HEIGHT, 1))).save(images / "grey16.png")
    palette = Image.new("P", (WIDTH, HEIGHT), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(images / "palette.png")
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("blue", "red", "red")]
    frames[0].save(images / "animation.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (WIDTH, HEIGHT), (255, 0, 0, 0)).save(images / "transparent.png")
    whole = (images / "good0.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "page.jpg").write_text("<!DOCTYPE html>\n<html><body>404 Not Found</body></html>")
    (images / "empty.jpg").touch()
    Image.new("1", (20_000, 10_000)).save(images / "bomb.png")
    assert (images / "bomb.png").stat().st_size < 2**20
    save(root, "captions", captions())
    save(root, "boxes", instances())
    return root


def save(root, name, document):
    (root / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def captions(*extra):
    """Every picture with one caption; ``extra`` are further annotations."""
    images = [{"id": i, "file_name": name} for i, name in enumerate(NAMES)]
    said = [{"id": i, "image_id": i, "caption": f"a picture called {name}"} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": [*said, *extra]}


def instances(*extra):
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(GOOD)]
    boxes = [{"image_id": i, "category_id": 1 + i % 2, "bbox": [1, 2, 20, 10]} for i in range(len(GOOD))]
    kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "categories": kinds, "annotations": [*boxes, *extra]}


def make(root, captions="captions", boxes="boxes", **settings):
    source = SourceFiles(str(root / "images"), [str(root / f"{captions}.json")], [str(root / f"{boxes}.json")])
    return Coco(
        **{"sources": [source], "image_size": 32, "held_out": 0, "budget": 0.5, "region_batch_size": 4, **settings}
    )


def messages(root, verified):
    return [message.replace(f"{root}/", "") for message in verified["messages"]]


def test_every_bad_picture_is_counted_and_named(folder):
    found = make(folder).verify()
    assert (found["pictures"], found["records"]) == (22, 22 + 22 + 12 + 12 + 2)
    assert found["skipped"] == {
        "damaged picture": 1,
        "not a picture": 1,
        "empty file": 1,
        "picture too large": 1,
        "missing file": 1,
    }
    said = [message.removeprefix("images/") for message in messages(folder, found)]
    cut = r"cut\.jpg: cannot be used as an image: damaged or cut off: image file is truncated"
    assert re.fullmatch(rf"{cut} \(\d+ bytes not processed\)", said[0])
    assert said[1:] == [
        "page.jpg: cannot be used as an image: expected JPEG or PNG or GIF or WEBP or BMP; it holds a web page",
        "empty.jpg: cannot be used as an image: it is empty, 0 bytes",
        "bomb.png: cannot be used as an image: more than 67108864 pixels",
        "missing.jpg: cannot be used as an image: no such file",
    ]


def test_pictures_of_every_make_are_read(folder):
    def read(name, short=0):
        image = read_upright(str(folder / "images" / name), short)
        pixels = image.pixels
        assert image.stored_size == (WIDTH, HEIGHT)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (HEIGHT, WIDTH, 3) if not short else (short, WIDTH * short // HEIGHT, 3)
        return pixels.astype(int)

    assert (abs(read("cmyk.jpg")[5, 5] - [255, 0, 0]) <= 8).all()
    grey = read("grey16.png")[0, :, 0]
    assert (grey == np.rint(np.linspace(0, 65535, WIDTH).astype(np.uint16) / 257)).all()  # scaled, not clipped
    assert (read("palette.png") == [10, 200, 30]).all()
    assert (read("animation.gif") == [0, 0, 255]).all()  # its first frame
    assert (read("transparent.png") == 255).all()  # on white
    assert abs(read("good0.jpg", short=18).mean() - read("good0.jpg").mean()) < 3


def test_a_bomb_just_over_the_bound_and_a_huge_file(tmp_path, monkeypatch):
    Image.new("1", (8200, 8200)).save(tmp_path / "large.png")  # below the bound of Pillow itself
    with pytest.raises(BadRecord, match=r"large.png: .*: 8200 x 8200 pixels are more than 67108864"):
        read_upright(str(tmp_path / "large.png"))
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    with pytest.raises(BadRecord, match=r"large.png: .*: larger than 100 bytes"):
        read_upright(str(tmp_path / "large.png"))


def test_frames_are_counted_and_named(folder):
    bad = [
        {"image_id": 0, "category_id": 1, "bbox": [48, 0, 5, 5]},
        {"image_id": 0, "category_id": 1, "bbox": [3, -9, 5, 9]},
        {"image_id": 1, "category_id": 1, "bbox": [3, 3, 0, 5]},
        {"image_id": 1, "category_id": 1, "bbox": [3, 3, 5, -5]},
        {"image_id": 2, "category_id": 1, "bbox": [3, 3, float("nan"), 5]},
        {"image_id": 2, "category_id": 1, "bbox": [3, float("inf"), 5, 5]},
        {"image_id": 2, "category_id": 1, "bbox": [3, "3", 5, 5]},
        {"image_id": 2, "category_id": 1, "bbox": [3, 3, 5]},
        {"image_id": 2, "category_id": 1},
        {"image_id": 99, "category_id": 1, "bbox": [3, 3, 5, 5]},
        {"image_id": 3, "category_id": 7, "bbox": [3, 3, 5, 5]},
        "box",
        {"image_id": 4, "category_id": 2, "bbox": [-5, -5, 500, 500]},  # good: is clipped
        {"image_id": 4, "category_id": 2, "iscrowd": 1, "bbox": "run length"},  # good: is left out without a word
    ]
    save(folder, "frames", instances(*bad))
    data = make(folder, boxes="frames")
    found = data.pool.sources[0].bad
    assert found.kinds == {
        "box outside the picture": 2,
        "box without area": 2,
        "box without numbers": 5,
        "unknown image": 1,
        "unknown category": 1,
        "wrong shape": 1,
    }
    expected = "expected x, y, width, height in pixels, found"
    assert [m.replace(f"{folder}/frames.json: annotations", "") for m in found.messages] == [
        "[12].bbox: x0, y0, x1, y1 = 48, 0, 53, 5 lies outside the image of 48 x 36",
        "[13].bbox: x0, y0, x1, y1 = 3, -9, 8, 0 lies outside the image of 48 x 36",
        "[14].bbox: is 0 wide and 5 high; at least 0.1 is needed",
        "[15].bbox: is 5 wide and -5 high; at least 0.1 is needed",
        f"[16].bbox: {expected} [3, 3, nan, 5]",
        f"[17].bbox: {expected} [3, inf, 5, 5]",
        f"[18].bbox: {expected} [3, '3', 5, 5]",
        f"[19].bbox: {expected} [3, 3, 5]",
        f"[20].bbox: {expected} None",
        "[21].image_id: no image has the id 99",
        "[22].category_id: no category has the id 7",
        "[23]: expected a mapping, found 'box'",
    ]
    records = data.pool.sources[0].records
    assert [spoken.box for spoken in records.box_labels(4)] == [(1, 2, 21, 12), (0, 0, WIDTH, HEIGHT)]
    assert records.crowds == {4: {"dog"}}


def test_words_are_counted_and_named(folder, caplog):
    bad = [
        {"image_id": 0, "caption": ""},
        {"image_id": 0, "caption": " \n\t"},
        {"image_id": 0, "caption": 7},
        {"image_id": 0, "caption": None},
        {"image_id": 0, "caption": "x" * 2001},
        {"image_id": 0, "caption": "half \ud800"},
        {"image_id": 99, "caption": "nobody"},
        {"image_id": 0, "caption": "y " * 1000},  # good: the tokenizer cuts it
    ]
    document = captions(*bad)
    document["images"] += [{"id": 0, "file_name": "again.jpg"}, {"id": 77, "file_name": ""}, {"file_name": "a.jpg"}]
    document["annotations"].append({"image_id": 77, "caption": "is lost with its image, and counted"})
    save(folder, "words", document)
    with caplog.at_level(logging.WARNING, "patchbay"):
        data = make(folder, captions="words")
    (line,) = [record.getMessage() for record in caplog.records]
    file = f"{folder}/words.json"
    assert line == (
        f"{file}: 11 of 56 records skipped: 3 x caption is no text, 2 x empty caption, 1 x duplicate image, 1 x empty "
        f"file name, 1 x record without id, 1 x caption too long, 1 x unknown image, 1 x annotation of a bad image. "
        f"First: {file}: images[22].id: 0 is the id of an earlier image too, 'good0.jpg', which has its annotations; "
        f"{file}: images[23].file_name: is empty; "
        f"{file}: images[24].id: expected a number or text, found None"
    )
    found = data.pool.sources[0].bad
    assert found.kinds == {
        "duplicate image": 1,
        "empty file name": 1,
        "record without id": 1,
        "empty caption": 2,
        "caption is no text": 3,
        "caption too long": 1,
        "unknown image": 1,
        "annotation of a bad image": 1,
    }
    assert [m.replace(f"{file}: ", "") for m in found.messages] == [
        "images[22].id: 0 is the id of an earlier image too, 'good0.jpg', which has its annotations",
        "images[23].file_name: is empty",
        "images[24].id: expected a number or text, found None",
        "annotations[22].caption: is empty",
        "annotations[23].caption: is blank",
        "annotations[24].caption: expected text, found 7",
        "annotations[25].caption: expected text, found None",
        "annotations[26].caption: has 2001 letters; at most 2000 are accepted",
        "annotations[27].caption: holds half of a surrogate pair at letter 5",
        "annotations[28].image_id: no image has the id 99",
        "annotations[30].image_id: the image with the id 77 is skipped",
    ]
    assert data.tokenizer(["y " * 1000]).ids.shape == (1, 25)
    assert len(data.pool.captions(0)) == 2


@pytest.mark.parametrize(("budget", "passes"), [(0.05, False), (0.2, True)])
def test_the_budget_decides(folder, budget, passes):
    save(folder, "some_bad", captions(*[{"image_id": 0, "caption": ""}] * 4))
    file = f"{folder}/some_bad.json"
    if passes:
        records = Records()
        assert read_annotations(file, "captions", records, budget).count == 4
        return
    place = rf"{re.escape(file)}: annotations\[2[2-4]\].caption: is empty"
    message = (
        rf"some_bad.json: 4 of 48 records cannot be used; budget=0.05 allows 2. 4 x empty caption. First: {place}; "
    )
    with pytest.raises(ValueError, match=message):
        read_annotations(file, "captions", Records(), budget)


WHOLE = {
    "not UTF-8": (b'[{"image": "a.jpg", "caption": "\xff"}]', r"x.json:1:33: not UTF-8: byte 0xff: invalid start byte"),
    "cut off": (
        b'[\n{"image": "a.jpg", "cap',
        r"x.json:2:20: is not JSON: Unterminated string .*\(the file is cut off\)",
    ),
    "cut off between": (b'[{"image": "a.jpg"},', r"x.json:1:2[01]: is not JSON: .*\(the file is cut off\)"),
    "empty": (b"", r"x.json:1:1: is not JSON: Expecting value \(the file is cut off\)"),
    "a page": (b"<html>", r"x.json:1:1: is not JSON: Expecting value$"),
    "too deep": (b"[" * 200_000, r"x.json: is not JSON that can be read: maximum recursion depth"),
    "too long a number": (b"[" + b"1" * 5000 + b"]", r"x.json: is not JSON that can be read: Exceeds the limit"),
    "a number": (b"3", r"x.json: 3 is no file of captions; accepted: COCO captions \{images"),
    "another mapping": (b'{"a": 1, "b": 2}', r"x.json: a mapping with the keys \['a', 'b'\] is no file of captions"),
    "an empty list": (b"[]", r"x.json: a list of None is no file of captions"),
    "other mappings": (b'[{"url": 1}]', r"x.json: a list of mappings with the keys \['url'\] is no file of captions"),
    "nothing good": (
        b'[{"image": "a.jpg", "caption": ""}]',
        r"x.json: holds no usable record: 1 x empty caption. First: ",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_files_that_are_wrong_as_a_whole(tmp_path, case):
    content, message = WHOLE[case]
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_annotations(str(tmp_path / "x.json"), "captions", Records(), 0.5)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-9, 10**40) | st.text(max_size=3) | st.just("a.jpg"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=9), min_size=1, max_size=4)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        JSON,
        RECORDS,
        st.fixed_dictionaries({"images": RECORDS, "annotations": RECORDS, "categories": RECORDS | JSON}),
    ),
    st.sampled_from(["captions", "boxes"]),
)
def test_whatever_a_file_holds_it_is_read_or_refused_in_words(tmp_path, document, role):
    file = tmp_path / "any.json"
    file.write_text(json.dumps(document))
    records = Records()
    try:
        faults = read_annotations(str(file), role, records, 0.9)
    except ValueError as err:
        said = str(err)
    else:
        said = f"{file}: {faults.count} of {faults.tried}"
        assert faults.count < faults.tried
        records.pack()
        assert sum(len(records.captions_of(n)) for n in range(len(records.names))) == len(records.captions)
        assert np.isfinite(records.boxes).all()
    assert said.startswith(str(file))


def test_a_file_of_boxes_is_none_of_captions(folder):
    with pytest.raises(ValueError, match=r"boxes.json: a mapping with the keys .* is no file of captions; accepted: "):
        read_annotations(f"{folder}/boxes.json", "captions", Records(), 0.5)
    with pytest.raises(ValueError, match=r"captions.json: .* is no file of boxes; accepted: COCO instances \{images"):
        read_annotations(f"{folder}/captions.json", "boxes", Records(), 0.5)


def test_a_file_that_is_not_there_or_too_large(tmp_path, monkeypatch):
    (tmp_path / "captions.json").write_text(" " * 101)
    with pytest.raises(ValueError, match=r"caption.json: no such file. Did you mean 'captions.json'\?$"):
        load_json(f"{tmp_path}/caption.json")
    monkeypatch.setattr(read, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"captions.json: larger than 100 bytes$"):
        load_json(f"{tmp_path}/captions.json")


def fault(call):
    """What a call that must fail says."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        call()
    return str(caught.value)


def test_sources_that_are_not_there(folder, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "captions.json").touch()
    wrong = SourceFiles(f"{tmp_path}/image", [f"{tmp_path}/captoins.json"], [f"{tmp_path}/nowhere/boxes.json"])
    assert fault(lambda: Coco(sources=[wrong])).replace(f"{tmp_path}/", "") == (  # all of them at once
        "sources[0].images: no folder 'image'. Did you mean 'images'?; "
        "sources[0].captions[0]: no file 'captoins.json'. Did you mean 'captions.json'?; "
        "sources[0].boxes[0]: no file 'nowhere/boxes.json'; no folder 'nowhere'"
    )
    with pytest.raises(ValueError, match=r"sources\[0\]: names neither captions nor boxes"):
        Coco(sources=[SourceFiles(f"{folder}/images")])
    with pytest.raises(ValueError, match="sources: the list is empty"):
        Coco(sources=[])
    with pytest.raises(ValueError, match="sources: no image with a caption is left for training"):
        Coco(sources=[SourceFiles(f"{folder}/images", [], [f"{folder}/boxes.json"])], held_out=0)


def test_a_source_that_yields_nothing_good_stops_at_once(folder, tmp_path):
    source = SourceFiles(str(tmp_path), [f"{folder}/captions.json"])
    assert fault(lambda: Coco(sources=[source], image_size=32)) == (
        "sources[0]: none of 5 images read can be used: 5 x missing file. First: "
        f"{tmp_path}/good0.jpg: cannot be used as an image: no such file; "
        f"{tmp_path}/good5.jpg: cannot be used as an image: no such file; "
        f"{tmp_path}/good10.jpg: cannot be used as an image: no such file"
    )


def test_too_many_bad_pictures_stop_training(folder, caplog):
    data = make(folder, budget=0.01)
    with caplog.at_level(logging.WARNING, "patchbay"):
        said = fault(lambda: [data.batch(step, size=8, seed=0, reads=READS) for step in range(20)])
    assert re.match(r"4 of \d+ images read cannot be used; budget=0.01 allows 3. 1 x ", said)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) == 3  # each once
    assert all(line.endswith(". It is skipped.") for line in lines)


def test_another_picture_is_drawn_for_a_bad_one_whatever_was_drawn_before(folder):
    fresh, used = make(folder), make(folder)
    for step in (3, 0, 1):
        used.batch(step, size=16, seed=0, reads=READS)
    one, other = (data.batch(2, size=16, seed=0, reads=READS) for data in (fresh, used))
    assert (one.images == other.images).all()
    assert (one.text.ids == other.text.ids).all()
    said = [fresh.tokenizer.decode(ids) for ids in one.text.ids]
    assert not any(name.split(".")[0] in caption for name in BAD for caption in said)
    assert len(fresh.held_out("train", 100)) == len(GOOD + KINDS)


def test_boxes_follow_a_picture_of_another_size_but_not_of_other_proportions(folder):
    document = instances()
    document["images"][0] |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    document["images"][1] |= {"width": HEIGHT, "height": WIDTH}
    document["images"][2] |= {"width": 0}
    save(folder, "sizes", document)
    data = make(folder, boxes="sizes")
    assert data.pool.sources[0].bad.kinds == {"image without size": 1, "annotation of a bad image": 1}
    assert data.held_out("train", 1)[0].regions[0].box == pytest.approx((32 / 96, 64 / 72, 21 * 32 / 96, 12 * 32 / 72))
    assert data.pool.photo(1) is None
    assert data.pool.bad.messages == [
        f"{folder}/images/good1.jpg: has 48 x 36 pixels, and its record says 36 x 48: not the same proportions"
    ]
