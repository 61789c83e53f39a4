"""Inputs of a predictor: one or many, lazily; prompts; what is no image."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.model import ModelSpec
from plugins.inference.inputs import MAX_ASPECT_RATIO, chunks, fill_prompts, pictures_of, preprocess, texts_of

SIZES = {crop: ModelSpec(16, 20, 9, crop=crop) for crop in (False, True)}


@pytest.mark.parametrize("image", ["a.png", Path("a.png"), Image.new("RGB", (2, 3)), torch.zeros(3, 4, 5)])
def test_one_image_is_a_list_of_one(image):
    (only,) = pictures_of(image)
    assert only is image


def test_many_images_keep_their_order_and_may_be_lazy():
    assert list(pictures_of(("b", "a"))) == ["b", "a"]
    assert list(pictures_of([])) == []
    stack = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    assert all(torch.equal(one, other) for one, other in zip(pictures_of(stack), stack, strict=True))
    endless = pictures_of(iter(lambda: "a", None))
    assert next(endless) == "a"


def test_texts():
    assert texts_of("red star") == ["red star"]
    assert texts_of("") == [""]
    assert texts_of(name for name in ("a", "b")) == ["a", "b"]
    assert texts_of([]) == []
    for item, kind in ((3, "int"), (None, "NoneType"), (b"a", "bytes"), (["a"], "list")):
        with pytest.raises(ValueError, match=f"^a text is a string, got {kind}$"):
            texts_of(["a", item])


def test_prompts_come_first_and_names_vary_fastest():
    assert fill_prompts(["cat", "dog"], ["a {labels}", "{labels} or {labels}"]) == [
        "a cat",
        "a dog",
        "cat or cat",
        "dog or dog",
    ]
    assert fill_prompts(["{labels}", "{}"], ["a {labels}"]) == ["a {labels}", "a {}"]  # no second replacement
    assert fill_prompts(["cat"], []) == []


@pytest.mark.parametrize(
    ("names", "prompts", "message"),
    [
        ([], ["{labels}"], "there are no classes to choose from"),
        (["cat", "dog", "dog", "cat"], ["{labels}"], "classes: 'cat' is there twice"),
        (["cat"], ["{labels}", "a {label}"], "prompts: 'a {label}' has no {labels}, where the class's name belongs"),
        (["cat"], [""], "prompts: '' has no {labels}"),
    ],
)
def test_prompts_and_names_that_do_not_fit(names, prompts, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        fill_prompts(names, prompts)


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_chunks_hold_every_item_once(items, size):
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(parts)  # no empty list, also for no items


def test_a_chunk_takes_no_item_of_the_next():
    taken = deque()
    parts = chunks((taken.append(i) or i for i in range(5)), 2)
    assert list(taken) == []
    assert next(parts) == [0, 1]
    assert list(taken) == [0, 1]


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (7, 90), (90, 7), (300, 200), (1, 400)])
def test_every_size_becomes_the_models(size, crop):
    height, width = size
    image = preprocess(torch.full((3, height, width), 77, dtype=torch.uint8), SIZES[crop])
    assert image.dtype == torch.uint8
    assert image.shape == (3, 16, 16)
    assert image.unique().tolist() == [77]  # resizing a constant image adds no edge


@pytest.mark.parametrize("crop", [False, True])
def test_an_image_of_the_models_size_is_unchanged(crop):
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(preprocess(image, SIZES[crop]), image)
    assert torch.equal(preprocess(Image.fromarray(image.permute(1, 2, 0).numpy()), SIZES[crop]), image)
    strided = image.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(preprocess(strided, SIZES[crop]), image)


def test_crop_keeps_the_centre_and_resize_keeps_all():
    wide = np.zeros((16, 48, 3), np.uint8)  # red, green, blue thirds
    for third in range(3):
        wide[:, 16 * third : 16 * third + 16, third] = 200
    image = Image.fromarray(wide)
    cropped, resized = preprocess(image, SIZES[True]).float(), preprocess(image, SIZES[False]).float()
    assert cropped.mean((1, 2)).tolist() == [0, 200, 0]
    assert resized.mean((1, 2)).tolist() == pytest.approx([200 / 3] * 3, rel=0.05)
    assert [int(column) for column in resized.mean(1).argmax(0)[[0, 8, 15]]] == [0, 1, 2]


def test_a_long_strip_is_cropped_before_it_is_resized(monkeypatch):
    from plugins.inference import inputs

    sizes = []
    resize = inputs.functional.resize

    def record(image, *rest):
        sizes.append(tuple(image.shape[1:]))
        return resize(image, *rest)

    monkeypatch.setattr(inputs.functional, "resize", record)
    preprocess(torch.zeros(3, 2, 4000, dtype=torch.uint8), SIZES[True])
    assert sizes[-1] == (2, 2 * MAX_ASPECT_RATIO)


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (torch.zeros(3, 4, 4), "3 x 4 x 4 of torch.float32"),
        (torch.zeros(4, 4, dtype=torch.uint8), "4 x 4 of torch.uint8"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), "1 x 4 x 4 of torch.uint8"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "4 x 4 x 3 of torch.uint8"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), "3 x 0 x 4 of torch.uint8"),
    ],
)
def test_tensors_that_are_no_image(tensor, got):
    with pytest.raises(ValueError, match=f"^an image as a tensor is 3 x height x width of uint8, got {got}$"):
        preprocess(tensor, SIZES[False])


@pytest.mark.parametrize("value", [3, None, np.zeros((4, 4, 3), np.uint8)])
def test_other_types_are_no_image(value):
    with pytest.raises(ValueError, match=f"a path, a PIL image or a tensor, got {type(value).__name__}$"):
        preprocess(value, SIZES[False])


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "note.png").write_text("red star")
    for name in ("note.png", "none.png"):
        with pytest.raises(ValueError, match=name):
            preprocess(tmp_path / name, SIZES[False])
