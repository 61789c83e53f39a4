"""Images turned upright by their EXIF orientation, with boxes drawn on the stored or on the upright pixels."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from PIL import Image

from plugins.data.annotations.image_source import ImageSource, SourceFiles
from plugins.data.annotations.orientation import turn_box
from plugins.data.bad_records import BadRecord
from plugins.data.coco import Coco

UPRIGHT_BOX = (6, 4, 10, 22)  # x, y, width, height of the red area in the upright image, near its top left corner
STORED = {  # Pillow's transposes that make what the camera stores
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def upright(size=(48, 80)) -> Image.Image:
    image = Image.new("RGB", size, "blue")
    x, y, width, height = UPRIGHT_BOX
    image.paste((255, 0, 0), (x, y, x + width, y + height))
    return image


def red_box(image: Image.Image) -> list[int]:
    """Return x, y, width, height of the red area."""
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 128)
    return [int(n) for n in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)]


def save(folder, orientation, size=(48, 80), name="0.png") -> Image.Image:
    """Save the upright image as a camera does; return what is stored."""
    (folder / "images").mkdir(exist_ok=True)
    image, exif = upright(size), Image.Exif()
    stored = image.transpose(STORED[orientation]) if orientation in STORED else image
    exif[0x0112] = orientation
    stored.save(folder / "images" / name, exif=exif)
    return stored


def photo_of(folder, boxes, size=None):
    """Read the image 0.png with boxes x, y, width, height; ``size`` is the one that its record gives."""
    if size:
        image = {"id": 0, "file_name": "0.png", "width": size[0], "height": size[1]}
        annotations = [{"image_id": 0, "category_id": 1, "bbox": list(map(int, box))} for box in boxes]
        document = {"images": [image], "categories": [{"id": 1, "name": "red"}], "annotations": annotations}
    else:
        (folder / "images" / "0.png").rename(folder / "images" / "0.jpg")
        regions = [{"phrase": "red", **dict(zip(("x", "y", "width", "height"), box, strict=True))} for box in boxes]
        document = [{"id": 0, "regions": regions}]
    (folder / "boxes.json").write_text(json.dumps(document))
    files = SourceFiles(str(folder / "images"), [], [str(folder / "boxes.json")])
    return ImageSource(files, "data.sources[0]", 0, 0.0, 0.0).photo(0, 1000)


def assert_box_on_red(photo, index=0):
    image = photo.image.permute(1, 2, 0).numpy()  # (h, w, 3)
    x, y, width, height = red_box(Image.fromarray(image))
    assert photo.regions[index].box == pytest.approx((x, y, x + width, y + height))
    assert (x, y) == UPRIGHT_BOX[:2], "the image is not upright"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["stored", "upright"])
def test_boxes_lie_on_what_they_were_drawn_on(tmp_path, orientation, drawn_on):
    stored = save(tmp_path, orientation)
    ambiguous = orientation < 5  # both have the same size: boxes are on the stored pixels, as in COCO
    source = stored if drawn_on == "stored" or ambiguous else upright()
    photo = photo_of(tmp_path, [red_box(source)], source.size)
    assert_box_on_red(photo)
    if orientation == 1:
        assert photo.turn_note is None
        return
    kind, message = photo.turn_note
    assert f"0.png: has EXIF orientation {orientation}: turned upright" in message
    if ambiguous:
        assert message.endswith("with its boxes, which were drawn on the stored pixels (assumed, as in COCO)")
    elif drawn_on == "stored":
        assert message.endswith("which were drawn on the stored pixels (its record says 80 x 48)")
    else:
        assert message.endswith("its boxes were drawn on the upright image (its record says 48 x 80)")
        assert kind == "image turned upright, without its boxes"


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("scale", [0.5, 4])
def test_a_record_of_another_resolution_decides_by_its_proportions(tmp_path, orientation, scale):
    stored = save(tmp_path, orientation)
    for drawn_on in (stored, upright()):
        box = [scale * side for side in red_box(drawn_on)]
        assert_box_on_red(photo_of(tmp_path, [box], [int(scale * side) for side in drawn_on.size]))


@pytest.mark.parametrize("orientation", [6, 8])
def test_an_almost_square_image_is_decided_by_its_exact_size(tmp_path, orientation):
    stored = save(tmp_path, orientation, (100, 101))
    for drawn_on in (stored, upright((100, 101))):
        assert_box_on_red(photo_of(tmp_path, [red_box(drawn_on)], drawn_on.size))


def test_without_a_size_boxes_that_fit_only_one_decide(tmp_path):
    stored = save(tmp_path, 6)
    low = (5, 60, 10, 10)  # fits 48 x 80, the upright image, alone
    photo = photo_of(tmp_path, [UPRIGHT_BOX, low])
    assert_box_on_red(photo)
    assert "drawn on the upright image (only there do its boxes fit)" in photo.turn_note[1]
    save(tmp_path, 6)
    right = (60, 5, 10, 10)  # fits the stored 80 x 48 alone
    photo = photo_of(tmp_path, [red_box(stored), right])
    assert_box_on_red(photo)
    assert "drawn on the stored pixels (only there do its boxes fit)" in photo.turn_note[1]
    save(tmp_path, 6)
    photo = photo_of(tmp_path, [(1, 1, 20, 20)])  # fits both
    assert "assumed, as in COCO" in photo.turn_note[1]
    assert photo.regions[0].box == (48 - 21, 1, 48 - 1, 21)


def test_a_square_image_is_taken_as_in_coco(tmp_path):
    stored = save(tmp_path, 8, (64, 64))
    photo = photo_of(tmp_path, [red_box(stored)], (64, 64))
    assert_box_on_red(photo)
    assert "assumed, as in COCO" in photo.turn_note[1]


def test_other_proportions_are_refused_with_both_sizes(tmp_path):
    save(tmp_path, 6)
    with pytest.raises(
        BadRecord, match=r"0\.png: has 80 x 48 pixels, 48 x 80 upright, and its record says 50 x 50: not"
    ):
        photo_of(tmp_path, [(1, 1, 5, 5)], (50, 50))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_a_box_keeps_its_area_and_corner(orientation):
    size = (48, 80) if orientation < 5 else (80, 48)
    whole = turn_box((0, 0, *size), size, orientation)
    assert whole == (0, 0, 48, 80)


def test_captions_and_boxes_are_upright_in_training_and_evaluation_and_counted_by_verify(tmp_path, caplog):
    names, stored = [f"{i}.jpg" for i in range(6)], save(tmp_path, 6, name="0.jpg")
    for name in names[1:4]:
        save(tmp_path, 6, name=name)
    for name in names[4:]:
        save(tmp_path, 1, name=name)
    captions = [{"image": name, "caption": "red at the top"} for name in names]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    images = [{"id": i, "file_name": names[i], "width": 80, "height": 48} for i in range(2)]
    boxes = [{"image_id": i, "category_id": 1, "bbox": red_box(stored)} for i in range(2)]
    document = {"images": images, "categories": [{"id": 1, "name": "red"}], "annotations": boxes}
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    files = SourceFiles(str(tmp_path / "images"), [str(tmp_path / "captions.json")], [str(tmp_path / "boxes.json")])
    with caplog.at_level(logging.WARNING, "patchbay"):
        data = Coco(sources=[files], image_size=32, held_out=0, region_batch_size=2)
        examples = data.held_out("train", 6)
        boxed = data.boxed_example(0, np.random.default_rng(0))
    want = next(example.image for example in examples if example.key == "5.jpg").int()
    for example in examples:
        assert (example.image.int() - want).abs().float().mean() < 4, example.key
    assert boxed.image.shape == (3, 77, 46)  # (3, h, w), reduced
    x, y, width, height = (side * 46 / 48 for side in UPRIGHT_BOX)
    assert boxed.regions[0].box == pytest.approx((x, y, x + width, y + height), abs=0.2)
    (line,) = [record.getMessage() for record in caplog.records]
    sentence = "has EXIF orientation 6: turned upright with its boxes, which were drawn on the stored pixels"
    assert f"0.jpg: {sentence} (its record says 80 x 48). Others are not logged" in line
    report = data.verify()
    assert report["skipped"] == {}
    assert [message.replace(f"{tmp_path}/images/", "") for message in report["messages"]] == [
        f"2 x image turned upright with its boxes. First: 0.jpg: {sentence} (its record says 80 x 48)",
        "2 x image turned upright. First: 2.jpg: has EXIF orientation 6: turned upright",
    ]
