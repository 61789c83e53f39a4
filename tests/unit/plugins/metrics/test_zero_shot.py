"""Zero-shot classification: what its two formulas promise, and the section on tiny models and on CoCa."""

import math

import pytest
import small
import torch
from evaluations import evaluation
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyData, tiny_model
from torch.nn.functional import normalize

from core.model import Model
from core.types import Tokens
from plugins.backbones.vit import ViT
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.heads.unit import Unit
from plugins.metrics import zero_shot
from plugins.metrics.features import cosines
from plugins.metrics.zero_shot import ENSEMBLE, accuracy, ensemble
from plugins.text.prompts import PROMPTS
from registry.part import Part

PICTURES = 18  # two of each of tiny data's nine classes


class Labelled(TinyData):
    """Tiny data whose captions are class names. Its vocabulary has no prompts: they stand there as the bare name."""

    def __init__(self):
        super().__init__()
        known, plain = set(self.tokenizer.decode(range(10)).split()), self.tokenizer
        self.tokenizer = lambda texts: plain([" ".join(word for word in t.split() if word in known) for t in texts])

    def labelled_examples(self, split, count):
        return [(example, example.caption) for example in self.held_out(split, count)]


def measured(model, data, **changed):
    asked = {"examples": PICTURES, "batch": 5, **changed}
    asked = evaluation(model, data, **asked)
    with torch.no_grad(), asked.autocast():
        return zero_shot.evaluate(asked)


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_ensemble_of_one_prompt_is_that_prompt():
    one = features(1, 7, 4)
    assert torch.allclose(ensemble(one), normalize(one[0], dim=-1))
    assert torch.allclose(ensemble(one.repeat(3, 1, 1)), normalize(one[0], dim=-1))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_every_prompt_of_an_ensemble_has_the_same_say(prompts, classes, seed):
    given_ = features(prompts, classes, 4, seed=seed)
    lengths = torch.rand(prompts, classes, 1, generator=torch.Generator().manual_seed(seed)) + 0.1
    found = ensemble(given_)
    assert torch.allclose(ensemble(given_ * lengths), found, atol=1e-5)
    assert torch.allclose(ensemble(given_.flip(0)), found, atol=1e-5)
    for c in range(classes):
        mean = sum(row / math.sqrt(sum(float(x) ** 2 for x in row)) for row in given_[:, c])
        assert torch.allclose(found[c], mean / mean.norm(), atol=1e-4)


def test_perfect_permuted_and_tied():
    right = torch.arange(40) % 8
    similar = torch.eye(8)[right]
    assert accuracy(similar, right) == 1
    assert accuracy(similar, (right + 1) % 8) == 0
    assert accuracy(torch.zeros(40, 8), right) == 0, "ties count against the model"
    assert accuracy(torch.full((40, 8), torch.nan), right) == 0
    shared = similar.clone()
    shared[:10, 7] = 1
    assert accuracy(shared, right) == (40 - 10 + int((right[:10] == 7).sum())) / 40


def test_features_that_know_nothing_are_right_by_chance():
    similar, right = features(4000, 10), torch.arange(4000) % 10
    assert accuracy(similar, right) == pytest.approx(0.1, abs=0.02)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    assert accuracy(torch.eye(10)[right][order], right) == pytest.approx(0.1, abs=0.02)


def test_cosines_stay_in_full_precision():
    images, classes = features(3, 4), features(5, 4, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cosines(images, classes), cosines(images.clone(), classes.clone()))
        assert cosines(images, classes).dtype == torch.float32


def test_the_section_equals_every_picture_and_class_alone():
    model, data = tiny_model(), Labelled()
    section = measured(model, data)["zero_shot"]
    labelled = data.labelled_examples("test", PICTURES)
    names = list(dict.fromkeys(name for _, name in labelled))
    hits = 0
    with torch.no_grad():
        for picture, name in labelled:
            image = model.heads["image"](model.encode_image(model.backbone.trunk(picture.image[None])).pooled)
            by_name = {
                n: float(image @ model.heads["text"](model.encode_text(data.tokenizer([n])).pooled).T) for n in names
            }
            hits += max(by_name, key=by_name.get) == name
    assert section == {
        "accuracy": hits / PICTURES,
        "chance": 1 / 9,
        "classes": 9,
        "pictures": PICTURES,
        "prompts": len(PROMPTS) + 1,
    }
    assert measured(model, data, batch=PICTURES)["zero_shot"] == section
    assert measured(model, data, examples=4)["zero_shot"]["chance"] == 1 / 4


def test_a_model_that_knows_every_class_scores_1_and_with_the_wrong_names_0():
    model, data = tiny_model(), Labelled()
    ids = {name: tuple(data.tokenizer([name]).ids[0].tolist()) for _, name in data.labelled_examples("test", 9)}
    place = {row: number for number, row in enumerate(ids.values())}
    known = {e.image.numpy().tobytes(): place[ids[name]] for e, name in data.labelled_examples("test", PICTURES)}

    def states(numbers):
        return Tokens(torch.zeros(len(numbers), 1, 9), pooled=torch.eye(9)[numbers])

    shift = 0
    model.heads["image"] = model.heads["text"] = torch.nn.Identity()
    model.backbone.trunk = lambda images: states([known[image.numpy().tobytes()] for image in images])
    model.encode_image = lambda trunk: trunk
    model.encode_text = lambda text: states([(place[tuple(row)] + shift) % 9 for row in text.ids.tolist()])
    assert measured(model, data)["zero_shot"]["accuracy"] == 1
    shift = 1
    assert measured(model, data)["zero_shot"]["accuracy"] == 0


def test_no_section_without_heads_or_classes():
    assert measured(tiny_model(), TinyData()) is None
    for head in ("image", "text"):
        model = tiny_model()
        del model.heads[head]
        assert measured(model, Labelled()) is None
    model = tiny_model()
    model.text = None
    assert measured(model, Labelled()) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_decoder_that_pools_reads_the_names(precision):
    torch.manual_seed(0)
    source = small.data()
    model = Model(
        backbone=Part(ViT, {"embed_dim": 32, "num_heads": 2, "depth": 1, "patch_size": 16}),
        decoder=Part(
            DecoupledDecoder,
            {
                "embed_dim": 32,
                "num_heads": 2,
                "unimodal": 1,
                "multimodal": 1,
                "layout": "paper",
                "cls": True,
                "dropout": 0.0,
            },
        ),
        heads={"image": Part(Unit), "text": Part(Unit)},
        vocabulary=source.tokenizer.vocabulary,
        text_length=source.text_length,
        image_size=source.image_size,
    )
    section = measured(model, source, examples=70, batch=32, precision=precision)["zero_shot"]
    assert section["classes"] == section["pictures"] == 70
    assert section["accuracy"] < 0.2, "nothing is learnt yet"
    assert measured(model, source, split="withheld", examples=20)["zero_shot"]["classes"] == 10


def test_it_is_told_beside_chance():
    section = {"accuracy": 0.5, "chance": 1 / 70, "classes": 70, "pictures": 256, "prompts": 6}
    assert zero_shot.format_report({"zero_shot": section}) == {
        "zero_shot": [
            "Zero-shot classification of 256 images in 70 classes, 6 prompts a class",
            "  %            found  chance",
            "  right class   50.0     1.4",
        ]
    }
    assert zero_shot.format_report({}) is None


def test_the_ensemble_holds_the_training_prompts_and_the_bare_name():
    assert ENSEMBLE[:-1] == PROMPTS
    assert len({prompt.format(labels="red circle") for prompt in ENSEMBLE}) == len(ENSEMBLE)
