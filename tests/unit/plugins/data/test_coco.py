"""Annotation files in every public shape: what is read, how it is split, mixed and drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from core import contracts
from core.types import Struct
from plugins.data.annotations.image_pool import share_out
from plugins.data.annotations.image_source import SourceFiles
from plugins.data.annotations.vocabulary import BERT_PIECES, MAX_TRAINED_PIECES
from plugins.data.coco import Coco

REAL = Path(__file__).parents[4].parent / "shared/data/coco"
ALL = frozenset({"masked", "prefixed", "regions"})


@pytest.fixture(scope="module")
def photos():
    if not REAL.is_dir():
        pytest.skip(f"needs real photos at {REAL}")
    return SourceFiles(str(REAL / "images"), [str(REAL / "captions.json")], [str(REAL / "instances.json")])


@pytest.fixture(scope="module")
def data(photos):
    return Coco(sources=[photos], image_size=64)


def tensors(struct: Struct) -> list[torch.Tensor]:
    found = []
    struct.map(lambda t: found.append(t) or t)
    return found


def same(one: Struct, two: Struct) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(one), tensors(two), strict=True))


def paint(folder, names, size=(40, 30)):
    """Pictures of one colour each: the n-th is n everywhere."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, i, i)).save(folder / name, **({"quality": 100} if name.endswith("jpg") else {}))


def write(folder, name, document):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return str(folder / name)


def pairs(folder, count, start="a"):
    """A plain list: ``count`` pictures, two captions each."""
    names = [f"{start}{i}.png" for i in range(count)]
    paint(folder, names)
    said = [{"image": name, "caption": [f"{start} number {i}", f"{start} picture"]} for i, name in enumerate(names)]
    return SourceFiles(str(folder), [write(folder, "list.json", said)])


def test_the_real_photos_are_all_there(data):
    records = data.pool.sources[0].records
    assert (len(records.names), len(records.captions)) == (100, 500)
    assert len(records.boxes) == 842
    with open(REAL / "instances.json", encoding="utf-8") as file:
        crowds = [record["image_id"] for record in json.load(file)["annotations"] if record["iscrowd"]]
    assert len(crowds) == 852 - 842
    assert {records.names.index(f"{image:012}.jpg") for image in crowds} == set(records.crowds)
    assert len(records.captioned) == 100
    found = data.verify()
    splits = {"train": 96, "validation": 1, "test": 3}
    records = 100 + 500 + 100 + 80 + 852
    assert found == {"pictures": 100, "records": records, "splits": splits, "skipped": {}, "messages": []}


def test_the_contract(data):
    contracts.check_data(data)


@pytest.mark.parametrize("augment", ["light", "strong"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_hangs_on_recipe_seed_and_step_alone(photos, augment, workers):
    def make():
        return Coco(sources=[photos], image_size=32, augment=augment, region_batch_size=4)

    one = make()
    loader = DataLoader(
        range(4),
        batch_size=None,
        num_workers=workers,
        collate_fn=lambda step: one.batch(step, size=8, seed=1, reads=ALL),
    )
    other = make()
    expected = [other.batch(step, size=8, seed=1, reads=ALL) for step in (3, 2, 1, 0)][::-1]
    assert all(same(drawn, wanted) for drawn, wanted in zip(loader, expected, strict=True))
    assert not same(expected[0], expected[1])


def test_what_is_drawn_is_the_photo_with_its_words_and_boxes(data):
    records = data.pool.sources[0].records
    for example in data.held_out("train", 20):
        number = records.names.index(example.key)
        captions = records.captions_of(number)
        assert (example.caption, example.facts) == (captions[0], tuple(captions))
        assert len(example.regions) == len(records.box_labels(number))
        width, height = records.sizes[number]
        for region, spoken in zip(example.regions, records.box_labels(number), strict=True):
            scaled = np.array(spoken.box) * 64 / [width, height, width, height]
            assert region.box == pytest.approx(scaled, abs=1e-4)
            assert region.phrase == region.label == spoken.label
        assert example.absent in records.classes or not example.regions
        assert example.absent not in {region.label for region in example.regions}
        with Image.open(REAL / "images" / example.key) as image:
            mean = np.asarray(image.convert("RGB")).mean((0, 1))
        assert example.image.float().mean((1, 2)).numpy() == pytest.approx(mean, abs=3)
    one, two = data.held_out("train", 2)
    assert data.describes(one, one)
    assert not data.describes(one, two)


def test_a_picture_is_drawn_with_each_of_its_captions(photos):
    data = Coco(sources=[photos], image_size=32, held_out=0)
    said = {}
    for step in range(12):
        for example in data.examples(50, np.random.default_rng(step)):
            said.setdefault(example.key, set()).add(example.caption)
    assert len(said) == 100
    assert np.mean([len(captions) for captions in said.values()]) > 3
    with pytest.raises(ValueError, match="a batch of 101 images needs as many to draw from; there are 100"):
        data.batch(0, size=101, seed=0, reads=frozenset())
    keys = [example.key for example in data.examples(100, np.random.default_rng(0))]
    assert len(set(keys)) == 100


def test_splits_are_disjoint_and_stay(tmp_path):
    source = pairs(tmp_path / "a", 400)

    def keys(**settings):
        data = Coco(sources=[source], image_size=32, **{"held_out": 0.1, **settings})
        return {split: [e.key for e in data.held_out(split, 400)] for split in data.splits()}

    one = keys()
    assert set(one) == {"train", "validation", "test"}
    assert sorted(key for split in one.values() for key in split) == sorted(f"a{i}.png" for i in range(400))
    assert all(20 < len(one[split]) < 60 for split in ("validation", "test"))
    assert keys() == one
    assert keys(seed=1)["test"] != one["test"]
    assert list(keys(held_out=0)) == ["train"]
    fewer = pairs(tmp_path / "b" / "a", 200)  # the same names: a picture stays in its split when others come
    data = Coco(sources=[fewer], image_size=32, held_out=0.1)
    assert {e.key for e in data.held_out("test", 400)} == {k for k in one["test"] if int(k[1:-4]) < 200}
    with pytest.raises(ValueError, match="the data has no split 'dev'; it has validation, test, train"):
        data.held_out("dev", 1)


def test_sources_are_mixed_by_their_pictures_or_by_weight(tmp_path):
    small, large = pairs(tmp_path / "s", 40, "s"), pairs(tmp_path / "l", 160, "l")

    def share(*weights):
        sources = [SourceFiles(s.images, s.captions, [], w) for s, w in zip((small, large), weights, strict=True)]
        data = Coco(sources=sources, image_size=32, held_out=0)
        drawn = [e.key for step in range(60) for e in data.examples(20, np.random.default_rng(step))]
        return np.mean([key[0] == "s" for key in drawn])

    assert share(0, 0) == pytest.approx(0.2, abs=0.05)  # 1,200 draws: a standard error of 0.012
    assert share(1, 1) == pytest.approx(0.5, abs=0.06)
    assert share(3, 1) == pytest.approx(0.75, abs=0.05)
    with pytest.raises(ValueError, match="sources: the weights are 1, 0; give every source one, or none"):
        share(1, 0)


def test_no_source_gives_more_than_it_has():
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = share_out(90, np.array([50.0, 1.0, 0.0]), [10, 85, 0], rng)
        assert sum(counts) == 90
        assert counts[0] == 10


def test_karpathys_splits_with_coco_boxes_named_without_a_folder(tmp_path):
    names = [f"val2014/p{i}.jpg" for i in range(6)]
    paint(tmp_path / "images", names)
    splits = ["train", "restval", "val", "test", "train", "train"]
    images = [
        {
            "filepath": "val2014",
            "filename": f"p{i}.jpg",
            "split": split,
            "sentences": [{"raw": f"one {i}"}, {"raw": "b"}],
        }
        for i, split in enumerate(splits)
    ]
    boxes = {
        "images": [{"id": i, "file_name": f"p{i}.jpg", "width": 40, "height": 30} for i in range(6)],
        "categories": [{"id": 5, "name": "hat"}, {"id": 6, "name": "cat"}],
        "annotations": [{"image_id": i, "category_id": 5 + (i == 0), "bbox": [0, 0, 20, 30]} for i in range(6)],
    }
    files = (
        [write(tmp_path, "dataset_coco.json", {"images": images, "dataset": "coco"})],
        [write(tmp_path, "instances.json", boxes)],
    )
    data = Coco(sources=[SourceFiles(str(tmp_path / "images"), *files)], image_size=32, held_out=0.4)
    found = {split: [e.caption for e in data.held_out(split, 9)] for split in data.splits()}
    assert found == {"train": ["one 0", "one 1", "one 4", "one 5"], "validation": ["one 2"], "test": ["one 3"]}
    assert data.verify()["pictures"] == 6
    assert len(data.boxed) == 4
    example = data.held_out("test", 1)[0]
    assert [(r.box, r.phrase, r.label) for r in example.regions] == [((0, 0, 16, 32), "hat", "hat")]
    assert example.absent == "cat"


def test_visual_genome_regions_objects_and_folders(tmp_path):
    paint(tmp_path / "vg", ["1.jpg", "VG_100K/2.jpg", "VG_100K_2/3.jpg"])
    side = {"x": 5, "y": 5}
    regions = [
        {
            "id": i,
            "regions": [
                {**side, "width": 10, "height": 10, "phrase": f"thing {i}", "region_id": 7, "image_id": i},
                {"x": -3, "y": 20, "width": 400, "height": 5, "phrase": "the  lower edge"},
                {"x": 45, "y": 5, "width": 10, "height": 5, "phrase": "outside"},  # known only when the picture is read
            ],
        }
        for i in (1, 2, 3)
    ]
    objects = [{"image_id": i, "objects": [{**side, "w": 9, "h": 8, "names": ["tree", "oak"]}]} for i in (1, 2, 3)]
    files = [write(tmp_path, "region_descriptions.json", regions), write(tmp_path, "objects.json", objects)]
    source = SourceFiles(str(tmp_path / "vg"), files[:1], files)
    data = Coco(sources=[source], image_size=32, held_out=0)
    found = data.verify()
    assert found["skipped"] == {"box outside the picture": 3}
    assert found["messages"][1] == (
        f"{tmp_path}/vg/VG_100K/2.jpg: 'outside': x0, y0, x1, y1 = 45, 5, 55, 10 lies outside the image of 40 x 30"
    )
    for i, example in enumerate(data.held_out("train", 3), 1):
        assert example.caption == f"thing {i}"
        assert len(example.facts) == 3
        assert [(r.phrase, r.label) for r in example.regions] == [
            (f"thing {i}", ""),
            ("the lower edge", ""),
            ("tree", "tree"),
        ]
        assert example.regions[1].box == pytest.approx((0, 20 * 32 / 30, 32, 25 * 32 / 30))
        assert example.absent.startswith("thing ")  # another picture's phrase, since the first region has no class
        assert example.absent != f"thing {i}"
        assert int(example.image.float().mean().round()) == i - 1
    regions = data.batch(0, size=2, seed=0, reads=ALL).regions
    assert regions is not None
    assert {data.tokenizer.decode(ids) for ids in regions.text.ids} >= {"tree", "this is a tree.", "the lower edge", ""}


def test_plain_lists_have_one_caption_or_several(tmp_path):
    paint(tmp_path, ["a.png", "deep/b.png"])
    said = [
        {"image": "a.png", "caption": "first"},
        {"image": "deep/b.png", "caption": ["one", "two"]},
        {"image": "a.png", "caption": "second"},  # a picture may come again
    ]
    data = Coco(sources=[SourceFiles(str(tmp_path), [write(tmp_path, "x.json", said)])], image_size=32, held_out=0)
    assert {e.key: e.facts for e in data.held_out("train", 9)} == {
        "a.png": ("first", "second"),
        "deep/b.png": ("one", "two"),
    }
    assert data.batch(0, size=2, seed=0, reads=ALL).regions is None


def test_a_crowd_is_there_and_has_no_box(tmp_path):
    paint(tmp_path, [f"{i}.png" for i in range(2)])
    document = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(2)],
        "categories": [{"id": 1, "name": "hat"}, {"id": 2, "name": "person"}, {"id": 3, "name": "bus"}],
        "annotations": [
            {"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]},
            {"image_id": 0, "category_id": 2, "bbox": [1, 1, 30, 9], "iscrowd": 1},
            {"image_id": 1, "category_id": 3, "bbox": [1, 1, 30, 9]},
            {"image_id": 1, "category_id": 2, "bbox": [1, 1, 30, 9]},
        ],
    }
    said = [{"image": f"{i}.png", "caption": "x"} for i in range(2)]
    files = [write(tmp_path, "c.json", said)], [write(tmp_path, "b.json", document)]
    data = Coco(sources=[SourceFiles(str(tmp_path), *files)], image_size=32, held_out=0)
    first = data.held_out("train", 1)[0]
    assert [region.label for region in first.regions] == ["hat"]
    assert first.absent == "bus"


def test_a_sketch_without_files_and_with_them(tmp_path, photos):
    gone = SourceFiles("no/images", ["no/c.json"], [])
    sketch = Coco.spec({"sources": [gone], "vocabulary": "no/vocab.txt", "image_size": 224, "mask": 0.15}, ALL)
    assert (sketch.image_size, sketch.text_length, sketch.vocabulary) == (224, 25, BERT_PIECES)
    assert (sketch.masked, sketch.regions, sketch.splits) == (4, 32, ())
    assert sketch.absent == (
        "data.sources[0].images: no folder 'no/images'; no folder 'no'",
        "data.sources[0].captions[0]: no file 'no/c.json'; no folder 'no'",
        "data.vocabulary: no file or folder 'no/vocab.txt'; no folder 'no'; "
        "30,522 pieces (as in BERT-base) are assumed",
    )
    assert Coco.spec({"sources": [gone]}, ALL).vocabulary == MAX_TRAINED_PIECES
    data = Coco(sources=[photos])
    told = Coco.spec({"sources": [photos], "text_length": 30, "mask": 0.5, "region_batch_size": 8}, ALL)
    assert told.vocabulary == data.tokenizer.vocabulary
    assert (told.masked, told.regions, told.splits, told.absent) == (15, 8, tuple(data.splits()), ())
    data.tokenizer.save(str(tmp_path))
    told = Coco.spec({"sources": [photos], "vocabulary": str(tmp_path)}, ALL)
    assert told.vocabulary == data.tokenizer.vocabulary
    assert Coco(sources=[photos], vocabulary=str(tmp_path)).tokenizer.vocabulary == data.tokenizer.vocabulary


def test_the_size_of_a_missing_vocabulary_comes_from_its_setting():
    source, settings = (
        SourceFiles("no/images", ["no/c.json"]),
        {"vocabulary": "no/vocab.txt", "vocabulary_size": 64000},
    )
    spec = Coco.spec({"sources": [source], **settings}, ALL)
    assert spec.vocabulary == 64_000
    assert spec.absent[-1] == (
        "data.vocabulary: no file or folder 'no/vocab.txt'; no folder 'no'; "
        "64,000 pieces (data.vocabulary_size) are assumed"
    )
    assert Coco.spec({"sources": [source], "vocabulary_size": 500}, ALL).vocabulary == 500


def test_training_without_the_vocabulary_is_refused_before_annotations_are_read(tmp_path):
    source = SourceFiles(str(tmp_path), [write(tmp_path, "list.json", "no annotations")])
    with pytest.raises(ValueError, match=r"vocabulary: no file or folder 'no/vocab\.txt'") as err:
        Coco(sources=[source], vocabulary="no/vocab.txt", vocabulary_size=64_000)
    assert "set data.vocabulary" in str(err.value)
    assert "data.vocabulary_size is enough for `patchbay check` only" in str(err.value)


def test_a_vocabulary_counts_more_than_the_setting_of_its_size(tmp_path, caplog):
    source = pairs(tmp_path / "images", 4)
    trained = Coco(sources=[source], held_out=0)
    assert not caplog.records, "no size is set"
    pieces = trained.tokenizer.vocabulary
    trained.tokenizer.save(str(tmp_path))
    for vocabulary in (str(tmp_path), ""):
        settings = {"sources": [source], "held_out": 0, "vocabulary": vocabulary}
        assert Coco(**settings, vocabulary_size=pieces).tokenizer.vocabulary == pieces
        assert not caplog.records, "the sizes agree"
        assert Coco(**settings, vocabulary_size=64_000).tokenizer.vocabulary == pieces
        assert f"has {pieces} pieces, which are used; data.vocabulary_size is 64,000." in caplog.text
        caplog.clear()
        assert Coco.spec({**settings, "vocabulary_size": 64_000}, ALL).vocabulary == pieces
        assert "data.vocabulary_size is 64,000." in caplog.text
        caplog.clear()
