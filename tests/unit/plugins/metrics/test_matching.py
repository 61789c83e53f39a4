"""Accuracy of the matching head: pairs, ties, chunks, and models or data without a section."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from evaluations import evaluation as evaluation_of
from tiny import TinyData, tiny_model

from plugins.metrics import matching


def evaluation(model=None, data=None, **options):
    return evaluation_of(model or tiny_model(), data or TinyData(), **{"examples": 10, "batch": 4, **options})


def captioned(*captions):
    """Data whose held-out images have these captions."""

    class Captioned(TinyData):
        def held_out(self, split, count):
            examples = super().held_out(split, len(captions))
            return [dataclasses.replace(e, caption=c) for e, c in zip(examples, captions, strict=True)][:count]

    return Captioned()


def section_of(monkeypatch, right, wrong, data=None):
    """The section if the head's log-odds are ``right`` for right captions and ``wrong`` for the others."""
    results = iter([torch.tensor(right), torch.tensor(wrong)])
    monkeypatch.setattr(matching, "pair_log_odds", lambda *args: next(results))
    return matching.evaluate(evaluation(data=data, examples=len(right)))["matching"]


def test_the_balanced_accuracy_is_at_the_prior(monkeypatch):
    """A head trained with two negatives to a pair is neutral at -ln 2 = -0.69, not at 0."""
    section = section_of(monkeypatch, [0.1, -0.5, -0.6, -0.8], [-0.7, -2.0, -0.9, -0.6])
    assert section["balanced_accuracy"] == 6 / 8 and section["accuracy"] == 5 / 8


def test_accuracy_needs_the_sign_and_preference_the_order(monkeypatch):
    section = section_of(monkeypatch, [2.0, 1.0, -1.0, -3.0], [-1.0, 3.0, -2.0, -2.0])
    # right: + + - -; wrong: - + - -, 5 of 8; preferred: 2 > -1 and -1 > -2
    expected = {"pairs": 8, "balanced_accuracy": 5 / 8, "preferred": 2 / 4, "accuracy": 5 / 8, "chance": 0.5}
    assert section == expected


def test_a_constant_head_is_at_chance_and_prefers_none(monkeypatch):
    for value in (-1.0, 0.0, 1.0):
        section = section_of(monkeypatch, [value] * 4, [value] * 4)
        assert (section["accuracy"], section["preferred"]) == (0.5, 0)


def test_a_bias_changes_the_accuracy_alone(monkeypatch):
    right, wrong = [2.0, 1.0, 0.5], [-1.0, -2.0, 0.25]
    plain = section_of(monkeypatch, right, wrong)
    biased = section_of(monkeypatch, [x - 9 for x in right], [x - 9 for x in wrong])
    assert plain["preferred"] == biased["preferred"] == 1
    assert (plain["accuracy"], biased["accuracy"]) == (5 / 6, 0.5)


def test_nan_is_never_preferred(monkeypatch):
    section = section_of(monkeypatch, [float("nan"), 1.0], [0.5, 0.5])
    assert section["preferred"] == 0.5


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (("a", "b", "c"), ["b", "c", "a"]),
        (("a", "a", "b"), ["b", "b", "a"]),
        (("a", "b", "b", "a"), ["b", "a", "a", "b"]),
    ],
)
def test_the_wrong_caption_is_the_next_that_does_not_describe_the_image(captions, expected):
    asked = evaluation(data=captioned(*captions))
    examples = asked.examples("test", len(captions))
    assert [matching._wrong(asked, i, examples).caption for i in range(len(captions))] == expected


@pytest.mark.parametrize("captions", [("red star",), ("red star",) * 3])
def test_no_section_if_every_caption_fits(captions):
    assert matching.evaluate(evaluation(data=captioned(*captions), examples=len(captions))) is None


def test_no_section_without_a_fusion():
    assert matching.evaluate(evaluation(tiny_model(joined=False))) is None


@pytest.mark.parametrize("guide", ["leak_free", "paper"])
@torch.no_grad()
def test_log_odds_of_pairs_do_not_depend_on_the_chunk(guide):
    model = tiny_model(guide=guide)
    whole = evaluation(model, batch=10)
    examples = whole.examples("test", 10)
    captions = [*examples[1:], examples[0]]
    expected = matching.pair_log_odds(whole, examples, captions)
    assert expected.shape == (10,)
    for batch in (1, 3, 7):
        got = matching.pair_log_odds(evaluation(model, batch=batch), examples, captions)
        assert torch.allclose(got, expected, atol=1e-6)


@torch.no_grad()
def test_log_odds_of_a_pair_by_hand():
    asked = evaluation()
    model, examples = asked.model, asked.examples("test", 2)
    text = asked.data.tokenizer([examples[1].caption])
    words = model.encode_text(text)
    image = model.encode_image(model.trunk(examples[0].image[None]), words.pooled)
    logits = model.heads["match"](model.fusion(words, image).text.x[:, 0])
    odds = matching.pair_log_odds(asked, examples[:1], examples[1:])
    assert odds == pytest.approx(float((logits.softmax(1)[:, 1] / logits.softmax(1)[:, 0]).log()), abs=1e-5)


def test_lines():
    section = {"pairs": 20, "balanced_accuracy": 0.75, "preferred": 0.9, "accuracy": 0.5, "chance": 0.5}
    assert matching.format_report(report={"matching": section})["matching"] == [
        "Matching of 20 pairs, half of them right",
        "  %                                 found  chance",
        "  yes or no                          75.0    50.0",
        "  right caption before a wrong one   90.0    50.0",
    ]
    assert matching.format_report(report={}) is None
