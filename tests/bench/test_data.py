"""Drawing scenes, decoding and augmenting photos, batches of both, tokenizing."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.data.annotations.image_source import SourceFiles
from plugins.data.coco import Coco

SIZE = 48
PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "coco"
READS = {
    "pictures": (),
    "masked": ("masked",),
    "prefixed": ("prefixed",),
    "regions": ("regions",),
    "all": ("masked", "prefixed", "regions"),
}


def same(one, other):
    """Whether two batches made by the same arguments are equal: a batch is a pure function of them."""
    return one.images.equal(other.images) and one.text.ids.equal(other.text.ids)


@pytest.mark.parametrize("what", READS)
def test_batch(timed, copa, monkeypatch, what):
    data, reads = copa[0].data, frozenset(READS[what])
    drawn = []
    draw = data.draw
    monkeypatch.setattr(data, "draw", lambda number: drawn.append(number) or draw(number))

    def batch():
        drawn.clear()
        return data.batch(7, size=SIZE, seed=0, reads=reads)

    made = timed(batch)
    assert len(drawn) == SIZE + (data.options.region_batch_size if "regions" in reads else 0)
    assert made.images.shape == (SIZE, 3, 64, 64)
    assert same(made, batch())
    assert [part for part in READS["all"] if getattr(made, part) is not None] == list(READS[what])


def test_drawing(timed, copa):
    data = copa[0].data
    scenes = timed(lambda: [data.draw(number) for number in range(1000, 1000 + SIZE)])
    assert [scene.key for scene in scenes] == [f"train scene {number}" for number in range(1000, 1000 + SIZE)]


def test_tokenizing(timed, copa):
    data = copa[0].data
    captions = [data.draw(number).caption for number in range(256)]
    text = timed(lambda: data.tokenizer(captions))
    assert text.ids.shape[0] == len(captions)
    assert data.tokenizer.decode(text.ids[0].tolist()) == captions[0]


@pytest.fixture(scope="module")
def photos():
    if not PHOTOS.is_dir():
        pytest.skip("no photos in ../shared/data/coco")
    files = {"captions": [str(PHOTOS / "captions.json")], "boxes": [str(PHOTOS / "instances.json")]}
    source = SourceFiles(str(PHOTOS / "images"), **files)
    return {augment: Coco(sources=[source], image_size=256, augment=augment) for augment in ("light", "strong")}


def test_decoding(timed, photos):
    """Photos with their boxes from the files, brought to a short side of at most 120 pixels."""
    (collection,) = photos["light"].pool.sources
    made = timed(lambda: [collection.photo(number, 120) for number in range(SIZE)])
    assert max(min(photo.image.shape[1:]) for photo in made) == 120
    assert all(photo.image.equal(collection.photo(number, 120).image) for number, photo in enumerate(made[:3]))


@pytest.mark.parametrize("augment", ["light", "strong"])
def test_augmented_batch(timed, photos, augment):
    """After the first, untimed round the photos are decoded and kept: crops, RandAugment, regions and texts remain."""
    reads = frozenset(READS["all"])
    made = timed(lambda: photos[augment].batch(7, size=SIZE, seed=0, reads=reads))
    assert made.images.shape == (SIZE, 3, 256, 256)
    assert made.regions.images.shape == (photos[augment].options.region_batch_size, 3, 256, 256)
    assert same(made, photos[augment].batch(7, size=SIZE, seed=0, reads=reads))
