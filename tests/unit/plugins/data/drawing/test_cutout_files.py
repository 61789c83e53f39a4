"""Folders of objects and backgrounds: captions, sizes and splits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from plugins.data.drawing import cutout_files
from plugins.data.drawing.compositing import ObjectSpec
from plugins.data.drawing.cutout_files import (
    OBJECT_SIDES,
    Cutout,
    head,
    read_background,
    read_caption,
    read_objects,
    split_backgrounds,
    split_objects,
)


def save(path, size=(40, 20), colour=(200, 10, 10, 255)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, colour).save(path)


def cutouts(*nouns: str) -> dict[str, Cutout]:
    return {noun: Cutout(ObjectSpec(noun, noun), []) for noun in nouns}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("An abalone.", ("an", "abalone")),
        ("\ufeffThe  Teddy bear\r\nsecond line", ("the", "teddy bear")),
        ("Some grapes", ("some", "grapes")),
        ("Andes", ("", "andes")),
    ],
)
def test_article_and_noun(tmp_path, line, expected):
    (tmp_path / "a.txt").write_text(line, encoding="utf-8")
    assert read_caption(str(tmp_path / "a.txt")) == expected


@pytest.mark.parametrize("line", ["", "\nA cat.", "A.", " . ", "a \u200b", "\u3164\ufe0f"])
def test_a_caption_without_a_noun_is_an_error_with_its_line(tmp_path, line):
    (tmp_path / "a.txt").write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.txt:1: the caption is empty; expected a phrase such as 'An abalone\.'"):
        read_caption(str(tmp_path / "a.txt"))


def test_objects_have_three_sizes_and_one_noun_collects_its_images(tmp_path):
    for name in ("a", "sub/b"):
        save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("A red car.")
    save(tmp_path / "without_caption.png")
    objects = read_objects(str(tmp_path), 100)
    assert list(objects) == ["red car"]
    assert objects["red car"].spec == ObjectSpec("red car", "red car", "a")
    sizes = [sprite.rest.shape for sprite in objects["red car"].sprites]
    assert sizes == 2 * [(round(50 * side), round(100 * side)) for side in OBJECT_SIDES]


def test_an_object_is_trimmed_before_it_is_resized(tmp_path):
    rgba = np.zeros((50, 50, 4), np.uint8)
    rgba[10:20, 30:35] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a bar")
    assert read_objects(str(tmp_path), 100)["bar"].sprites[0].rest.shape == (24, 12)


def test_a_background_has_a_short_side_of_one_and_a_quarter(tmp_path):
    save(tmp_path / "a.png", (60, 30), (1, 2, 3, 255))
    image = read_background(str(tmp_path / "a.png"), 32)
    assert (image.shape, image.dtype) == ((3, 40, 80), np.uint8)
    assert image[:, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("orientation", [3, 6])
def test_objects_and_backgrounds_are_turned_upright(tmp_path, orientation):
    upright, exif = Image.new("RGBA", (20, 40), (0, 0, 255, 255)), Image.Exif()
    upright.paste((255, 0, 0, 255), (0, 0, 20, 10))  # red at the top
    exif[0x0112] = orientation
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    upright.transpose(turn).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "a.txt").write_text("a bar")
    image = read_background(str(tmp_path / "a.png"), 32)
    assert image.shape == (3, 80, 40)
    assert image[:, 2, 20].tolist() == [255, 0, 0]
    upright.save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a bar")
    turned, plain = np.split(
        np.array([sprite.rest for sprite in read_objects(str(tmp_path), 100)["bar"].sprites[::3]]), 2
    )
    assert np.array_equal(turned, plain)


def test_links_in_folders_of_backgrounds_change_nothing(tmp_path):
    for i in range(6):
        (tmp_path / "real").mkdir(exist_ok=True)
        (tmp_path / "real" / f"{i}.jpg").touch()
    before = split_backgrounds(str(tmp_path), 0)
    (tmp_path / "all").symlink_to("real")
    (tmp_path / "real" / "up").symlink_to("..")
    assert split_backgrounds(str(tmp_path), 0) == before


NOUNS = [f"{word} {i}{word}" for i, word in enumerate("ant bee cat dog elk fox gnu hen ibis jay".split())]  # noqa: SIM905


def test_the_split_of_nouns_depends_on_seed_and_names_only():
    training, withheld = split_objects(cutouts(*NOUNS), 3, "f")
    assert (training, withheld) == split_objects(cutouts(*reversed(NOUNS)), 3, "f")
    assert sorted(training + withheld) == sorted(NOUNS)
    assert len(withheld) == 2
    assert (training, withheld) != split_objects(cutouts(*NOUNS), 4, "f")


def test_nouns_need_different_last_words():
    assert head("teddy bear") == "bear"
    with pytest.raises(ValueError, match=r"objects: 'f' holds 10 captions .*at least 8 are needed"):
        split_objects(cutouts(*(f"{noun} bear" for noun in NOUNS)), 0, "f")


@pytest.mark.parametrize(("count", "held_out"), [(3, 1), (9, 1), (20, 2)])
def test_backgrounds_are_split_without_overlap(tmp_path, count, held_out):
    for i in range(count):
        (tmp_path / f"{i}.jpg").touch()
    splits = split_backgrounds(str(tmp_path), 0)
    assert [len(splits[name]) for name in ("validation", "test", "train")] == [held_out, held_out, count - 2 * held_out]
    assert splits["withheld"] == splits["test"]
    assert len({file for files in splits.values() for file in files}) == count


@pytest.mark.parametrize(
    ("folder", "message"), [("", "backgrounds: no folder is set"), ("nowhere", "backgrounds: no folder 'nowhere'")]
)
def test_a_missing_folder_has_a_hint(folder, message):
    with pytest.raises(ValueError, match=message) as caught:
        split_backgrounds(folder, 0)
    assert str(caught.value).endswith(cutout_files.GET_BACKGROUNDS)
