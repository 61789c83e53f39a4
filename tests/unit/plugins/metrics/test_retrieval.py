"""Ranks after re-ranking against a sort by hand, NaN, the ceiling, and the printed table."""

from __future__ import annotations

import pytest
import torch
from evaluations import evaluation as evaluation_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyData, tiny_model

from core.types import Tokens
from plugins.metrics import retrieval
from plugins.metrics.retrieval import ceiling, encode, ranks, reranks, truths


def test_ranks_of_one_and_of_a_known_table():
    assert ranks(torch.tensor([[0.3]])).tolist() == [0]
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.6], [0.3, 0.3, 0.3]])
    assert ranks(scores).tolist() == [0, 2, 2]  # ties count against the right one
    assert ranks(scores.T).tolist() == [0, 0, 1]


def test_nan_counts_against_the_model():
    nan = float("nan")
    assert ranks(torch.tensor([[nan, 0.1], [nan, 0.5]])).tolist() == [1, 1]
    assert ranks(torch.full((3, 3), nan)).tolist() == [2, 2, 2]


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_reranking_sorts_the_candidates_alone(seed, n, k):
    """Without ties: the candidates in their new order, then the others in their old one."""
    random = torch.Generator().manual_seed(seed)
    k = min(k, n)
    scores = torch.stack([torch.randperm(n, generator=random) for _ in range(n)]).double()
    new = torch.stack([torch.randperm(k, generator=random) for _ in range(n)]).double()
    top = scores.topk(k, dim=1).indices
    expected = []
    for i in range(n):
        order = sorted(range(n), key=lambda j: -scores[i, j])
        best = [j for _, j in sorted(zip((-new[i]).tolist(), top[i].tolist(), strict=True))]
        expected.append([*best, *order[k:]].index(i))
    assert reranks(scores, top, new).tolist() == expected


def test_equal_or_nan_new_scores_put_the_right_one_last_of_the_candidates():
    scores = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    top = scores.topk(2, dim=1).indices
    for value in (0.0, float("nan")):
        assert reranks(scores, top, torch.full((3, 2), value)).tolist() == [1, 1, 2]


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
