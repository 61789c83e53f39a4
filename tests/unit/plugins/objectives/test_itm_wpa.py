"""Word-patch alignment: the transport plan against exhaustive search, empty places, signs and gradients."""

from __future__ import annotations

from itertools import permutations

import pytest
import small
import torch

from core.objectives import Step
from core.types import Fused, Tokens
from plugins.objectives.itm import IGNORED, ImageTextMatching
from plugins.objectives.itm_wpa import MatchingWithAlignment, transport_distance, transport_plan

SOURCE = small.data()


def fused(words: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor | None = None) -> Fused:
    """[CLS] and words (b, 1 + L, D), [CLS] and patches (b, 1 + P, D)."""
    return Fused(Tokens(words, words[:, 0], mask), Tokens(patches, patches=(1, patches.shape[1])))


def loss(objective: ImageTextMatching, batch, model) -> torch.Tensor:
    torch.manual_seed(0)
    return objective(Step(model, batch))


@pytest.mark.parametrize("seed", range(5))
def test_the_plan_costs_what_the_best_of_all_assignments_costs(seed):
    cost = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(seed))
    full = torch.ones(1, 5, dtype=torch.bool)
    plan = transport_plan(cost, full, full)
    best = min(sum(float(cost[0, i, j]) for i, j in enumerate(order)) for order in permutations(range(5))) / 5
    assert float((plan * cost).sum()) == pytest.approx(best, abs=5e-3)


def test_every_word_and_every_patch_has_the_same_mass_and_empty_places_have_none():
    torch.manual_seed(0)
    cost, words, patches = torch.rand(2, 4, 6), torch.ones(2, 4).bool(), torch.ones(2, 6).bool()
    words[1, 3], patches[1, 4:] = False, False
    plan = transport_plan(cost, words, patches)
    assert plan[0].sum(1).tolist() == pytest.approx([1 / 4] * 4, rel=0.02)
    assert plan[1].sum(1).tolist() == pytest.approx([1 / 3] * 3 + [0], rel=0.02)
    assert plan[1].sum(0).tolist() == pytest.approx([1 / 4] * 4 + [0, 0], rel=0.02)
    alone = transport_plan(cost[1:, :3, :4], words[1:, :3], patches[1:, :4])
    torch.testing.assert_close(plan[1:, :3, :4], alone)


def test_a_text_without_words_has_no_distance():
    plan = transport_plan(torch.rand(1, 2, 3), torch.zeros(1, 2).bool(), torch.ones(1, 3).bool())
    assert plan.tolist() == torch.zeros(1, 2, 3).tolist()


def test_the_distance_is_that_of_the_cosines_without_cls():
    eye = torch.eye(4)[None]  # [CLS] and three words, or three patches
    assert float(transport_distance(fused(eye, eye * 7))) == pytest.approx(0, abs=0.01)
    assert float(transport_distance(fused(eye, -eye))) == pytest.approx(1, abs=0.01)  # all pairs but one at 1
    other = torch.cat([eye[:, 1:2], eye[:, 1:]], 1)  # another [CLS]
    torch.testing.assert_close(transport_distance(fused(other, eye)), transport_distance(fused(eye, eye)))


def test_padding_changes_no_distance():
    torch.manual_seed(0)
    words, patches = torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    longer = torch.cat([words, torch.randn(1, 2, 8)], 1)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(
        transport_distance(fused(longer, patches, mask)), transport_distance(fused(words, patches))
    )


def test_without_weight_the_loss_is_that_of_itm():
    model, batch = small.copa(SOURCE), small.batch(SOURCE)
    plain = loss(ImageTextMatching(negatives="random"), batch, model)
    assert torch.equal(loss(MatchingWithAlignment(alignment=0), batch, model), plain)


def test_the_alignment_is_the_matches_mean_distance_minus_that_of_the_others(monkeypatch):
    model, batch = small.copa(SOURCE), small.batch(SOURCE)
    pairs = len(batch.images)
    distance = torch.arange(3.0 * pairs)
    monkeypatch.setattr("plugins.objectives.itm_wpa.transport_distance", lambda pair: distance)
    difference = loss(MatchingWithAlignment(alignment=2), batch, model) - loss(
        ImageTextMatching(negatives="random"), batch, model
    )
    expected = 2 * (distance[:pairs].mean() - distance[pairs:].mean())
    assert difference.item() == pytest.approx(float(expected), rel=1e-4)


def test_a_missing_negative_is_left_out_of_the_distances(monkeypatch):
    model, batch = small.copa(SOURCE), small.batch(SOURCE)
    objective = MatchingWithAlignment(alignment=1)
    pairs = len(batch.images)
    images, texts, labels = objective.sample_pairs(Step(model, batch))
    labels[-1] = IGNORED
    monkeypatch.setattr(objective, "sample_pairs", lambda step: (images, texts, labels))
    whole = torch.zeros(3 * pairs)
    whole[-1] = 1e6
    monkeypatch.setattr("plugins.objectives.itm_wpa.transport_distance", lambda pair: whole)
    assert objective(Step(model, batch)).item() < 10


def test_a_step_along_the_gradient_moves_words_to_their_patches():
    torch.manual_seed(0)
    words, patches = torch.randn(3, 5, 8, requires_grad=True), torch.randn(3, 7, 8)
    before = transport_distance(fused(words, patches)).sum()
    (gradient,) = torch.autograd.grad(before, words)
    assert gradient[:, 0].abs().sum() == 0  # [CLS]
    after = transport_distance(fused(words - 0.1 * gradient, patches)).sum()
    assert after < before
