"""One image by several names and in several sources: one split, and no held-out image, box or text in training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import contracts
from plugins.data.annotations.image_source import SourceFiles
from plugins.data.annotations.shared_images import RealPaths
from plugins.data.coco import Coco


def paint(file: Path, number: int) -> None:
    """Save an image of its own noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)).save(file)


def write(file: Path, document: Any) -> str:
    file.write_text(json.dumps(document), encoding="utf-8")
    return str(file)


def karpathy(root: Path, splits: dict[str, str], name: str = "karpathy.json") -> str:
    images = [
        {"filename": image, "split": split, "sentences": [{"raw": f"karpathy {split} {image}"}]}
        for image, split in splits.items()
    ]
    return write(root / name, {"images": images})


def pairs(root: Path, images: list[str], word: str = "pair", name: str = "pairs.json") -> str:
    return write(root / name, [{"image": image, "caption": f"{word} {image}"} for image in images])


def boxes(root: Path, images: dict[str, str], name: str = "boxes.json") -> str:
    kinds = sorted(set(images.values()))
    document = {
        "images": [{"id": i, "file_name": image} for i, image in enumerate(images)],
        "categories": [{"id": i, "name": kind} for i, kind in enumerate(kinds)],
        "annotations": [
            {"image_id": i, "category_id": kinds.index(kind), "bbox": [1, 1, 9, 9]}
            for i, kind in enumerate(images.values())
        ],
    }
    return write(root / name, document)


def coco(*sources: SourceFiles, held_out: float = 0.0, **settings: Any) -> Coco:
    return Coco(sources=list(sources), image_size=32, held_out=held_out, **settings)


def trained(data: Coco) -> tuple[set[str], set[str]]:
    """Real files and captions that training draws, boxed ones included."""
    files, captions = set(), set()
    for split_numbers in [*data.pool.numbers("train", "captioned"), np.array(data.boxed, np.int64)]:
        for number in split_numbers.tolist():
            source, index = data.pool.find(number)
            files.add(os.path.realpath(source.file(index)))
            captions |= set(source.records.captions_of(index))
    return files, captions


def held_out(data: Coco) -> list[str]:
    """Real files of all held-out images, with repetitions."""
    records = (data.pool.find(n) for split in ("validation", "test") for n in data.pool.shuffled(split))
    return [os.path.realpath(source.file(index)) for source, index in records]


SPLITS = {"a.png": "test", "b.png": "val", **{f"{i}.png": "train" for i in range(4)}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images, with captions and splits."""
    for i, name in enumerate(SPLITS):
        paint(tmp_path / "photos" / name, i)
    return tmp_path


def linked_folder(root: Path) -> tuple[str, str]:
    (root / "other").symlink_to(root / "photos", target_is_directory=True)
    return str(root / "other"), ""


def linked_files(root: Path) -> tuple[str, str]:
    (root / "other" / "links").mkdir(parents=True)
    for name in SPLITS:
        (root / "other" / name).symlink_to(Path("links") / name)
        (root / "other" / "links" / name).symlink_to(Path("../../photos") / name)
    return str(root / "other"), ""


def copied_files(root: Path) -> tuple[str, str]:
    shutil.copytree(root / "photos", root / "other" / "copy")
    return str(root / "other"), "copy/"


def hard_links(root: Path) -> tuple[str, str]:
    (root / "other").mkdir()
    for name in SPLITS:
        os.link(root / "photos" / name, root / "other" / name)
    return str(root / "other"), ""


WAYS = {
    "another root": lambda root: (str(root), "photos/"),
    "another spelling": lambda root: (str(root), ".//photos\\"),
    "the folder above": lambda root: (str(root / "photos"), "../photos/"),
    "absolute names": lambda root: (str(root), f"{root}/photos/"),
    "a linked folder": linked_folder,
    "links to links": linked_files,
    "copies": copied_files,
    "hard links": hard_links,
}


@pytest.mark.parametrize("order", [1, -1], ids=["last", "first"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_held_out_image_trains_through_no_other_source(root, way, order, caplog):
    folder, prefix = way(root)
    first = SourceFiles(str(root / "photos"), [karpathy(root, SPLITS)])
    names = {f"{prefix}{name}": "zebra" if len(name) == 5 and name[0] in "ab" else "cow" for name in SPLITS}
    second = SourceFiles(folder, [pairs(root, list(names))], [boxes(root, names)])
    data = coco(*[first, second][::order])
    files, captions = trained(data)
    assert {Path(file).name for file in files} == {f"{i}.png" for i in range(4)}
    assert len(captions) == 8
    assert not any(name in caption for caption in captions for name in ("a.png", "b.png"))
    assert sorted(Path(file).name for file in held_out(data)) == ["a.png", "b.png"]
    assert [e.caption for e in data.held_out("test", 9)] == ["karpathy test a.png"]  # of the file with its split
    train = 8 if way in (copied_files, hard_links) else 4  # copies are compared only if one of them is held out
    assert len(data.held_out("train", 99)) == train
    pieces = {data.tokenizer.decode([i]).removeprefix("##") for i in range(data.tokenizer.vocabulary)}
    assert "z" not in pieces, "the class of held-out boxes alone"
    (message,) = [message for message in caplog.messages if "not used for training" in message]
    assert message.startswith("2 held-out images have records that would train, which are not used for training: ")
    report = data.verify()
    assert report["splits"] == {"train": train, "validation": 1, "test": 1}
    assert (report["pictures"], report["skipped"]) == (train + 2, {})
    assert f"{report['messages'][-1]}." == message


@pytest.mark.parametrize("way", [WAYS["another root"], linked_files, copied_files], ids=["root", "links", "copies"])
def test_drawn_splits_of_an_image_are_equal_in_all_sources(tmp_path, way):
    names = [f"p{i}.png" for i in range(120)]
    for i, name in enumerate(names):
        paint(tmp_path / "photos" / name, i)
    if way is linked_files:
        (tmp_path / "other").mkdir()
        for name in names:
            (tmp_path / "other" / f"x{name}").symlink_to(tmp_path / "photos" / name)
        folder, prefix = str(tmp_path / "other"), "x"
    else:
        folder, prefix = way(tmp_path)
    one = SourceFiles(str(tmp_path / "photos"), [pairs(tmp_path, names)])
    two = SourceFiles(folder, [pairs(tmp_path, [prefix + name for name in names], "other", "other.json")])
    alone, both, turned = (coco(*sources, held_out=0.2) for sources in ([one], [one, two], [two, one]))
    assert both.pool.sources[0].split.tolist() == both.pool.sources[1].split.tolist()
    assert both.pool.sources[0].split.tolist() == turned.pool.sources[0].split.tolist()
    assert both.pool.sources[0].split.tolist() == alone.pool.sources[0].split.tolist()  # the shorter path decides
    assert len(both._orders["test"]) == len(alone._orders["test"])
    assert {e.caption.split()[0] for e in both.held_out("test", 200)} == {"pair"}
    assert {e.caption.split()[0] for e in turned.held_out("test", 200)} == {"other"}


def test_different_files_of_one_name_are_different_images(tmp_path):
    for place, count in (("one", 0), ("two", 100)):
        for i in range(40):
            paint(tmp_path / place / f"{i}.png", count + i)
    names = [f"{i}.png" for i in range(40)]
    one = SourceFiles(str(tmp_path / "one"), [karpathy(tmp_path, dict.fromkeys(names, "test"))])
    two = SourceFiles(str(tmp_path / "two"), [pairs(tmp_path, names)])
    data = coco(one, two)
    assert data.pool.split_sizes() == {"train": 40, "validation": 0, "test": 40}
    assert data.pool.shared.note == ""


def test_a_placeholder_of_many_images_is_not_a_copy(tmp_path):
    names = [f"{i}/gone.png" for i in range(6)]
    for place in ("one", "two"):
        for name in names:
            paint(tmp_path / place / name, 0)
    one = SourceFiles(str(tmp_path / "one"), [karpathy(tmp_path, dict.fromkeys(names[:3], "test"))])
    data = coco(one, SourceFiles(str(tmp_path / "two"), [pairs(tmp_path, names)]))
    assert data.pool.split_sizes() == {"train": 6, "validation": 0, "test": 3}


def test_splits_that_contradict_each_other_are_named_and_the_image_does_not_train(root, capsys):
    first = SourceFiles(str(root / "photos"), [karpathy(root, {"a.png": "test", "b.png": "train", "0.png": "train"})])
    other = {"photos/a.png": "val", "photos/b.png": "val", "photos/1.png": "train"}
    data = coco(first, SourceFiles(str(root), [karpathy(root, other, "second.json")]))
    assert data.pool.split_sizes() == {"train": 2, "validation": 1, "test": 1}
    report = data.verify()
    assert report["skipped"] == {"image in two splits": 2}
    assert report["messages"][0] == (
        "an image is in test as 'a.png' of sources[0] and validation as 'photos/a.png' of sources[1]; only test counts"
    )


def test_nothing_left_for_training_is_an_error_with_the_numbers(root):
    names = dict.fromkeys(SPLITS, "test")
    source = SourceFiles(str(root / "photos"), [karpathy(root, names)])
    with pytest.raises(ValueError, match=r"no image with a caption is left for training: validation 0, test 6"):
        coco(source)
    again = SourceFiles(str(root), [pairs(root, [f"photos/{name}" for name in names])])
    with pytest.raises(ValueError, match=r"no image with a caption is left for training: validation 0, test 6"):
        coco(source, again)


def test_links_within_a_source_are_one_image(root):
    (root / "photos" / "again.png").symlink_to("a.png")
    names = {**SPLITS, "again.png": "train"}
    data = coco(SourceFiles(str(root / "photos"), [karpathy(root, names)]))
    assert data.pool.split_sizes() == {"train": 4, "validation": 1, "test": 1}
    assert data.verify()["skipped"] == {"image in two splits": 1}


def test_tables_state_splits(root):
    lines = ["image,caption,split", *(f"{name},a {name},{split}" for name, split in SPLITS.items()), "./a.png,b,train"]
    (root / "c.csv").write_text("\n".join(lines), encoding="utf-8")
    data = coco(SourceFiles(str(root / "photos"), [str(root / "c.csv")]), budget=0.5)
    report = data.verify()
    assert report["splits"] == {"train": 4, "validation": 1, "test": 1}
    assert report["skipped"] == {"image in two splits": 1}
    assert report["messages"][0].endswith("'a.png' is in train here and in test in line 2; it is not used for training")


def test_the_contract_of_data_with_shared_images(root):
    names = {f"photos/{name}": "cow" for name in SPLITS}
    contracts.check_data(
        coco(
            SourceFiles(str(root / "photos"), [karpathy(root, SPLITS)]),
            SourceFiles(str(root), [pairs(root, list(names))], [boxes(root, names)]),
        )
    )


def test_real_paths_of_links_loops_and_missing_files(tmp_path):
    paint(tmp_path / "a" / "x.png", 0)
    (tmp_path / "a" / "loop.png").symlink_to("loop.png")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere/y.png")
    real, folder = RealPaths(), os.path.realpath(tmp_path)
    assert real(f"{tmp_path}/b/x.png") == real(f"{tmp_path}/a/../b//x.png") == f"{folder}/a/x.png"
    assert real(f"{tmp_path}/b/gone.png") == f"{folder}/a/nowhere/y.png"
    assert real(f"{tmp_path}/none/z.png") == f"{folder}/none/z.png"
    assert real(f"{tmp_path}/a/loop.png").endswith("loop.png")
