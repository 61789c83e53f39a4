"""Embedded scenes: what they promise about pictures, boxes and texts."""

import re
import time

import numpy as np
import pytest
import torch

from core.types import Example
from plugins.data.drawing import captions, compositing, shapes
from plugins.data.drawing.scene_painter import BACKGROUNDS, COLOURS, TRAINING, WITHHELD
from plugins.data.scenes import Scenes
from plugins.text.prompts import PROMPTS, label_caption

TRAINED = 3000  # training scenes looked at


@pytest.fixture(scope="module")
def data():
    return Scenes()


@pytest.fixture(scope="module")
def training(data):
    return [data.draw(number) for number in range(TRAINED)]


def combinations(example):
    return {tuple(reversed(noun.split())) for noun in example.facts.objects}


def everywhere(data, training):
    return [*training[:300], *(example for split in data.splits() for example in data.held_out(split, 100))]


def test_same_scene_whenever_and_in_whatever_order_it_is_drawn(data, training):
    again = Scenes(train_size=10, box_fraction=1)
    for number in (7, 3, 7):
        one, other = again.draw(number), training[number]
        assert torch.equal(one.image, other.image)
        assert (one.caption, one.regions, one.questions) == (other.caption, other.regions, other.questions)
    assert [e.caption for e in again.held_out("test", 3)] == [e.caption for e in data.held_out("test", 5)[:3]]
    assert Scenes(seed=1).draw(3).caption != training[3].caption


def test_withheld_combinations_are_ten_of_eighty_and_never_trained_on(data, training):
    assert len(set(WITHHELD)) == 10
    assert len(TRAINING) == 70
    trained = set().union(*map(combinations, training))
    assert trained == set(TRAINING)  # so every shape and every colour is seen
    assert {shape for shape, _ in trained} == set(shapes.SHAPES)
    assert {colour for _, colour in trained} == set(COLOURS)
    for split in ("validation", "test"):
        assert all(combinations(example) <= set(TRAINING) for example in data.held_out(split, 300))


def test_withheld_scenes_point_at_a_withheld_object_first(data):
    for example in data.held_out("withheld", 300):
        noun = next(iter(example.facts.objects))
        assert tuple(reversed(noun.split())) in WITHHELD
        assert example.regions[0].phrase.endswith(noun)
        assert example.regions[0].box == example.facts.objects[noun].box
        assert tuple(reversed(example.absent.split()[-2:])) in set(WITHHELD) - combinations(example)


def test_three_to_five_objects_apart_from_each_other(data, training):
    counts = set()
    for example in everywhere(data, training):
        boxes = [region.box for region in example.regions]
        counts.add(len(boxes))
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            assert 0 <= x0 < x1 <= 64
            assert 0 <= y0 < y1 <= 64
            assert all(x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0 for u0, v0, u1, v1 in boxes[:i])
        assert len(combinations(example)) == len(boxes)
    assert counts == {3, 4, 5}


@pytest.mark.parametrize("image_size", [33, 64, 96])
def test_boxes_are_tight(image_size):
    for shape in shapes.SHAPES:
        for size in shapes.SIZES:
            sprite = shapes.draw_shape(shape, "white", size, "plain", image_size)
            canvas = np.zeros((3, image_size, image_size), np.uint8)
            thing = compositing.ObjectSpec(shape, shape)
            (placed,) = compositing.paste(canvas, [(thing, sprite)], [(0.5, 0.5)])
            x0, y0, x1, y1 = map(int, placed.box)
            lit = canvas[0] > 0
            assert lit[y0:y1, x0:x1].sum() == lit.sum()
            assert all(edge.any() for edge in (lit[y0, :], lit[y1 - 1, :], lit[:, x0], lit[:, x1 - 1]))


def test_pictures_differ_from_their_background_in_the_boxes_only(data, training):
    one, other = next(pair for pair in twins(data, training))
    outside = torch.ones(64, 64, dtype=torch.bool)
    for region in (*one.regions, *other.regions):
        x0, y0, x1, y1 = map(int, region.box)
        outside[y0:y1, x0:x1] = False
    assert torch.equal(one.image[:, outside], other.image[:, outside])


def twins(data, training):
    for one, other in zip(training[::2], training[1::2], strict=True):
        centres = [[round(8 * c) for c in p.centre] for e in (one, other) for p in e.facts.objects.values()]
        colours = [[noun.split()[0] for noun in e.facts.objects] for e in (one, other)]
        if colours[0] == colours[1] and centres[: len(colours[0])] == centres[len(colours[0]) :]:
            yield one, other


def test_about_a_quarter_of_the_pairs_are_twins_and_their_captions_tell_them_apart(data, training):
    found = list(twins(data, training))
    assert 0.2 < len(found) / (TRAINED / 2) < 0.3
    for one, other in found:
        assert not combinations(one) & combinations(other)
        assert not data.describes(one, other)
        assert not data.describes(other, one)


def claims_by_words(caption):
    """The caption's objects and relations read from its words alone, by another way than it was made."""
    nouns = re.findall(rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(shapes.SHAPES)})", caption)
    relations = {word: name for name, words in captions.RELATIONS.items() for word in words}
    article = r"(?:a|an|the) (?:small |large )?(?:plain |striped |dotted )?"
    noun = rf"{article}(\w+ \w+)"
    words = "|".join(sorted(relations, key=len, reverse=True))
    found = re.findall(rf"{noun} (?:is )?({words}) {noun}", caption)
    return set(nouns), {(one, relations[relation], other) for one, relation, other in found}


def test_captions_are_true_of_their_scene_by_their_words(data, training):
    seen = set()
    for example in everywhere(data, training):
        assert data.describes(example, example)
        nouns, relations = claims_by_words(example.caption)
        assert nouns == {noun for noun, _ in example.facts.mentions}
        assert len(nouns) >= 3
        assert relations <= set(example.facts.relations)
        things = example.facts.objects
        for one, relation, other in example.facts.relations:
            (x, y), (u, v) = things[one].centre, things[other].centre
            assert {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}[relation]
            seen.add(relation)
        assert 10 <= len(example.caption.replace(",", "").split()) <= 25
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", example.caption)
    assert seen == set(captions.RELATIONS)


def test_a_scene_has_five_captions_all_true_of_it_by_their_words(data):
    for example in data.held_out("test", 50):
        own, *others = data.references(example)
        assert own == example.caption
        assert len({own, *others}) == 5
        things = example.facts.objects
        for caption in others:
            nouns, relations = claims_by_words(caption)
            assert len(nouns) >= 3
            assert nouns <= set(things)
            assert all(captions.related(things[a], relation, things[b]) for a, relation, b in relations)
    single, _ = data.labelled_examples("test", 1)[0]
    assert data.references(single) == [single.caption]


def test_a_caption_is_false_where_an_adjective_or_a_relation_is(data, training):
    example = next(e for e in training if e.facts.mentions[0][1])
    facts = example.facts
    noun = facts.mentions[0][0]
    plain = facts.objects[noun]._replace(spec=facts.objects[noun].spec._replace(adjectives=()))
    other = captions.Facts({**facts.objects, noun: plain}, (), ())
    assert not facts.entails(other)
    moved = {name: one._replace(centre=(0.5, 0.5)) for name, one in facts.objects.items()}
    assert not facts.entails(captions.Facts(moved, (), ()))


def test_captions_of_a_test_set_are_nearly_unambiguous(data):
    examples = data.held_out("test", 256)
    true = [sum(data.describes(one, other) for other in examples) for one in examples]
    assert np.mean([1 / count for count in true]) > 0.97


def test_left_and_right_stand_in_relations_only(data, training):
    for example in everywhere(data, training):
        left = example.caption.count("left") + example.caption.count("right")
        sideways = [relation for _, relation, _ in example.facts.relations if relation in ("left of", "right of")]
        assert left == len(sideways)
        assert not any(re.search("left|right", region.phrase) for region in example.regions)


def test_regions_name_their_object_and_no_other(data, training):
    for example in everywhere(data, training):
        for region, placed in zip(example.regions, example.facts.objects.values(), strict=True):
            assert region.box == placed.box
            assert region.label == placed.spec.label
            assert region.phrase.endswith(placed.spec.noun)
            adjectives = set(region.phrase.split()[:-2]) - {"a", "an", "the"}
            assert adjectives <= set(placed.spec.adjectives)
        assert not any(example.absent.endswith(noun) for noun in example.facts.objects)


def test_share_of_positive_patches_is_small(data):
    rates = []
    for example in data.held_out("test", 200):
        for region in example.regions:
            x0, y0, x1, y1 = region.box
            across = [x0 < right and x1 > right - 8 for right in range(8, 65, 8)]
            down = [y0 < bottom and y1 > bottom - 8 for bottom in range(8, 65, 8)]
            rates.append(sum(across) * sum(down) / 64)
    assert np.mean(rates) < 0.15


def test_backgrounds_are_disjoint_between_training_validation_and_test():
    numbers = [set(range(*BACKGROUNDS[split])) for split in ("train", "validation", "test")]
    assert sum(map(len, numbers)) == len(set.union(*numbers))
    assert BACKGROUNDS["withheld"] == BACKGROUNDS["test"]


def answer(question: str, example: Example) -> str:
    """By the words of the question and the scene alone."""
    things = example.facts.objects
    shapes_, colours = [n.split()[1] for n in things], [n.split()[0] for n in things]
    if found := re.fullmatch(r"is there an? (.*)\?", question):
        return "yes" if found[1] in things else "no"
    if question == "how many objects are there?":
        return str(len(things))
    if found := re.fullmatch(r"is the (\w+ \w+) (.*) the (\w+ \w+)\?", question):
        return "yes" if captions.related(things[found[1]], found[2], things[found[3]]) else "no"
    if found := re.fullmatch(r"what is (.*) the (\w+ \w+)\?", question):
        (only,) = [n for n in things if n != found[2] and captions.related(things[n], found[1], things[found[2]])]
        return only
    if found := re.fullmatch(r"what colour is the (\w+)\?", question):
        return colours[shapes_.index(found[1])]
    if found := re.fullmatch(r"what shape is the (\w+) object\?", question):
        return shapes_[colours.index(found[1])]
    if found := re.fullmatch(r"how many (\w+) objects are there\?", question):
        return str(colours.count(found[1]))
    found = re.fullmatch(r"how many (\w+)s are there\?", question.replace("crosses", "crosss"))
    return str(shapes_.count(found[1]))


def test_answers_are_right(data, training):
    given = {}
    for example in everywhere(data, training):
        for question, told in example.questions:
            assert told == answer(question, example), question
            given.setdefault(question.split(" the ")[0].split(" a")[0], set()).add(told)
    assert given["is there"] == {"yes", "no"}
    assert given["is"] == {"yes", "no"}
    assert given["what colour is"] == set(COLOURS)
    assert len(given) >= 5


@pytest.fixture(scope="module")
def singles():
    """Training pictures of data whose every picture is labelled."""
    data = Scenes(labelled=1)
    return [data.draw(number) for number in range(1000)]


def is_single(example):
    return len(example.facts.objects) == 1


def labels_of(caption):
    """The labels that a caption is made of, whichever prompt it stands in."""
    (found,) = {re.fullmatch(re.escape(p).replace(re.escape("{labels}"), "(.*)"), caption) for p in PROMPTS} - {None}
    return found[1].split(", ")


def test_a_labelled_picture_holds_one_object_and_names_its_labels_alone(data, singles):
    held_out = [example for split in data.splits() for example, _ in data.labelled_examples(split, 100)]
    for example in (*singles, *held_out):
        (noun,) = example.facts.objects
        (region,) = example.regions
        x0, y0, x1, y1 = region.box
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 64
        assert region.phrase.endswith(noun)
        assert region.label == noun.split()[1]
        assert sorted(labels_of(example.caption)) == sorted([noun, noun.split()[1]])
        assert data.describes(example, example)
        assert not example.absent.endswith(noun)
        for question, told in example.questions:
            assert told == answer(question, example), question


def test_nothing_but_the_object_stands_on_the_background(singles):
    """By colour: outside of its box all is muted, as every background is."""
    for example in singles[:200]:
        x0, y0, x1, y1 = map(int, example.regions[0].box)
        spread = example.image.amax(0).int() - example.image.amin(0).int()
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        white = example.regions[0].phrase.split()[-2] == "white"
        assert spread[outside].max() < 110
        assert white or spread[~outside].max() > 110


def test_labels_are_shuffled_and_prompts_sampled(singles):
    orders = [len(labels_of(example.caption)[0].split()) for example in singles]  # 2: the class, 1: the shape
    assert 0.45 < orders.count(2) / len(orders) < 0.55
    told = [label_caption(compositing.stream("prompt", i), ["cat", "animal"]) for i in range(500)]
    assert set(told) == {p.format(labels=both) for p in PROMPTS for both in ("cat, animal", "animal, cat")}


def test_labelled_pictures_are_everywhere_and_of_every_seen_class(singles):
    assert set().union(*map(combinations, singles)) == set(TRAINING)
    centres = np.array([next(iter(example.facts.objects.values())).centre for example in singles])  # (n, 2)
    cells = {tuple(cell) for cell in (centres * 3).astype(int)}
    assert len(cells) == 9


def test_held_out_classes_take_turns_and_are_fixed(data):
    names = {f"{colour} {shape}" for shape, colour in TRAINING}
    for split, classes in (("validation", names), ("test", names), ("withheld", {f"{c} {s}" for s, c in WITHHELD})):
        found = data.labelled_examples(split, 2 * len(classes))
        assert [name for _, name in found[: len(classes)]] == [name for _, name in found[len(classes) :]]
        assert {name for _, name in found} == classes
        assert len({name.split()[1] for _, name in found[:10]}) >= 8, "a few pictures are of many shapes"
        again = Scenes(labelled=0.5).labelled_examples(split, 5)
        for (one, name), (other, same) in zip(found, again, strict=False):
            assert name == same == next(iter(one.facts.objects))
            assert torch.equal(one.image, other.image)
            assert (one.key, one.caption) == (other.key, other.caption)
    keys = [example.key for split in data.splits() for example, _ in data.labelled_examples(split, 20)]
    assert len(set(keys)) == len(keys)
    with pytest.raises(ValueError, match="no split 'train'; it has validation, test, withheld"):
        data.labelled_examples("train", 1)


def test_labelled_is_a_share_of_the_pairs_and_leaves_the_others_as_they_are(data, training):
    mixed = Scenes(labelled=0.3)
    drawn = [mixed.draw(number) for number in range(TRAINED)]
    single = [is_single(example) for example in drawn]
    assert single[::2] == single[1::2]
    assert 0.26 < np.mean(single) < 0.34
    for one, other in zip(drawn, training, strict=True):
        assert is_single(one) or (torch.equal(one.image, other.image) and one.caption == other.caption)
    more = Scenes(labelled=0.6)
    assert all(is_single(more.draw(number)) for number in range(200) if single[number])
    assert not any(map(is_single, training))
    rows = [mixed.examples(64, np.random.default_rng(step)) for step in range(20)]
    assert 0.22 < np.mean([is_single(example) for row in rows for example in row]) < 0.38


def test_batches_of_labelled_pictures_are_a_pure_function(data):
    reads = frozenset({"masked", "prefixed", "regions"})
    one, other = (Scenes(labelled=0.5).batch(step, size=16, seed=1, reads=reads) for step in (4, 4))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.text.ids, other.text.ids)
    assert torch.equal(one.regions.boxes, other.regions.boxes)
    plain, none = data.batch(4, size=16, seed=1, reads=reads), Scenes(labelled=0).batch(4, size=16, seed=1, reads=reads)
    assert torch.equal(plain.images, none.images)
    assert not torch.equal(plain.images, one.images)


def test_the_vocabulary_knows_the_prompts_and_does_not_depend_on_the_share(data, singles):
    captions = [example.caption for example in singles]
    for text, row in zip(captions, data.tokenizer(captions).ids.tolist(), strict=True):
        words = len(re.findall(r"\w+|[^\w\s]", text))
        assert sum(i != data.tokenizer.pad for i in row) == words + 2  # one piece a word, [CLS], [SEP]
    assert torch.equal(Scenes(labelled=0.5).tokenizer(captions).ids, data.tokenizer(captions).ids)


def test_boxed_is_a_seeded_share(data):
    assert 0.04 < len(data.boxed) / data.train_size < 0.06
    assert data.boxed == Scenes().boxed != Scenes(seed=1).boxed
    assert Scenes(box_fraction=0, train_size=100).boxed == []


def test_vocabulary_covers_every_text_and_does_not_depend_on_sizes(data):
    texts = [text for split in data.splits() for e in data.held_out(split, 50) for text in captions.texts(e)]
    texts.append("This is a crescent.")
    for text, row in zip(texts, data.tokenizer(texts).ids.tolist(), strict=True):
        words = len(re.findall(r"\w+|[^\w\s]", text))
        assert sum(i != data.tokenizer.pad for i in row) == words + 2  # one piece a word, [CLS], [SEP]
    other = Scenes(image_size=96, train_size=50)
    assert torch.equal(other.tokenizer(texts).ids, data.tokenizer(texts).ids)


def test_batch_has_the_promised_parts(data):
    batch = data.batch(3, size=8, seed=0, reads=frozenset({"masked", "prefixed", "regions"}))
    assert batch.images.shape == (8, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.regions.images.shape == (data.options.region_batch_size, 3, 64, 64)
    again = data.batch(3, size=8, seed=0, reads=frozenset())
    assert torch.equal(again.images, batch.images)
    assert again.regions is None


def test_an_unknown_split_is_an_error_that_names_those_there_are(data):
    with pytest.raises(ValueError, match="no split 'train'; it has validation, test, withheld"):
        data.held_out("train", 1)


def test_saved_vocabulary_is_read(data, tmp_path):
    data.tokenizer.save(str(tmp_path))
    assert Scenes(vocabulary=str(tmp_path), train_size=2).tokenizer.vocabulary == data.tokenizer.vocabulary


def test_speed_is_reported(data, capsys):
    start = time.perf_counter()
    for number in range(1000):
        data.draw(number)
    with capsys.disabled():
        print(f"\nscenes: {1000 / (time.perf_counter() - start):.0f} drawn a second")
