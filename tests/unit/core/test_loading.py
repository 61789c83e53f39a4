"""Loading: vocabulary, pretrained weights that are not needed, and splits."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from small_runs import COPA
from tiny import TinyData

from core import discovery
from core.loading import build_data, build_model, check_split, load, recipe_in, with_vocabulary, without_pretrained
from core.model import ModelSpec
from core.recipe import read
from registry.part import Part, Pretrained, Vocabulary


class Encoder:
    def __init__(self, *, weights: Pretrained = "", width: int = 3, inner: object = None): ...


class Reader:
    def __init__(self, *, vocabulary: Vocabulary = "", size: int = 1): ...


@dataclass(frozen=True)
class Slot:
    part: Part[Encoder]
    after: int = 1


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "copa.yaml"
    file.write_text(COPA)
    return read(str(file), ["evaluate.split=validation"], discovery.load())


def test_pretrained_weights_are_emptied_in_all_nested_parts():
    inner = Part(Encoder, {"weights": "inner.pt", "width": 7})
    outer = Part(Encoder, {"weights": "outer.pt", "inner": [inner, {"a": Slot(inner, 4)}, (inner, 5)]}, name="outer")
    plain = without_pretrained(outer)
    empty = Part(Encoder, {"weights": "", "width": 7})
    assert plain == Part(Encoder, {"weights": "", "inner": [empty, {"a": Slot(empty, 4)}, (empty, 5)]}, name="outer")
    assert inner.settings["weights"] == "inner.pt"  # unchanged


@pytest.mark.parametrize("value", [None, 3, "weights.pt", ["a"], (1, 2), {"weights": "w"}, Slot])
def test_other_values_are_unchanged(value):
    assert without_pretrained(value) == value


def test_the_vocabulary_of_a_folder_replaces_that_of_the_data():
    @dataclass(frozen=True)
    class Small:
        data: Part[Reader]

    changed = with_vocabulary(Small(Part(Reader, {"vocabulary": "old", "size": 2})), "run")
    assert changed.data.settings == {"vocabulary": "run", "size": 2}


@pytest.mark.parametrize(("split", "hint"), [("tset", " Did you mean 'test'?"), ("zzz", "")])
def test_an_unknown_split(split, hint):
    check_split(["validation", "test"], "test")
    with pytest.raises(ValueError, match="split") as caught:
        check_split(["validation", "test"], split)
    expected = f"evaluate.split: {split!r} is no split of this data.{hint} It has: validation, test."
    assert str(caught.value) == expected


def test_data_is_checked_for_its_split():
    recipe = SimpleNamespace(data=Part(TinyData), evaluate=SimpleNamespace(split="withheld"))
    assert build_data(recipe).image_size == 32
    other = SimpleNamespace(data=Part(TinyData, {"withheld": False}), evaluate=recipe.evaluate)
    with pytest.raises(ValueError, match=r"evaluate\.split: 'withheld' is no split of this data"):
        build_data(other)


def test_a_model_has_the_sizes_of_its_spec_and_weights_of_the_seed(recipe):
    spec = ModelSpec(64, 20, 50)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model(recipe.model, spec))
    assert models[0].text.embedding.shape[0] == 50
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_folders_without_a_run(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: there is no recipe\.yaml in it"):
        recipe_in(str(tmp_path))
    (tmp_path / "recipe.yaml").touch()
    assert recipe_in(str(tmp_path)) == str(tmp_path / "recipe.yaml")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        build_model(recipe.model, ModelSpec(64, 20, 50), str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"precision": "fp8"}, "precision: 'fp8' is none of auto, fp32, bf16"), ({"device": "gpu"}, "^device: 'gpu'")],
)
def test_device_and_precision_are_checked_before_the_folder(arguments, message):
    with pytest.raises(ValueError, match=message):
        load("nowhere", **arguments)
