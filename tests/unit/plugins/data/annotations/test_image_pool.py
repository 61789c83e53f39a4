"""Several sources under one numbering, the budget of bad images, and the draw by weight."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from plugins.data.annotations.image_pool import MIN_ALLOWED_BAD, ImagePool, share_out
from plugins.data.annotations.image_source import ImageSource, SourceFiles


def pool(folder, *counts: int, budget: float = 0.0, bad: int = 0) -> ImagePool:
    """Write one source for each count, the last ``bad`` images of each empty, and pool them."""
    sources = []
    for i, count in enumerate(counts):
        images = folder / str(i)
        images.mkdir(exist_ok=True)
        for number in range(count):
            Image.new("RGB", (12, 8), (i, number, 0)).save(images / f"{number}.png")
            if number >= count - bad:
                (images / f"{number}.png").write_bytes(b"")
        captions = [{"image": f"{number}.png", "caption": f"{i} {number}"} for number in range(count)]
        (folder / f"{i}.json").write_text(json.dumps(captions))
        files = SourceFiles(str(images), [str(folder / f"{i}.json")])
        sources.append(ImageSource(files, f"data.sources[{i}]", 0, 0.2, 0.0))
    return ImagePool(sources, 8, budget)


def test_numbers_run_through_all_sources(tmp_path):
    images = pool(tmp_path, 3, 1, 4)
    assert len(images) == 8
    assert [images.captions(number) for number in range(8)] == [
        [f"{i} {n}"] for i, count in enumerate((3, 1, 4)) for n in range(count)
    ]
    for number in range(8):
        source, index = images.find(number)
        assert images.photo(number).image[:, 0, 0].tolist() == [images.sources.index(source), index, 0]
    numbers = np.concatenate([np.concatenate(images.numbers(s, "captioned")) for s in ("train", "validation", "test")])
    assert sorted(numbers.tolist()) == list(range(8))
    assert [len(part) for part in images.numbers("train", "boxed")] == [0, 0, 0]


def test_images_are_cached_and_equal_names_are_adjacent_when_shuffled(tmp_path):
    images = pool(tmp_path, 6, 6)
    assert images.photo(2) is images.photo(2)
    order = images.shuffled("train")
    assert sorted(order) == sorted(np.concatenate(images.numbers("train", "captioned")).tolist())
    assert [images.name(n) for n in order[::2]] == [images.name(n) for n in order[1::2]]


def test_bad_images_are_counted_once_and_skipped(tmp_path, caplog):
    images = pool(tmp_path, 6, bad=2)
    assert images.photo(5) is None
    assert images.photo(5) is None
    assert images.photo(0) is not None
    assert (images.bad.tried, dict(images.bad.kinds)) == (2, {"empty file": 1})
    assert len([m for m in caplog.messages if m.endswith("It is skipped.")]) == 1
    again = iter([5, 4, 1])
    assert [number for number, _ in images.draw([0, 5, 2], lambda: next(again))] == [0, 1, 2]


def test_too_many_bad_images(tmp_path):
    images = pool(tmp_path, 9, bad=MIN_ALLOWED_BAD + 1, budget=0.1)
    bad = range(8, 8 - MIN_ALLOWED_BAD, -1)
    assert [images.photo(number) for number in bad] == [None] * MIN_ALLOWED_BAD
    with pytest.raises(ValueError, match=r"4 of 4 images read cannot be used; budget=0\.1 allows 3\. 4 x empty file"):
        images.photo(8 - MIN_ALLOWED_BAD)


def test_a_draw_ends_when_every_image_is_bad(tmp_path):
    images = pool(tmp_path, 4, bad=1)
    with pytest.raises(ValueError, match="none of 1000 images drawn can be used"):
        next(images.draw([3], lambda: 3))


def test_verify_reads_all_images_whatever_the_budget(tmp_path):
    images = pool(tmp_path, 8, 3, bad=2)
    assert {key: value for key, value in images.verify().items() if key != "messages"} == {
        "pictures": 11,
        "records": 11,
        "splits": images.split_sizes(),
        "skipped": {"empty file": 4},
    }


def test_a_pool_too_large_for_memory_is_not_cached(tmp_path):
    small = pool(tmp_path, 2).sources[0]
    huge = SimpleNamespace(
        records=SimpleNamespace(names=[f"x{i}" for i in range(10**4)], split={}),
        split=np.zeros(10**4, np.int8),
        file=str,
        probe=lambda side: None,
    )
    images = ImagePool([small, huge], 2048, 0.0)
    assert images.photo(0) is not images.photo(0)
    assert images.find(10**4 + 1)[1] == 10**4 - 1


@pytest.mark.parametrize("seed", range(10))
def test_shares_add_up_and_respect_what_there_is(seed):
    rng = np.random.default_rng(seed)
    available = [3, 50, 0, 20]
    counts = share_out(40, np.array([5.0, 1.0, 1.0, 1.0]), available, rng)
    assert sum(counts) == 40
    assert all(0 <= count <= most for count, most in zip(counts, available, strict=True))
    assert share_out(73, np.array([5.0, 1.0, 1.0, 1.0]), available, rng) == available


def test_shares_follow_the_weights():
    rng = np.random.default_rng(0)
    drawn = np.array([share_out(10, np.array([3.0, 1.0]), [100, 100], rng) for _ in range(2000)])
    assert drawn.mean(0) == pytest.approx([7.5, 2.5], abs=0.15)  # five standard errors
    with pytest.raises(ValueError, match="a batch of 9 images needs as many to draw from; there are 8"):
        share_out(9, np.array([1.0, 1.0]), [4, 4], rng)
