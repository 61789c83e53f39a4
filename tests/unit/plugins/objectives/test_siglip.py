"""The pairwise sigmoid against a formula of its own, its head, and its place beside other objectives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import small
import torch

from core.objectives import Objectives, Step
from plugins.heads.scale_bias import ScaleBias
from plugins.objectives.siglip import PairwiseSigmoid, pairwise_sigmoid
from registry.part import Part, PartError

SOURCE = small.data()


def reference(logits, target):
    """By numpy: binary cross-entropy of every pair, summed over captions, averaged over pictures."""
    probability = 1 / (1 + np.exp(-np.asarray(logits)))
    match = np.eye(probability.shape[1])[np.asarray(target)]
    return -(match * np.log(probability) + (1 - match) * np.log(1 - probability)).sum(1).mean()


@pytest.mark.parametrize(("rows", "target"), [(8, range(8)), (3, [5, 6, 7])])
def test_loss_is_the_formula(rows, target):
    logits = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    loss = pairwise_sigmoid(logits, torch.tensor(list(target)))
    assert float(loss) == pytest.approx(reference(logits, list(target)), abs=1e-12)


def test_objective_is_t_times_cosines_plus_b():
    step = Step(small.copa(SOURCE), small.batch(SOURCE))
    logits = 10 * small.similarity(step).detach().double() - 10
    assert PairwiseSigmoid()(step).item() == pytest.approx(reference(logits, range(len(logits))), rel=1e-5)
    assert torch.equal(PairwiseSigmoid()(step), PairwiseSigmoid(gather=False)(step))


def test_head_learns_ln_t_and_b():
    head, x = ScaleBias(), torch.tensor([-1.0, 0.0, 0.5])
    assert {name: p.item() for name, p in head.named_parameters()} == pytest.approx(
        {"log_scale": math.log(10), "bias": -10}
    )
    assert torch.allclose(head(x), torch.tensor([-20.0, -10.0, -5.0]))
    assert torch.allclose(ScaleBias(scale=2.0, bias=1.0)(x), 2 * x + 1)
    head(x).sum().backward()
    assert float(head.bias.grad) == 3
    assert float(head.log_scale.grad) == pytest.approx(-5.0)  # t * sum of x


def test_far_off_logits_stay_finite():
    logits = torch.tensor([[-1e4, 1e4], [1e4, -1e4]], requires_grad=True)  # all wrong, by far
    loss = pairwise_sigmoid(logits, torch.arange(2))
    loss.backward()
    assert loss.item() == 2e4
    assert torch.equal(logits.grad, torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))


def test_first_loss_is_small_as_the_paper_means_it():
    """b = -10 starts near what most pairs are: one missed match a picture, not a batch of false ones."""
    random = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(256, 768, generator=random), dim=1) for _ in range(2))
    target, cosines = torch.arange(256), image @ text.T
    assert pairwise_sigmoid(ScaleBias()(cosines), target).item() == pytest.approx(10, rel=0.05)
    assert pairwise_sigmoid(ScaleBias(bias=0.0)(cosines), target).item() > 150


def test_beside_itc_and_every_objective_of_copa(monkeypatch):
    model = small.copa(SOURCE)
    names = (*small.LOSSES, "siglip")
    monkeypatch.setitem(small.LOSSES, "siglip", PairwiseSigmoid)
    objectives = small.objectives(model, *names)
    monkeypatch.undo()
    batch = small.batch(SOURCE)
    torch.manual_seed(0)
    total, losses = objectives(batch)
    torch.manual_seed(0)
    _, without = small.objectives(model)(batch)
    assert set(losses) == set(names)
    assert all(torch.equal(losses[name], without[name]) for name in without)
    assert total.item() == pytest.approx(sum(map(float, losses.values())), rel=1e-5)
    total.backward()
    for head in ("image", "text", "temperature", "sigmoid"):
        assert all(p.grad.abs().sum() > 0 for p in model.heads[head].parameters())


def test_missing_head_is_named():
    model = small.copa(SOURCE)
    del model.heads["sigmoid"]
    objective = Part(PairwiseSigmoid, name="siglip", kind="objective")()
    with pytest.raises(PartError, match=r"objectives\.siglip: .*needs model\.heads\.sigmoid"):
        Objectives(model, {"siglip": objective}, {"siglip": 1.0})
