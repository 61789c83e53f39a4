"""Image-text contrast: both reductions and smoothing against formulas of their own, and its first loss."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import small
import torch

from core.objectives import Objectives, Step
from core.training.gradients import BackwardPass
from plugins.objectives.itc import ImageTextContrast, contrastive_loss
from plugins.objectives.itc_momentum import MomentumContrast

OWN = torch.arange(8)


def logits(rows=8, columns=8):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


def cross_entropy(scores, target_index, smoothing=0.0):
    """By numpy: -sum of target * log softmax, averaged over rows."""
    scores = np.asarray(scores)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(scores.shape[1])[np.asarray(target_index)] + smoothing / scores.shape[1]
    return -(target * logs).sum(1).mean()


@pytest.fixture(scope="module")
def step():
    source = small.data()
    return Step(small.copa(source), small.batch(source))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_contrast_is_the_formula(smoothing):
    scores = logits()
    expected = cross_entropy(scores, OWN, smoothing) + cross_entropy(scores.T, OWN, smoothing)
    assert float(contrastive_loss(scores, scores, OWN, smoothing)) == pytest.approx(expected, abs=1e-12)


def test_contrast_of_own_pairs_with_all():
    scores, target_index = logits(), torch.tensor([5, 6, 7])
    expected = cross_entropy(scores[5:], target_index, 0.2) + cross_entropy(scores[:, 5:].T, target_index, 0.2)
    assert float(contrastive_loss(scores[5:], scores[:, 5:], target_index, 0.2)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_objective_is_cosines_over_the_temperature(step, smoothing):
    scores = small.similarity(step).detach().double().numpy() / 0.07
    target_index = range(len(scores))
    expected = (cross_entropy(scores, target_index, smoothing) + cross_entropy(scores.T, target_index, smoothing)) / 2
    assert ImageTextContrast(smoothing=smoothing)(step).item() == pytest.approx(expected, rel=1e-5)


def test_sum_is_twice_the_mean(step):
    mean, total = (ImageTextContrast(reduction=reduction, smoothing=0.1)(step) for reduction in ("mean", "sum"))
    assert torch.equal(total, 2 * mean)


def test_gathering_is_nothing_without_ranks(step):
    assert torch.equal(ImageTextContrast(gather=True)(step), ImageTextContrast(gather=False)(step))


def test_defaults_are_the_two_cross_entropies_to_the_bit(step):
    """What this objective was before it had settings: gradients included."""
    parameters = [p for p in step.model.parameters() if p.requires_grad]

    def gradients(loss):
        return torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)

    scores = step.model.heads["temperature"](small.similarity(step).float())
    target_index = torch.arange(len(scores))
    plain = torch.nn.functional.cross_entropy
    before = (plain(scores, target_index) + plain(scores.T, target_index)) / 2
    now = ImageTextContrast()(step)
    assert torch.equal(now, before)
    for one, other in zip(gradients(now), gradients(before), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("size", [256, 1024])
def test_first_loss_is_ln_of_the_batch(size):
    """For random directions of CoCa-base's width at temperature 0.07."""
    random = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(size, 768, generator=random), dim=1) for _ in range(2))
    scores = image @ text.T / 0.07
    loss = float(contrastive_loss(scores, scores, torch.arange(size))) / 2
    assert loss == pytest.approx(math.log(size), rel=0.05)


@pytest.mark.parametrize("objective", [ImageTextContrast(), MomentumContrast(queue=8)], ids=["itc", "itc_momentum"])
def test_cosines_are_multiplied_in_full_precision(objective, monkeypatch):
    source = small.data()
    model = small.copa(source)
    objective.on_model_built(model)
    dtypes = []
    temperature = type(model.heads["temperature"])
    forward = temperature.forward
    monkeypatch.setattr(temperature, "forward", lambda head, x: dtypes.append(x.dtype) or forward(head, x))
    with torch.autocast("cpu", torch.bfloat16):
        objective(Step(model, small.batch(source)))
    assert set(dtypes) == {torch.float32}


def test_excluded_pairs_are_no_negatives(step):
    """Compare with numpy, the excluded entries left out of the sums; without truths nothing changes."""
    size = len(step.batch.images)
    table = torch.eye(size, dtype=torch.uint8) * 2
    batch = dataclasses.replace(step.batch, truths=torch.stack([table, table.T], 1))
    objective = ImageTextContrast(exclude_true=True)
    plain = ImageTextContrast()(step)
    assert torch.equal(objective(Step(step.model, batch)), plain)
    table[0, 1] = table[3, 2] = 1
    batch = dataclasses.replace(step.batch, truths=torch.stack([table, table.T], 1))
    scores = small.similarity(step).detach().double().numpy() / 0.07
    scores[0, 1] = scores[3, 2] = -np.inf
    scores = np.where(np.isinf(scores), -1e9, scores)
    expected = (cross_entropy(scores, range(size)) + cross_entropy(scores.T, range(size))) / 2
    assert objective(Step(step.model, batch)).item() == pytest.approx(expected, rel=1e-5)
    assert expected < plain.item()


def test_excluding_with_gradcache_is_excluding_at_once():
    source = small.data()
    table = torch.eye(6, dtype=torch.uint8) * 2
    table[0, 5] = table[4, 1] = 1
    batch = dataclasses.replace(small.batch(source, 6), truths=torch.stack([table, table.T], 1))
    results = []
    for chunks in (1, 3):
        objectives = Objectives(small.copa(source), {"itc": ImageTextContrast(exclude_true=True)}, {"itc": 1.0})
        losses = BackwardPass(objectives, torch.device("cpu"), "fp32", chunks)(batch)
        gradients = {n: p.grad for n, p in objectives.named_parameters() if p.grad is not None}
        results.append((losses["itc"], gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_smoothing_over_excluded_rows_is_refused():
    with pytest.raises(ValueError, match=r"smoothing 0.1 .* expected 0"):
        ImageTextContrast(smoothing=0.1, exclude_true=True)
