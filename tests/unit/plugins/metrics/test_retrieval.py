"""The ceiling, chunks, the split that the weight of re-ranking is fitted on, and the printed table."""

from __future__ import annotations

import pytest
import torch
from evaluations import evaluation as evaluation_of
from tiny import TinyData, tiny_model

from core.types import Tokens
from plugins.metrics import retrieval
from plugins.metrics.rerank import Candidates
from plugins.metrics.retrieval import ceiling, encode, truths


def test_ceiling_of_known_truths():
    assert ceiling(torch.eye(4, dtype=torch.bool)) == 1
    assert ceiling(torch.ones(4, 4, dtype=torch.bool)) == 0.25
    assert ceiling(torch.zeros(4, 4, dtype=torch.bool)) == 1  # the counterpart always fits
    one_more = torch.tensor([[True, True], [False, True]])  # text 1 fits both images
    assert ceiling(one_more) == pytest.approx((1 / 2 + 1 + 1 + 1 / 2) / 4)


def test_truths_are_images_by_texts():
    class Subset(TinyData):
        """A caption is true of the images whose caption has all its words."""

        def describes(self, caption, picture):
            return set(caption.caption.split()) <= set(picture.caption.split())

    asked = evaluation_of(tiny_model(), Subset())
    examples = asked.examples("test", 10)
    assert examples[9].caption == examples[0].caption  # nine captions in turn
    table = truths(asked, examples)
    assert table.dtype == torch.bool
    expected = torch.eye(10, dtype=torch.bool)
    expected[0, 9] = expected[9, 0] = True
    assert torch.equal(table, expected)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_chunks_do_not_change_what_is_encoded(batch):
    model = tiny_model()
    whole, parts = (
        encode(asked, asked.examples("test", 7))
        for asked in (evaluation_of(model, TinyData(), batch=7), evaluation_of(model, TinyData(), batch=batch))
    )
    for one, other in zip(whole, parts, strict=True):
        assert isinstance(other, Tokens)
        assert one.patches == other.patches
        for name in ("x", "pooled", "mask", "source", "scores"):
            first, second = getattr(one, name), getattr(other, name)
            assert (first is None) == (second is None), name
            assert first is None or torch.allclose(first.float(), second.float(), atol=1e-6), name


RECALLS = {f"{way}_r{cut}": cut / 20 for way in ("i2t", "t2i") for cut in (1, 5, 10)}


def test_lines_without_and_with_reranking():
    section = {"candidates": 50, "ceiling": 0.96, "reranked": None, **RECALLS}
    assert retrieval.format_report(report={"retrieval": section})["retrieval"] == [
        "Retrieval among 50 (%). A caption may fit several images: R@1 can reach 96.0 at most",
        "                              by ITC",
        "                   R@1    R@5   R@10",
        "  image to text    5.0   25.0   50.0",
        "  text to image    5.0   25.0   50.0",
        "  chance           2.0   10.0   20.0",
    ]
    lines = retrieval.format_report(report={"retrieval": {**section, "reranked": RECALLS}})["retrieval"]
    assert lines[1].split("  ")[-1].strip() == "re-ranked by ITM"
    assert lines[2].split() == ["R@1", "R@5", "R@10"] * 2
    assert len({len(line) for line in lines[1:]}) == 1  # the headings end with their columns


def test_chance_is_at_most_one():
    section = {"candidates": 4, "ceiling": 1.0, "reranked": None, **RECALLS}
    lines = retrieval.format_report(report={"retrieval": section})["retrieval"]
    assert lines[-1].split() == ["chance", "25.0", "100.0", "100.0"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("split", "splits", "fit_splits"),
    [
        ("test", ("validation", "test"), ["validation"]),
        ("validation", ("validation", "test"), ["validation"]),
        ("test", ("test",), []),
    ],
)
def test_the_weight_is_fitted_on_the_validation_split(split, splits, fit_splits, monkeypatch):
    """The test split's own pairs never reach the fit; without a validation split the weight is 1."""

    class Splits(TinyData):
        def splits(self):
            return splits

        def held_out(self, name, count):
            examples = super().held_out("test", count + 3)
            return examples[3:] if name == "test" else examples[:-3]

    cosines_of = {}
    monkeypatch.setattr(Candidates, "fit_weight", lambda self: cosines_of.update({"fit": self.similar}) or 0.25)
    evaluation = evaluation_of(tiny_model(), Splits(), split=split, candidates=6, rerank=3)
    section = retrieval.evaluate(evaluation=evaluation)["retrieval"]
    assert section["rerank_weight"] == (0.25 if fit_splits else 1.0)
    if fit_splits:
        words, _, image = encode(evaluation, evaluation.examples(fit_splits[0], 6))
        features = (evaluation.model.heads[name](of.pooled) for name, of in (("image", image), ("text", words)))
        assert torch.allclose(cosines_of["fit"], next(features) @ next(features).T, atol=1e-6)
