"""Cut-outs on backgrounds: a user's folders, read, split and composed."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from plugins.data.cutouts import Cutouts
from plugins.data.drawing import captions, compositing, cutout_files

REAL = Path(__file__).parents[4].parent / "shared/data/cutouts"
NOUNS = ["abalone", "badger", "camel", "dingo", "eagle", "ferret", "goat", "hornet", "iris", "jackal"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Ten captions on eleven pictures, four backgrounds, and files that are nobody's."""
    root = tmp_path_factory.mktemp("cutouts")
    for i, noun in enumerate(NOUNS):
        folder = root / "objects" / ("deep/er" if i % 2 else "flat")
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(2 if i == 0 else 1):
            image = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
            ImageDraw.Draw(image).rectangle((10, 5, 40 + i, 30 + copy), (250, 25 * i, 10, 255))
            image.save(folder / f"{noun}{copy}.png")
            article = "An" if noun[0] in "aei" else "A"
            (folder / f"{noun}{copy}.txt").write_text(f"{article} {noun}.\nfr.utf8=Un œuf.\n", encoding="utf-8")
    Image.new("RGBA", (9, 9)).save(root / "objects/flat/without_caption.png")
    (root / "backgrounds").mkdir()
    for i in range(4):
        Image.new("RGB", (90 + i, 70), (0, 40 * i, 120)).save(root / f"backgrounds/photo{i}.jpg")
    return root


def make(root, **settings):
    settings.setdefault("objects", str(root / "objects"))
    settings.setdefault("backgrounds", str(root / "backgrounds"))
    return Cutouts(**{"train_size": 100, **settings})


@pytest.fixture(scope="module")
def data(tree):
    return make(tree)


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir():
        pytest.skip(f"needs real cut-outs at {REAL}")
    return make(REAL, train_size=60_000)


def check(data, count):
    """What holds for any folder."""
    drawn = {"train": [data.draw(number) for number in range(count)]}
    drawn |= {split: list(data.held_out(split, count)) for split in data.splits()}
    for split, examples in drawn.items():
        for example in examples:
            things = example.facts.objects
            assert data.describes(example, example)
            assert 3 <= len(things) <= 5
            assert len(example.facts.mentions) >= 3
            unseen = [noun in data.withheld_nouns for noun in things]
            assert unseen == [split == "withheld", *[False] * (len(things) - 1)]
            for region, (noun, placed) in zip(example.regions, things.items(), strict=True):
                assert region.box == placed.box
                assert region.label == noun
                assert region.phrase == placed.spec.phrase()
                x0, y0, x1, y1 = region.box
                assert 0 <= x0 < x1 <= data.image_size
                assert 0 <= y0 < y1 <= data.image_size
                assert max(x1 - x0, y1 - y0) <= 0.33 * data.image_size
            boxes = [region.box for region in example.regions]
            for i, (x0, y0, x1, y1) in enumerate(boxes):
                assert all(x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0 for u0, v0, u1, v1 in boxes[:i])
            absent = next(noun for noun, cutout in data.cutouts.items() if cutout.spec.phrase() == example.absent)
            assert absent not in things
            assert (absent in data.withheld_nouns) == (split == "withheld")
            check_answers(example)
    return drawn


def check_answers(example):
    things = example.facts.objects
    by_phrase = {placed.spec.phrase() for placed in things.values()}
    noun = "|".join(map(re.escape, things))
    for question, told in example.questions:
        if found := re.fullmatch(r"is there (.*)\?", question):
            assert told == ("yes" if found[1] in by_phrase else "no")
        elif question == "how many objects are there?":
            assert told == str(len(things))
        elif found := re.fullmatch(rf"is the ({noun}) (.*) the ({noun})\?", question):
            assert told == ("yes" if captions.related(things[found[1]], found[2], things[found[3]]) else "no")
        else:
            found = re.fullmatch(rf"what is (.*) the ({noun})\?", question)
            other = things[found[2]]
            assert [n for n in things if n != found[2] and captions.related(things[n], found[1], other)] == [told]


def test_pictures_of_a_small_folder_keep_their_promises(data):
    check(data, 60)
    assert sorted([*data.train_nouns, *data.withheld_nouns]) == NOUNS
    assert len(data.withheld_nouns) == 2
    assert len(data.cutouts["abalone"].sprites) == 2 * len(cutout_files.OBJECT_SIDES)


def test_files_are_counted_by_split(data):
    report = data.verify()
    assert (report["pictures"], report["records"], report["skipped"]) == (11 + 4, 11, {})
    assert report["splits"] == {"train": 2, "validation": 1, "test": 1}


def test_pictures_of_real_cutouts_keep_their_promises(real):
    drawn = check(real, 150)
    assert len(real.cutouts) == 117
    assert 0.1 < len(real.withheld_nouns) / len(real.cutouts) < 0.2
    assert {noun for example in drawn["train"] for noun in example.facts.objects} == set(real.train_nouns)
    true = [sum(real.describes(one, other) for other in drawn["test"]) for one in drawn["test"]]
    assert np.mean([1 / count for count in true]) > 0.97


def test_share_of_positive_patches_is_small(real):
    rates = []
    for example in real.held_out("test", 100):
        for x0, y0, x1, y1 in (region.box for region in example.regions):
            across = [x0 < right and x1 > right - 8 for right in range(8, 65, 8)]
            down = [y0 < bottom and y1 > bottom - 8 for bottom in range(8, 65, 8)]
            rates.append(sum(across) * sum(down) / 64)
    assert np.mean(rates) < 0.2


def test_same_picture_whenever_it_is_drawn(tree, data):
    again = make(tree, box_fraction=1)
    for number in (5, 2, 5):
        one, other = again.draw(number), data.draw(number)
        assert torch.equal(one.image, other.image)
        assert (one.caption, one.regions, one.questions) == (other.caption, other.regions, other.questions)
    assert again.boxed == list(range(100))
    assert [e.caption for e in again.held_out("test", 3)] == [e.caption for e in data.held_out("test", 9)[:3]]


def test_splits_follow_the_seed_and_share_no_background(tree, data):
    files = data.backgrounds
    assert files["withheld"] == files["test"]
    apart = [set(files[split]) for split in ("train", "validation", "test")]
    assert sum(map(len, apart)) == len(set.union(*apart)) == 4
    assert make(tree).withheld_nouns == data.withheld_nouns
    assert len({tuple(make(tree, seed=seed, train_size=1).withheld_nouns) for seed in range(5)}) > 1


def test_pictures_of_a_split_show_its_backgrounds_only(tree, data):
    def corner(path):
        return np.asarray(Image.open(path))[0, 0]

    for split in ("train", *data.splits()):
        shown = data.held_out(split, 20) if split in data.splits() else [data.draw(n) for n in range(20)]
        colours = [corner(path) for path in data.backgrounds[split]]
        for example in shown:
            outside = torch.ones(64, 64, dtype=torch.bool)
            for x0, y0, x1, y1 in (map(int, region.box) for region in example.regions):
                outside[y0:y1, x0:x1] = False
            pixel = example.image[:, outside][:, 0].int().numpy()
            assert min(abs(pixel - colour.astype(int)).max() for colour in colours) <= 3


def test_a_sprite_covers_its_box(data):
    sprite = data.cutouts["goat"].sprites[0]
    assert sprite.rest.shape[1] == round(0.24 * 64)
    for edge in (sprite.rest[0], sprite.rest[-1], sprite.rest[:, 0], sprite.rest[:, -1]):
        assert (edge < 256).any()


def test_batch_and_vocabulary(data):
    batch = data.batch(0, size=4, seed=0, reads=frozenset({"masked", "prefixed", "regions"}))
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.text.ids.shape[0] == 4
    ids = data.tokenizer([f"the {data.train_nouns[0]} is to the left of the {data.train_nouns[1]}"]).ids
    assert ids.shape == (1, 11)  # one piece a word, [CLS], [SEP]


@pytest.mark.parametrize(("setting", "package"), [("objects", "tuxpaint-stamps-default"), ("backgrounds", "scratch")])
@pytest.mark.parametrize("folder", ["", "no/such/folder"])
def test_a_missing_folder_is_named_with_how_to_get_one(tree, setting, package, folder):
    with pytest.raises(ValueError, match=f"^{setting}: .*{folder}.*apt-get install {package}"):
        make(tree, **{setting: folder})


def test_too_small_folders_are_named(tree, tmp_path):
    with pytest.raises(ValueError, match="holds 0 captions on transparent PNGs"):
        make(tree, objects=str(tmp_path))
    with pytest.raises(ValueError, match="holds 0 JPEG or PNG files"):
        make(tree, backgrounds=str(tmp_path))


@pytest.mark.parametrize(
    ("picture", "caption", "message"),
    [
        (b"not a picture", b"A bad.", r"bad\.png: cannot be used as an image"),
        (None, b"\xff\xfe\xff", r"bad\.txt.*(cannot be read|not UTF-)"),
        (None, b"\nA second line.", r"bad\.txt:1: the caption is empty"),
        (None, b"A bad.", r"bad\.png: nothing of it is visible"),
    ],
)
def test_a_bad_file_is_named(tree, tmp_path, picture, caption, message):
    Image.new("RGBA", (8, 8)).save(tmp_path / "bad.png")
    if picture is not None:
        (tmp_path / "bad.png").write_bytes(picture)
    (tmp_path / "bad.txt").write_bytes(caption)
    with pytest.raises(ValueError, match=message):
        make(tree, objects=str(tmp_path))


def test_a_decompression_bomb_is_refused(tree, tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    (tmp_path / "bomb.txt").write_text("A bomb.")
    assert (tmp_path / "bomb.png").stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"bomb\.png: cannot be used as an image: .*pixels"):
        make(tree, objects=str(tmp_path))


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("An abalone.", ("an", "abalone")),
        ("\ufeffA plumber’s wrench.", ("a", "plumber’s wrench")),
        ("Some  grapes", ("some", "grapes")),
        ("Saturn.", ("", "saturn")),
    ],
)
def test_captions_are_read_as_article_and_noun(tmp_path, line, read):
    (tmp_path / "a.txt").write_text(line + "\nde.utf8=Etwas.\n", encoding="utf-8")
    assert cutout_files.read_caption(str(tmp_path / "a.txt")) == read
    assert compositing.ObjectSpec(read[1], read[1], read[0]).phrase() == " ".join(filter(None, read))


def test_speed_is_reported(real, capsys):
    start = time.perf_counter()
    for number in range(500):
        real.draw(number)
    with capsys.disabled():
        print(f"\ncutouts: {500 / (time.perf_counter() - start):.0f} drawn a second")
