"""Pruners on small examples with known results. Properties: properties/test_pruner_properties.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from core.types import BlockCues, Tokens
from plugins.pruners.evit import AttentivePruner
from plugins.pruners.random import RandomPruner
from plugins.pruners.selection import fuse_dropped, kept_count, top_patches
from plugins.pruners.tpd import TextAwarePatchDetector

D, G = 4, 3
STATES = torch.tensor([[[9.0] * D, [1.0] * D, [2.0] * D, [4.0] * D, [8.0] * D]])  # (1, 5, D): [CLS], then 4 patches
TOKENS = Tokens(STATES, patches=(1, 5))


def attention(*heads):
    """Keys and weights (1, heads, 5, 5), where [CLS] attends to the patches by ``heads`` and others to nothing."""
    weights = torch.zeros(1, len(heads), 5, 5)
    weights[0, :, 0, 1:] = torch.tensor(heads)
    return BlockCues(lambda: (torch.zeros(1, len(heads), 5, D), weights))


def detector(fuse="sum", keep_rate=0.5):
    torch.manual_seed(0)
    return TextAwarePatchDetector(keep_rate=keep_rate, fuse=fuse, dim=D, guide_dim=G)


@pytest.mark.parametrize(
    ("patches", "keep_rate", "count"),
    [(196, 0.5, 98), (196, 0.7, 138), (25, 0.28, 7), (100, 0.07, 7), (3, 0.5, 2), (4, 0.01, 1), (4, 1.0, 4)],
)
def test_number_of_patches_kept(patches, keep_rate, count):
    assert kept_count(patches, keep_rate) == count


def test_the_highest_scores_are_kept_in_image_order():
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.8], [4.0, 1.0, 2.0, 3.0]])
    assert top_patches(scores, 0.5).tolist() == [[1, 3], [0, 3]]
    assert top_patches(scores, 0.6).tolist() == [[1, 2, 3], [0, 2, 3]]


def test_selection_has_no_gradient_but_the_fused_token_has():
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.8]], requires_grad=True)
    kept = top_patches(scores, 0.5)
    assert not kept.requires_grad
    fuse_dropped(TOKENS.patch_states, scores, kept, normalise=False).sum().backward()
    assert scores.grad.tolist() == [[D * 1.0, 0, D * 4.0, 0]]  # d/da_i of sum a_i v_i, dropped patches only


@pytest.mark.parametrize(("normalise", "value"), [(False, 0.5 * 1 + 0.25 * 4), (True, (0.5 * 1 + 0.25 * 4) / 0.75)])
def test_fused_token_by_hand(normalise, value):
    weights = torch.tensor([[0.5, 0.1, 0.25, 0.9]])
    fused = fuse_dropped(TOKENS.patch_states, weights, torch.tensor([[1, 3]]), normalise)
    assert torch.allclose(fused, torch.full((1, 1, D), value))


def test_a_mean_with_weights_of_zero_is_finite():
    fused = fuse_dropped(TOKENS.patch_states, torch.zeros(1, 4), torch.tensor([[0]]), True)
    assert torch.equal(fused, torch.zeros(1, 1, D))


def test_evit_averages_the_attention_of_cls_over_the_heads():
    cues = attention([0.4, 0.1, 0.2, 0.3], [0.0, 0.5, 0.2, 0.3])
    scores = torch.tensor([[0.2, 0.3, 0.2, 0.3]])
    assert torch.allclose(AttentivePruner().score(TOKENS, None, cues), scores)
    out = AttentivePruner(keep_rate=0.5)(TOKENS, None, cues)
    assert out.source.tolist() == [[1, 3, -1]]
    assert torch.allclose(out.x[0, :, 0], torch.tensor([9.0, 2.0, 8.0, 0.2 * 1 + 0.2 * 4]))  # not normalised
    assert torch.allclose(out.scores, scores)
    lost = AttentivePruner(keep_rate=0.5, fuse=False)(TOKENS, None, cues)
    assert torch.equal(lost.x[0, :, 0], torch.tensor([9.0, 2.0, 8.0]))


def test_evits_fused_token_is_a_patch_of_the_next_pruning():
    out = AttentivePruner(keep_rate=0.5)(TOKENS, None, attention([0.1, 0.4, 0.2, 0.3]))
    assert out.patches == (1, 4)
    weights = torch.zeros(1, 1, 4, 4)
    weights[0, 0, 0, 1:] = torch.tensor([0.1, 0.3, 0.6])  # most for the fused token
    again = AttentivePruner(keep_rate=0.5)(out, None, BlockCues(lambda: (out.x[:, None], weights)))
    assert again.source.tolist() == [[3, -1, -1]]
    assert torch.allclose(again.x[0, 3], 0.1 * out.x[0, 1])


def test_evit_without_cls_is_an_error():
    with pytest.raises(ValueError, match="evit needs a backbone with a \\[CLS\\] token before its patches"):
        AttentivePruner()(Tokens(STATES, patches=(0, 5)), None, attention([0.25] * 4))


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def test_tpd_is_an_mlp_of_patch_and_text():
    """By numpy: three linear maps with GELU over [LayerNorm(v_i) ; LayerNorm(t)]."""
    pruner, x, guide = detector(), torch.randn(2, 5, D), torch.randn(2, G)
    found = pruner.score(Tokens(x, patches=(1, 5)), guide, BlockCues())
    maps = [(part.weight.detach().numpy().T, part.bias.detach().numpy()) for part in pruner.detector[::2]]
    assert [weight.shape for weight, _ in maps] == [(D + G, D), (D, D // 2), (D // 2, 1)]
    for row in range(2):
        for patch in range(4):
            state = np.concatenate([layer_norm(x[row, 1 + patch].numpy()), layer_norm(guide[row].numpy())])
            for i, (weight, bias) in enumerate(maps):
                state = (gelu(state) if i else state) @ weight + bias
            assert found[row, patch].item() == pytest.approx(state.item(), abs=1e-5)


@pytest.mark.parametrize("fuse", ["sum", "mean", "none"])
def test_tpd_with_equal_scores(fuse):
    """A detector whose last map is 0 x + ln 3 gives every patch a_i = 3 / 4."""
    pruner = detector(fuse)
    torch.nn.init.zeros_(pruner.detector[-1].weight)
    torch.nn.init.constant_(pruner.detector[-1].bias, math.log(3))
    out = pruner(TOKENS, torch.randn(1, G), BlockCues())
    assert torch.allclose(out.scores.sigmoid(), torch.full((1, 4), 0.75))
    states = [1.0, 2.0, 4.0, 8.0]
    kept = [i for i in out.source[0].tolist() if i >= 0]  # which two of equal scores is torch's choice
    dropped = sum(states) - sum(states[i] for i in kept)
    fused = {"sum": [0.75 * dropped], "mean": [dropped / 2], "none": []}[fuse]
    assert len(kept) == 2
    assert out.x[0, :, 0].tolist() == pytest.approx([9.0, *(states[i] for i in kept), *fused])


def test_tpds_choice_depends_on_the_text():
    """A detector that computes |v_0 + t_0| keeps the patch whose first number has the sign of the text's."""
    pruner = detector(keep_rate=0.5)
    for parameter in pruner.detector.parameters():
        torch.nn.init.zeros_(parameter)
    for row, sign in enumerate((1.0, -1.0)):
        pruner.detector[0].weight.data[row, [0, D]] = sign  # v_0 and t_0
    pruner.detector[2].weight.data[0, :2] = 1.0
    pruner.detector[4].weight.data[0, 0] = 1.0
    patches = torch.tensor([[0.0, 0, 0, 0], [1.0, -1, 0, 0], [-1.0, 1, 0, 0]]).expand(2, -1, -1)  # [CLS], two patches
    guide = torch.tensor([[1.0, -1, 0], [-1.0, 1, 0]])
    assert pruner(Tokens(patches, patches=(1, 3)), guide, BlockCues()).source.tolist() == [[0, -1], [1, -1]]


def test_random_keeps_each_patch_equally_often():
    torch.manual_seed(0)
    pruner, tokens = RandomPruner(keep_rate=0.5), Tokens(torch.randn(4000, 5, 1), patches=(1, 5))
    out = pruner(tokens, None, BlockCues())
    assert not list(pruner.parameters())
    assert out.source.shape == (4000, 2) and (out.source[:, 0] < out.source[:, 1]).all()
    share = torch.bincount(out.source.flatten(), minlength=4) / 4000
    assert torch.allclose(share, torch.full((4,), 0.5), atol=0.04)  # five standard deviations


@pytest.mark.parametrize(
    "build",
    [AttentivePruner, RandomPruner, lambda keep_rate: detector(keep_rate=keep_rate)],
    ids=["evit", "random", "tpd"],
)
def test_a_keep_rate_of_zero_is_an_error(build):
    with pytest.raises(ValueError, match="keep_rate is 0; it must be above 0, so that at least one patch stays"):
        build(keep_rate=0.0)
