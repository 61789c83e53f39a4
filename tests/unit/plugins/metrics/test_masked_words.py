"""Masked words: which are masked, right and blind predictions by a model that is known, and the printed table."""

from __future__ import annotations

import pytest
import small
import torch
from evaluations import evaluation as evaluation_of
from tiny import WORDS, TinyData, tiny_model

from core.model import Model
from core.types import Text
from plugins.metrics import masked_words
from plugins.metrics.masked_words import BLANK_VALUE, evaluate, mask_rows

SCENES = small.data()


def words_of(text: Text, targets: torch.Tensor, owner: torch.Tensor) -> list[tuple[int, str]]:
    """The row and the masked word of each row, in order."""
    return [
        (int(row), SCENES.tokenizer.decode(text.ids[row][spans].tolist()))
        for row, spans in zip(owner, targets, strict=True)
    ]


def test_each_class_word_is_masked_in_a_row_of_its_own():
    text = SCENES.tokenizer(["a red star above the blue star", "there is a green circle"])
    owner, targets = mask_rows(text, SCENES.tokenizer, ["blue", "circle", "green", "red", "star"])
    expected = [(0, "red"), (0, "star"), (0, "blue"), (0, "star"), (1, "green"), (1, "circle")]
    assert words_of(text, targets, owner) == expected


def test_a_word_of_several_tokens_is_masked_as_a_whole():
    text = SCENES.tokenizer(["a red redstar", "a redstar"])
    pieces = int(SCENES.tokenizer(["redstar"]).mask.sum()) - 2
    assert pieces > 1
    owner, targets = mask_rows(text, SCENES.tokenizer, ["redstar"])
    assert words_of(text, targets, owner) == [(0, "redstar"), (1, "redstar")]
    assert targets.sum(1).tolist() == [pieces, pieces]


def test_without_words_every_token_is_masked_but_no_special_one():
    text = SCENES.tokenizer(["a red star", ""])
    owner, targets = mask_rows(text, SCENES.tokenizer, [])
    assert words_of(text, targets, owner) == [(0, "a"), (0, "red"), (0, "star")]


def test_texts_without_the_words_have_no_rows():
    text = SCENES.tokenizer(["a red star"])
    owner, targets = mask_rows(text, SCENES.tokenizer, ["blue"])
    assert owner.shape == (0,) and targets.shape == (0, text.ids.shape[1])


def test_rows_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(masked_words, "MAX_ROWS", 4)
    owner, _ = mask_rows(SCENES.tokenizer(["a red star"] * 9), SCENES.tokenizer, ["red"])
    assert owner.tolist() == [0, 3, 6]


class Reader(torch.nn.Module):
    """A words head that predicts the token whose id is the first state, rounded."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, states):
        return -(states[..., :1] - torch.arange(self.size)).abs()  # (m, L, V)


def with_words() -> Model:
    """The tiny model with a words head."""
    model = tiny_model()
    model.heads["words"] = Reader(len(WORDS))
    return model


def test_the_accuracy_is_of_the_image_and_blind_of_a_grey_one(monkeypatch):
    """A fusion that returns the true ids if the image is not blank, for two in three rows."""
    evaluation = evaluation_of(with_words(), TinyData(), examples=9, batch=4)
    model, tokenizer = evaluation.model, evaluation.data.tokenizer
    captions = tokenizer([example.caption for example in evaluation.examples("test", 9)])
    owner, _targets = mask_rows(captions, tokenizer, [])
    state = {"start": 0, "way": 0}

    def fuse(words, image):
        rows = slice(state["start"], state["start"] + len(words.x))
        blind = state["way"] == 1
        state["way"] = 1 - state["way"]
        state["start"] = rows.stop if blind else rows.start
        ids = captions.ids[owner[rows]].float()
        wrong = torch.arange(len(owner))[rows] % 3 == 0
        ids = torch.zeros_like(ids) if blind else torch.where(wrong[:, None], 0.0, ids)
        return type("Fused", (), {"text": type("Tokens", (), {"x": ids[..., None]})})

    trunks = []
    trunk = model.trunk
    monkeypatch.setattr(model, "trunk", lambda images: trunks.append(images) or trunk(images))
    monkeypatch.setattr(model.fusion, "forward", fuse)
    section = evaluate(evaluation=evaluation)["masked_words"]
    wrong = len(range(0, len(owner), 3))
    assert section == {"words": len(owner), "accuracy": pytest.approx(1 - wrong / len(owner)), "blind": 0.0}
    assert all((images == BLANK_VALUE).all() for images in trunks[1::2])
    assert not any((images == BLANK_VALUE).all() for images in trunks[::2])


def test_the_model_gets_the_captions_with_the_masked_words_replaced():
    evaluation = evaluation_of(with_words(), TinyData(), examples=3)
    assert evaluation.data.tokenizer.mask >= 0
    texts = []
    encode_text = evaluation.model.encode_text
    evaluation.model.encode_text = lambda text: texts.append(text) or encode_text(text)
    evaluate(evaluation=evaluation)
    captions = evaluation.data.tokenizer([example.caption for example in evaluation.examples("test", 3)])
    owner, targets = mask_rows(captions, evaluation.data.tokenizer, [])
    ids = torch.cat([text.ids for text in texts])
    assert torch.equal(ids == evaluation.data.tokenizer.mask, targets)
    assert torch.equal(ids[~targets], captions.ids[owner][~targets])


def test_no_section_without_fusion_head_or_mask(monkeypatch):
    assert evaluate(evaluation=evaluation_of(tiny_model(joined=False), TinyData())) is None
    assert evaluate(evaluation=evaluation_of(tiny_model(), TinyData())) is None
    evaluation = evaluation_of(with_words(), TinyData())
    evaluation.model.fusion = None
    assert evaluate(evaluation=evaluation) is None
    maskless = TinyData()

    def no_mask(tokenizer):
        raise ValueError("no [MASK]")

    monkeypatch.setattr(type(maskless.tokenizer), "mask", property(no_mask))
    assert evaluate(evaluation=evaluation_of(with_words(), maskless)) is None


def test_lines():
    section = {"words": 1099, "accuracy": 0.562, "blind": 0.153}
    assert masked_words.format_report(report={"masked_words": section})["masked_words"] == [
        "Prediction of 1099 masked words, one at a time",
        "  %      with the image  blank image",
        "  right            56.2         15.3",
    ]
    assert masked_words.format_report(report={}) is None
