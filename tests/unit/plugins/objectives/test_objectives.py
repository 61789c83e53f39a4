"""Losses of ITM, MLM, prefix LM, PTA and the momentum teacher against formulas of their own, on a small COPA.

Others: test_itc.py, test_siglip.py, test_coca.py and test_token_loss.py (captioning), test_classification.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F

from core.objectives import Step
from plugins.objectives.itc_momentum import MomentumContrast
from plugins.objectives.itm import PRIOR_LOG_ODDS, ImageTextMatching, sample_negatives
from plugins.objectives.mlm import MaskedLanguageModelling
from plugins.objectives.mlm_momentum import MomentumMaskedLanguageModelling
from plugins.objectives.prefix_lm import PrefixLanguageModelling
from plugins.objectives.pta import PatchTextAlignment, patch_labels

SOURCE = small.data()
V = SOURCE.tokenizer.vocabulary


def step(size=6):
    return Step(small.copa(SOURCE), small.batch(SOURCE, size))


def constant(head, value=0.0):
    """Make a head's output independent of its input."""
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, value)


def test_negatives_follow_the_softmax_of_the_similarities():
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 0.0, math.log(2), math.log(4), 9.0]]).expand(2, -1)  # two of five captions
    exclusions = torch.zeros(2, 5, dtype=torch.bool)
    exclusions[[0, 0, 1], [0, 4, 1]] = True  # the pairs, and a caption that equals the first
    columns = torch.stack([sample_negatives(similarity, exclusions) for _ in range(4000)])  # (4000, 2)
    share = torch.bincount(columns[:, 0], minlength=5) / 4000
    assert torch.allclose(share, torch.tensor([0, 1, 2, 4, 0]) / 7, atol=0.04)
    share = torch.bincount(columns[:, 1], minlength=5) / 4000  # the pair of the second row is column 1
    weights = torch.tensor([math.exp(9), 0, 2, 4, math.exp(9)])
    assert torch.allclose(share, weights / weights.sum(), atol=0.04)


def test_itm_with_a_constant_head():
    """One third of the rows are pairs: -1/3 log p - 2/3 log (1 - p)."""
    one, p = step(), 0.8
    constant(one.model.heads["match"])
    one.model.heads["match"].linear.bias.data[:] = torch.tensor([math.log(1 - p), math.log(p)])
    expected = -math.log(p) / 3 - 2 * math.log(1 - p) / 3
    for settings in ({}, {"fraction": 0.5}, {"negatives": "random"}):
        assert ImageTextMatching(**settings)(one).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("fraction", "pairs"), [(1.0, 6), (0.5, 3), (0.01, 1)])
def test_itm_fuses_pairs_then_a_wrong_image_and_a_wrong_caption_for_each(fraction, pairs, monkeypatch):
    one, calls, fuse = step(), [], Step.fuse
    monkeypatch.setattr(Step, "fuse", lambda self, rows, words: calls.append((rows, words)) or fuse(self, rows, words))
    ImageTextMatching(fraction=fraction)(one)
    ((images, words),) = calls
    captions = [[int((one.text.x == state).flatten(1).all(1).nonzero()[0]) for state in words.x]]
    index = list(range(pairs))
    assert images[:pairs].tolist() == captions[0][:pairs] == index
    assert captions[0][pairs : 2 * pairs] == index and images[2 * pairs :].tolist() == index
    assert all(image != text for image, text in zip(images[pairs:].tolist(), captions[0][pairs:], strict=True))


@pytest.mark.parametrize("objective", [MaskedLanguageModelling, PrefixLanguageModelling])
def test_losses_over_words_with_a_constant_head_are_ln_of_the_vocabulary(objective):
    one = step()
    constant(one.model.heads["words"])
    assert objective()(one).item() == pytest.approx(math.log(V), rel=1e-5)
    assert objective(fraction=0.5)(one).item() == pytest.approx(math.log(V), rel=1e-5)


@torch.no_grad()
def test_mlm_is_the_mean_over_masked_words():
    """All logits of the caption, then one by one those at masked positions."""
    one = step()
    masked, losses = one.batch.masked, []
    states = one.fuse(slice(None), one.model.encode_text(masked.text)).text.x
    logs = one.model.heads["words"](states).log_softmax(-1)  # (B, L, V)
    for row, (positions, targets, weights) in enumerate(
        zip(masked.positions, masked.targets, masked.weights, strict=True)
    ):
        for position, target, weight in zip(positions, targets, weights, strict=True):
            assert weight in (0, 1)
            if weight:
                losses.append(-logs[row, position, target].item())
    assert 0 < len(losses) <= masked.weights.numel()
    assert MaskedLanguageModelling()(one).item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert MaskedLanguageModelling().loss_denominator(one.batch) == len(losses)


@torch.no_grad()
def test_prefix_lm_is_the_mean_over_the_words_of_the_suffix():
    """Word by word: the last state after [CLS] w_1 ... w_(t-1) predicts w_t, with the prefix in the memory."""
    one = step(3)
    prefixed, losses = one.batch.prefixed, []
    memory = one.fuse(slice(None), one.model.encode_text(prefixed.prefix)).memory
    for row in range(3):
        ids = prefixed.suffix.ids[row][prefixed.suffix.mask[row]]
        for t in range(1, len(ids)):
            text = type(prefixed.suffix)(ids[None, :t], torch.ones(1, t, dtype=torch.bool))
            state = one.model.decoder(one.model.decoder.encode_text(text), memory.rows(slice(row, row + 1))).x[0, -1]
            losses.append(-one.model.heads["words"](state).log_softmax(-1)[ids[t]].item())
    assert PrefixLanguageModelling()(one).item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert PrefixLanguageModelling().loss_denominator(one.batch) == len(losses)


@torch.no_grad()
def test_pta_is_binary_cross_entropy_over_all_patches():
    one = step()
    regions, backbone = one.batch.regions, one.model.backbone
    labels = patch_labels(regions.boxes, backbone.grid).numpy()
    scores = one.model.score(backbone.trunk(regions.images), one.model.encode_text(regions.text), regions.blank)
    p = 1 / (1 + np.exp(-scores.double().numpy()))
    expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    assert PatchTextAlignment()(one).item() == pytest.approx(expected, rel=1e-5)
    assert PatchTextAlignment().loss_denominator(one.batch) == len(regions.images)

    last = backbone.pruners[0].detector[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, math.log(3))  # a_i = 3 / 4
    share = labels.mean()
    expected = -share * math.log(0.75) - (1 - share) * math.log(0.25)
    assert PatchTextAlignment()(one).item() == pytest.approx(expected, rel=1e-5)


def test_pta_without_boxes_is_an_error():
    one = step()
    one.batch = type(one.batch)(one.batch.images, one.batch.text)
    assert PatchTextAlignment().loss_denominator(one.batch) == 0
    with pytest.raises(ValueError, match="pta: the data has no boxes; give it some, or set objectives"):
        PatchTextAlignment()(one)


def momentum(one, **settings):
    torch.manual_seed(1)
    objective = MomentumContrast(**{"queue": 4, "momentum": 0.9, "alpha": 0.4, "ramp": 0, **settings})
    objective.on_model_built(one.model)
    return objective.eval()


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("alpha", "ramp", "steps", "weight"), [(0.4, 0, 0, 0.4), (0.4, 10, 5, 0.2), (0.4, 10, 99, 0.4)]
)
def test_momentum_contrast_by_numpy(alpha, ramp, steps, weight):
    """With other weights in the teacher, so that its features differ from the model's."""
    one = step()
    objective = momentum(one, alpha=alpha, ramp=ramp)
    objective.steps.fill_(steps)
    for name in ("image", "text"):
        objective.teacher.heads[name].linear.weight.data.add_(0.1)
    teacher = Step(objective.teacher, one.batch)
    image, text, image_m, text_m = (
        s.model.heads[name](getattr(s, name).pooled).detach().double().numpy()
        for s in (one, teacher)
        for name in ("image", "text")
    )
    total = 0.0
    for query, query_m, keys_m, queue in (
        (image, image_m, text_m, objective.queue_text),
        (text, text_m, image_m, objective.queue_image),
    ):
        keys = np.concatenate([keys_m, queue.double().numpy()])  # (B + Q, E)
        target = weight * softmax(query_m @ keys.T / 0.07) + (1 - weight) * np.eye(len(query), len(keys))
        total -= (target * np.log(softmax(query @ keys.T / 0.07))).sum(1).mean() / 2
    assert objective(one).item() == pytest.approx(total, rel=1e-4)


def test_the_queue_replaces_its_oldest_entries():
    objective = momentum(step(), queue=5)
    before = objective.queue_image.clone()
    first, second = F.normalize(torch.randn(3, 16), dim=1), F.normalize(torch.randn(4, 16), dim=1)
    objective._enqueue(first, first)
    assert torch.equal(objective.queue_image, torch.cat([first, before[3:]]))
    objective._enqueue(second, second)
    assert torch.equal(objective.queue_text, torch.cat([second[2:], first[2:], second[:2]]))
    objective._enqueue(torch.cat([first, second]), torch.cat([first, second]))  # more than its size
    assert int(objective.filled) == 14
    assert sorted(objective.queue_image[:, 0].tolist()) == sorted([*first[2:, 0].tolist(), *second[:, 0].tolist()])


def test_only_training_fills_the_queue():
    one = step()
    objective = momentum(one, queue=8)
    objective(one)
    assert int(objective.filled) == 0
    objective.train()(one)
    assert int(objective.filled) == 6


def test_the_teacher_is_a_moving_average_of_the_model():
    one = step()
    objective = momentum(one)
    name, weight = "heads.image.linear.weight", one.model.heads["image"].linear.weight
    before = dict(objective.teacher.named_parameters())[name].clone()
    weight.data.add_(1.0)
    objective.after_step(one.model)
    after = dict(objective.teacher.named_parameters())[name]
    assert torch.allclose(after, 0.9 * before + 0.1 * weight)
    assert not after.requires_grad
    assert int(objective.steps) == 1
    assert objective.teacher.fusion is None and objective.teacher.decoder is None


def test_a_head_that_knows_nothing_has_the_prior_log_odds():
    """The constant log-odds with the least loss of ITM."""
    one = step()
    constant(one.model.heads["match"])
    bias = one.model.heads["match"].linear.bias
    losses = []
    for log_odds in (PRIOR_LOG_ODDS - 0.1, PRIOR_LOG_ODDS, PRIOR_LOG_ODDS + 0.1):
        bias.data[:] = torch.tensor([0.0, log_odds])
        losses.append(ImageTextMatching()(one).item())
    assert losses[1] == min(losses) and losses[1] == pytest.approx(0.6365, abs=1e-4)


def with_teacher(alpha=0.4, ramp=0, seed=1):
    """The objective, and a step whose model differs from the teacher."""
    torch.manual_seed(seed)
    one, objective = step(), MomentumMaskedLanguageModelling(alpha=alpha, ramp=ramp)
    objective.on_model_built(one.model)
    with torch.no_grad():
        for parameter in objective.teacher.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return one, objective


@torch.no_grad()
def test_mlm_momentum_mixes_cross_entropy_with_the_teachers_prediction():
    one, objective = with_teacher()
    masked, losses = one.batch.masked, []
    words = [
        model.heads["words"](
            model.fusion(words, model.encode_image(model.trunk(one.batch.images), words.pooled)).text.x
        )
        for model in (one.model, objective.teacher)
        for words in (model.encode_text(masked.text),)
    ]
    logs, soft = words[0].log_softmax(-1), words[1].softmax(-1)  # (B, L, V) each
    for row, column in masked.weights.nonzero().tolist():
        place, target = masked.positions[row, column], masked.targets[row, column]
        cross_entropy, distillation = -logs[row, place, target], -(soft[row, place] * logs[row, place]).sum()
        losses.append(float(0.6 * cross_entropy + 0.4 * distillation))
    assert objective(one).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_mlm_momentum_without_alpha_is_mlm_with_the_same_gradients():
    one, objective = with_teacher(alpha=0.0)
    results = []
    for part in (objective, MaskedLanguageModelling()):
        one.model.zero_grad()
        loss = part(Step(one.model, one.batch))
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_the_teacher_of_mlm_follows_and_alpha_grows():
    one, objective = with_teacher(alpha=0.4, ramp=4)
    plain = MaskedLanguageModelling()(one).item()
    assert objective(one).item() == pytest.approx(plain, rel=1e-5), "alpha starts at 0"
    name, before = next((n, p.clone()) for n, p in objective.teacher.named_parameters())
    weight = dict(one.model.named_parameters())[name]
    objective.after_step(one.model)
    after = dict(objective.teacher.named_parameters())[name]
    assert torch.allclose(after, 0.995 * before + 0.005 * weight)
    assert objective(one).item() != pytest.approx(plain, rel=1e-6)
    assert not any(parameter.requires_grad for parameter in objective.teacher.parameters())
    objective(one).backward()
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
