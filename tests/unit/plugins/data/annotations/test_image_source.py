"""One source of images: splits, photos with scaled boxes, and absent phrases."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from plugins.data.annotations.image_source import ImageSource, SourceFiles
from plugins.data.bad_records import BadRecord


def write(folder, *, size=(40, 20), recorded=(40, 20), boxes=((0, 0, 20, 10),), crowd=False, count=1) -> SourceFiles:
    """Write ``count`` images of ``size``, with boxes in an image of the size ``recorded``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        Image.new("RGB", size, (number, 0, 0)).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": recorded[0], "height": recorded[1]})
        for i, box in enumerate(boxes):
            annotations.append({"image_id": number, "category_id": (number + i) % 3, "bbox": list(box)})
        if crowd:
            annotations.append(
                {"image_id": number, "category_id": (number + 1) % 3, "iscrowd": 1, "bbox": [0, 0, 1, 1]}
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "cow"))]
    (folder / "boxes.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )
    captions = [{"image": f"{number}.png", "caption": f"picture {number}"} for number in range(count)]
    (folder / "captions.json").write_text(json.dumps(captions))
    return SourceFiles(str(folder / "images"), [str(folder / "captions.json")], [str(folder / "boxes.json")])


def source(files: SourceFiles, seed: int = 0, held_out: float = 0.2) -> ImageSource:
    return ImageSource(files, "data.sources[0]", seed, held_out, 0.0)


def test_files_and_folders_that_do_not_exist_are_all_named(tmp_path):
    files = SourceFiles(str(tmp_path / "none"), [str(tmp_path / "a.json")], [str(tmp_path / "b.json")])
    with pytest.raises(ValueError, match="no folder") as caught:
        source(files)
    for place in ("images: no folder", "captions[0]: no file", "boxes[0]: no file"):
        assert f"data.sources[0].{place}" in str(caught.value)


def test_a_source_without_annotations(tmp_path):
    with pytest.raises(ValueError, match="names neither captions nor boxes"):
        source(SourceFiles(str(tmp_path)))


def test_boxes_are_scaled_to_the_image_as_it_is_read(tmp_path):
    photos = source(write(tmp_path, size=(40, 20), recorded=(80, 40), boxes=((8, 4, 40, 20), (60, 20, 100, 100))))
    photo = photos.photo(0, 10)
    assert photo.image.shape == (3, 10, 20)
    assert [region.box for region in photo.regions] == [(2, 1, 12, 6), (15, 5, 20, 10)]
    assert [region.label for region in photo.regions] == ["cat", "dog"]
    assert photo.left_out == ()


def test_other_proportions_than_in_the_record_are_refused(tmp_path):
    photos = source(write(tmp_path, size=(40, 20), recorded=(20, 40), boxes=((0, 0, 5, 5),)))
    with pytest.raises(BadRecord, match=r"0\.png: has 40 x 20 pixels, and its record says 20 x 40: not the same"):
        photos.photo(0, 10)


def test_boxes_outside_an_image_without_a_recorded_size(tmp_path):
    files = write(tmp_path)
    regions = [
        {"phrase": "a cat", "x": 1, "y": 1, "width": 4, "height": 4},
        {"phrase": "far", "x": 99, "y": 0, "width": 3, "height": 3},
    ]
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "7.jpg")
    (tmp_path / "boxes.json").write_text(json.dumps([{"id": 7, "regions": regions}]))
    photos = source(SourceFiles(files.images, [], files.boxes))
    photo = photos.photo(0, 20)
    assert [region.phrase for region in photo.regions] == ["a cat"]
    assert "'far': x0, y0, x1, y1 = 99, 0, 102, 3 lies outside the image of 40 x 20" in photo.left_out[0]
    (tmp_path / "boxes.json").write_text(json.dumps([{"id": 7, "regions": regions[1:]}]))
    with pytest.raises(BadRecord, match="none of its 1 boxes is inside"):
        source(SourceFiles(files.images, [], files.boxes)).photo(0, 20)


def test_splits_depend_on_seed_and_path_only(tmp_path):
    photos = source(write(tmp_path, count=60))
    for number, name in enumerate(photos.records.names):
        place = photos.hash_fraction(name)
        assert photos.split[number] == (1 if place < 0.2 else 2 if place < 0.4 else 0)
        for spelling in (f"./{name}", f".//.\\{name}", f"{tmp_path}/images/{name}"):
            assert photos.hash_fraction(spelling) == place
        assert photos.hash_fraction(f"folder/{name}") != place
        assert photos.hash_fraction(f"folder/{name}") == photos.hash_fraction(f"./folder\\{name}")
    assert set(photos.split) == {0, 1, 2}
    assert (photos.split != source(write(tmp_path, count=60), seed=1).split).any()
    assert not source(write(tmp_path, count=60), held_out=0.0).split.any()
    captioned = photos.records.captioned
    parts = [photos.in_split(split, captioned).tolist() for split in ("train", "validation", "test")]
    assert sorted(number for part in parts for number in part) == captioned.tolist()


def test_an_absent_class_is_in_no_box_no_crowd_and_no_caption(tmp_path):
    photos = source(write(tmp_path, count=3))
    for number in range(3):
        regions = photos.photo(number, 20).regions
        absent = photos.absent(number, regions)
        assert absent in {"cat", "dog", "cow"} - {regions[0].label}
        assert photos.absent(number, regions) == absent
    assert photos.absent(0, ()) == ""
    photos = source(write(tmp_path, count=3, crowd=True))
    assert photos.absent(0, photos.photo(0, 20).regions) == "cow"
    photos = source(write(tmp_path, count=3))
    photos.records.captions[photos.records.captions.index("picture 0")] = "A COW and a dog"
    assert photos.absent(0, photos.photo(0, 20).regions) == ""


def test_visual_genome_subfolders_are_searched(tmp_path):
    files = write(tmp_path)
    (tmp_path / "images" / "VG_100K_2").mkdir()
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "VG_100K_2" / "0.png")
    assert source(files).file(0).endswith("VG_100K_2/0.png")
    assert source(files).photo(0, 20).image.shape == (3, 20, 40)


def test_backslashes_of_windows_are_read_as_slashes(tmp_path):
    files = write(tmp_path)
    (tmp_path / "images" / "sub").mkdir()
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "sub" / "0.png")
    (tmp_path / "captions.json").write_text(json.dumps([{"image": "sub\\0.png", "caption": "a"}]))
    assert source(SourceFiles(files.images, files.captions)).photo(0, 20).image.shape == (3, 20, 40)


def test_an_absent_class_is_in_no_other_source_of_the_image(tmp_path):
    photos, other = source(write(tmp_path / "a", count=3)), source(write(tmp_path / "b", count=3))
    regions = photos.photo(0, 20).regions
    assert photos.absent(0, regions) in {"dog", "cow"}
    assert photos.absent(0, regions, [(other, 1)]) == "cow"  # the other one has a box of a dog
    assert photos.absent(0, regions, [(other, 1), (other, 2)]) == ""


def test_a_probe_passes_with_one_usable_image(tmp_path):
    files = write(tmp_path, count=3)
    for number in (0, 1):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"")
    source(files).probe(20)
    (tmp_path / "images" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data.sources\[0\]: none of 3 images read can be used: 3 x empty file"):
        source(files).probe(20)
