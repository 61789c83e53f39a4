"""Splits: disjoint, whole, decided by the seed and by names alone, of about the share in the settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.types import Example
from plugins.data.annotations.image_pool import ImagePool, share_out
from plugins.data.annotations.image_source import ImageSource, SourceFiles
from plugins.data.annotations.records import plain_path
from plugins.data.batching import draw_pairs
from plugins.data.clips import Clips
from plugins.data.drawing.compositing import chosen, fraction
from plugins.data.drawing.cutout_files import Cutout, ObjectSpec, head, split_backgrounds, split_objects
from plugins.data.drawing.scene_painter import BACKGROUNDS, TRAINING, WITHHELD, Painter
from plugins.data.held_out import SPLITS
from plugins.data.scenes import Scenes
from properties.drawing import PROFILE

SEEDS = st.integers(0, 2**31)
SHARES = st.floats(0, 0.4)
LETTERS = st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["C", "Z"])
FILES = st.builds(
    lambda folder, name: f"{folder}/{name}.jpg" if folder else f"{name}.jpg",
    st.sampled_from(["", "a", "b/c"]),
    st.text(LETTERS, min_size=1, max_size=6),
)
NAMES = st.lists(FILES, min_size=1, max_size=30, unique=True)
NOUNS = st.lists(st.from_regex(r"([a-z]{1,3} )?[a-z]{2,5}", fullmatch=True), min_size=10, max_size=40, unique=True)


PICTURES = [f"{place}/{i}.png" for place in ("a", "b") for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, two of each name, in two folders."""
    root = tmp_path_factory.mktemp("pictures")
    for name in PICTURES:
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


def collection(
    folder: Path, names: Iterable[str], seed: int, share: float, *, splits: dict[str, str] | None = None
) -> ImageSource:
    """Pictures of these names, each with a caption; Karpathy's shape where ``splits`` are given."""
    document: Any = [{"image": name, "caption": f"of {name}"} for name in names]
    if splits is not None:
        images = [{"filename": name, "split": splits[name], "sentences": [{"raw": "a"}]} for name in names]
        document = {"images": images}
    file = folder / "captions.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return ImageSource(SourceFiles(str(folder), [str(file)]), "sources[0]", seed, share, 0.0)


def by_split(pictures: ImageSource) -> dict[str, list[str]]:
    """Names in the order of their numbers."""
    numbers = pictures.records.captioned
    return {split: [pictures.records.names[i] for i in pictures.in_split(split, numbers)] for split in SPLITS}


def sets(splits: dict[str, list[str]]) -> dict[str, set[str]]:
    return {split: set(names) for split, names in splits.items()}


def near_share(count: int, total: int, share: float) -> bool:
    """Test that a count is within six standard errors of a share."""
    return abs(count - share * total) <= 6 * sqrt(total * share * (1 - share)) + 1e-6 * total


@PROFILE
@given(names=NAMES, seed=SEEDS, share=SHARES, order=st.randoms())
def test_pictures_are_split_by_seed_and_name_alone(folder, names, seed, share, order):
    splits = by_split(collection(folder, names, seed, share))
    assert sorted(name for split in splits.values() for name in split) == sorted(names)
    mixed = order.sample(names, len(names))
    assert sets(by_split(collection(folder, mixed, seed, share))) == sets(splits)
    fewer = mixed[: len(mixed) // 2 + 1]
    part = sets(by_split(collection(folder, fewer, seed, share)))
    assert part == {split: set(members) & set(fewer) for split, members in splits.items()}
    spelled = [f".//{name.replace('/', order.choice(['/', '//', '/./', chr(92)]))}" for name in names]
    respelled = by_split(collection(folder, spelled, seed, share))
    assert {split: [plain_path(name) for name in members] for split, members in respelled.items()} == splits


@PROFILE
@given(names=NAMES, seed=SEEDS, shares=st.tuples(SHARES, SHARES))
def test_a_larger_share_only_takes_from_training(folder, names, seed, shares):
    small, large = (sets(by_split(collection(folder, names, seed, share))) for share in sorted(shares))
    assert large["train"] <= small["train"]
    assert small["validation"] <= large["validation"]
    assert min(shares) > 0 or not small["validation"] | small["test"]


LAYOUTS = {
    "one folder": [f"{i:012}.jpg" for i in range(2000)],
    "two files of the same names in each folder": [f"CXR{i:04}/{k}.png" for i in range(1000) for k in (0, 1)],
    "one file in each folder": [f"{i // 40}/{i:x}/frame.jpg" for i in range(2000)],
    "the same names in few folders": [f"{place}/{i}.webp" for place in ("day", "night") for i in range(1000)],
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
@settings(PROFILE, max_examples=10)
@given(seed=SEEDS, share=SHARES)
def test_splits_have_about_their_share(folder, names, seed, share):
    splits = by_split(collection(folder, names, seed, share))
    assert near_share(len(splits["validation"]), 2000, share)
    assert near_share(len(splits["test"]), 2000, share)
    assert share < 0.01 or by_split(collection(folder, names, seed + 1, share)) != splits


@PROFILE
@given(names=NAMES, seed=SEEDS, share=SHARES, data=st.data())
def test_splits_that_a_file_names_are_kept(folder, names, seed, share, data):
    theirs = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
    splits = {name: data.draw(st.sampled_from(list(theirs))) for name in names}
    result = by_split(collection(folder, names, seed, share, splits=splits))
    assert result == {split: [name for name in names if theirs[splits[name]] == split] for split in SPLITS}


@PROFILE
@given(names=st.lists(st.sampled_from(PICTURES), min_size=1, unique=True), seed=SEEDS, order=st.randoms())
def test_evaluation_takes_pictures_in_an_order_of_the_seed(folder, names, seed, order):
    def shuffled(names: list[str]) -> dict[str, list[str]]:
        album = ImagePool([collection(folder, names, seed, 0.4)], 8, 0.0)
        return {split: [album.name(number) for number in album.shuffled(split)] for split in SPLITS}

    one = shuffled(names)
    assert sorted(name for split in one.values() for name in split) == sorted(names)
    assert shuffled(order.sample(names, len(names))) == one


@PROFILE
@given(nouns=NOUNS, seed=SEEDS, order=st.randoms())
def test_objects_are_split_by_seed_and_caption_alone(nouns, seed, order):
    def split(nouns: list[str]) -> tuple[list[str], list[str]]:
        return split_objects({noun: Cutout(ObjectSpec(noun, noun), []) for noun in nouns}, seed, "objects")

    assume(len({head(noun) for noun in nouns}) == len(nouns))
    training, withheld = split(nouns)
    assert sorted([*training, *withheld]) == sorted(nouns)
    assert len(withheld) == max(2, round(0.15 * len(nouns)))
    assert split(order.sample(nouns, len(nouns))) == (training, withheld)


@PROFILE
@given(names=st.lists(FILES, min_size=3, max_size=30, unique_by=str.lower), seed=SEEDS)
def test_backgrounds_are_split_by_seed_and_name_alone(tmp_path_factory, names, seed):
    def split(names: list[str]) -> dict[str, list[str]]:
        root = tmp_path_factory.mktemp("photos")
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return {
            key: [str(Path(f).relative_to(root)) for f in files]
            for key, files in split_backgrounds(str(root), seed).items()
        }

    splits = split(names)
    assert splits["withheld"] == splits["test"]
    assert sorted(splits["train"] + splits["validation"] + splits["test"]) == sorted(names)
    assert len(splits["validation"]) == len(splits["test"]) == max(1, round(0.1 * len(names)))
    assert split(names[::-1]) == splits


@PROFILE
@given(key=st.text(max_size=8), seed=SEEDS, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_share_is_of_its_size_and_within_every_larger_one(key, seed, shares):
    small, large = sorted(shares)
    few, many = ({i for i in range(1000) if chosen(share, seed, key, i)} for share in (small, large))
    assert few <= many
    assert near_share(len(few), 1000, small)
    assert (small > 0 or not few) and (large < 1 or len(many) == 1000)
    assert all(0 <= fraction(seed, key, i) < 1 for i in range(20))


@PROFILE
@given(seed=SEEDS, number=st.integers(0, 10**6), split=st.sampled_from(list(BACKGROUNDS)))
def test_scenes_show_the_combinations_of_their_split(seed, number, split):
    painter = Painter(32, seed)
    scene, single = painter.scene(split, number), painter.single(split, number)
    unseen = {f"{colour} {shape}" for shape, colour in WITHHELD}
    nouns = list(scene.facts.objects)
    assert [noun in unseen for noun in nouns] == [split == "withheld", *[False] * (len(nouns) - 1)]
    assert (single.labels[0] in unseen) == (split == "withheld")
    again = Painter(32, seed)
    again.scene("train", number + 1)  # drawn before: changes nothing
    assert same(again.scene(split, number), scene)
    assert same(again.single(split, number), single)


def same(one: Example, other: Example) -> bool:
    words = [(e.key, e.caption, e.regions, e.questions, e.absent, e.labels) for e in (one, other)]
    return torch.equal(one.image, other.image) and words[0] == words[1]


def test_no_background_and_no_combination_is_in_two_splits():
    spans = [set(range(*BACKGROUNDS[split])) for split in ("train", "validation", "test")]
    assert sum(map(len, spans)) == len(set.union(*spans))
    assert not set(TRAINING) & set(WITHHELD)


@pytest.fixture(scope="module", params=[Scenes, Clips], ids=["scenes", "clips"])
def numbered(request: pytest.FixtureRequest) -> Any:
    """Data without a last example, built anew at each call."""
    vocabulary = request.param(image_size=32, train_size=10).tokenizer
    place = request.getfixturevalue("tmp_path_factory").mktemp("vocabulary")
    vocabulary.save(str(place))
    return lambda seed: request.param(image_size=32, train_size=10, seed=seed, vocabulary=str(place))


@settings(PROFILE, max_examples=15)
@given(seed=SEEDS, calls=st.lists(st.tuples(st.sampled_from(["validation", "test"]), st.integers(0, 5)), min_size=1))
def test_held_out_examples_do_not_depend_on_earlier_calls(numbered, seed, calls):
    data, whole = numbered(seed), numbered(seed)
    for split, count in calls:
        drawn = data.held_out(split, count)
        assert len(drawn) == count
        assert all(same(one, other) for one, other in zip(drawn, whole.held_out(split, 5), strict=False))
    keys = [example.key for split in data.splits() for example in whole.held_out(split, 5)]
    assert len(set(keys)) == len(keys)


@PROFILE
@given(weights=st.lists(st.just(0.0) | st.floats(1e-3, 100), min_size=1, max_size=5), data=st.data(), seed=SEEDS)
def test_sources_share_a_batch_and_none_gives_more_than_it_has(weights, data, seed):
    available = [data.draw(st.integers(1, 50)) if weight else 0 for weight in weights]
    size = data.draw(st.integers(0, sum(available)))
    counts = share_out(size, np.array(weights), available, np.random.default_rng(seed))
    assert sum(counts) == size
    assert all(0 <= count <= most for count, most in zip(counts, available, strict=True))
    assert share_out(size, np.array(weights), available, np.random.default_rng(seed)) == counts
    with pytest.raises(ValueError, match="there are"):
        share_out(sum(available) + 1, np.array(weights), available, np.random.default_rng(seed))


@PROFILE
@given(available=st.integers(2, 200), data=st.data(), seed=SEEDS)
def test_a_batch_is_of_whole_pairs_without_repetition(available, data, seed):
    size = data.draw(st.integers(1, available // 2 * 2))
    numbers = draw_pairs(available, size, np.random.default_rng(seed))
    assert len(set(numbers)) == len(numbers) == size
    assert all(0 <= number < available for number in numbers)
    assert all(b == a + 1 and a % 2 == 0 for a, b in zip(numbers[::2], numbers[1::2], strict=False))
    assert draw_pairs(available, size, np.random.default_rng(seed)) == numbers
