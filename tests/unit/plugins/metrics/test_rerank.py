"""Ranks, re-ranking against a sort by hand, NaN, and the fit of the weight of ITM's log-odds."""

from __future__ import annotations

import pytest
import torch
from evaluations import evaluation as evaluation_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyData, tiny_model

from plugins.metrics.features import cosines, features
from plugins.metrics.rerank import MAX_WEIGHT, Candidates, find_candidates, ranks, reranks
from plugins.metrics.retrieval import encode


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


def candidates(logits: torch.Tensor, log_odds: torch.Tensor) -> Candidates:
    """All n texts are candidates of each of n images, (n, n) each; the other direction is the same, transposed."""
    n = len(logits)
    top = torch.arange(n).expand(2, n, n)
    return Candidates(logits, top, torch.stack([logits, logits.T]), torch.stack([log_odds, log_odds.T]))


def noisy(n: int, *scales: float, seed: int = 0) -> list[torch.Tensor]:
    """Scores (n, n) with a right answer that is better by 1, and normal noise, each times its scale."""
    random = torch.Generator().manual_seed(seed)
    return [scale * (torch.eye(n) + torch.randn(n, n, generator=random) / 2) for scale in scales]


@pytest.mark.parametrize("scale", [0.01, 0.3, 50.0])
def test_equally_good_scores_get_equal_weight_whatever_their_scale(scale):
    itc, itm = noisy(200, 1.0, scale)
    assert candidates(itc, itm).fit_weight() * scale == pytest.approx(1.0, rel=0.1)


def test_log_odds_without_information_get_no_weight():
    itc, _ = noisy(200, 1.0, 1.0)
    noise = torch.randn(200, 200, generator=torch.Generator().manual_seed(5))
    assert candidates(itc, noise).fit_weight() < 0.05
    assert candidates(itc, torch.zeros(200, 200)).fit_weight() == pytest.approx(0, abs=1e-3)
    assert candidates(itc, -itc).fit_weight() <= 1, "log-odds that are wrong never count in reverse"


def test_logits_without_information_leave_the_order_to_the_log_odds():
    _, itm = noisy(200, 1.0, 1.0)
    assert candidates(torch.zeros(200, 200), itm).fit_weight() == MAX_WEIGHT


def test_a_fitted_weight_beats_both_scores_alone():
    """Two independent scores: recall with the weight of one sample is better on another sample."""
    weight = candidates(*noisy(300, 1.0, 4.0, seed=1)).fit_weight()
    itc, itm = noisy(300, 1.0, 4.0, seed=2)

    def recall(weight: float) -> float:
        return sum(float((rank == 0).double().mean()) for rank in candidates(itc, itm).ranks(weight))

    assert recall(weight) > max(recall(0.0), recall(MAX_WEIGHT)) + 0.05


def test_without_a_right_candidate_the_weight_is_one():
    itc, _itm = noisy(4, 1.0, 1.0)
    top = (torch.arange(4).view(1, 4, 1).expand(2, 4, 1) + 1) % 4
    only = Candidates(itc, top, torch.zeros(2, 4, 1), torch.zeros(2, 4, 1))
    assert only.fit_weight() == 1.0


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_candidates_have_the_scores_of_their_pairs(batch):
    """Each pair by itself: its cosine over the temperature, and the head's log-odds under the guide of its text."""
    evaluation = evaluation_of(tiny_model(), TinyData(), batch=batch, rerank=3)
    model, (words, trunk, image) = evaluation.model, encode(evaluation, evaluation.examples("test", 6))
    similar = cosines(features(model, "image", image), features(model, "text", words))
    result = find_candidates(evaluation, similar, words, trunk)
    assert result.top.shape == result.logits.shape == result.log_odds.shape == (2, 6, 3)
    for way in range(2):
        for query in range(6):
            scores = similar[query] if way == 0 else similar[:, query]
            assert result.top[way, query].tolist() == scores.topk(3).indices.tolist()
            for place, other in enumerate(result.top[way, query].tolist()):
                i, j = (query, other) if way == 0 else (other, query)
                text = words.rows(torch.tensor([j]))
                picture = model.encode_image(trunk.rows(torch.tensor([i])), text.pooled)
                logits = model.heads["match"](model.fusion(text, picture).text.x[:, 0])[0]
                assert result.log_odds[way, query, place].item() == pytest.approx(
                    float(logits[1] - logits[0]), abs=1e-5
                )
                expected = float(model.heads["temperature"](similar)[i, j])
                assert result.logits[way, query, place].item() == pytest.approx(expected, abs=1e-5)
