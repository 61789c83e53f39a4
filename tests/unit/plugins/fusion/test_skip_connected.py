"""mPLUG's network: the order of its layers, its skip connection, what each layer may change.

Weights: test_weights.py; padding and gradients: test_contracts.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.types import Fused, Tokens
from plugins.fusion.skip_connected import SkipConnectedFusion

B, L, N, D = 2, 5, 7, 16


def fusion(**settings):
    torch.manual_seed(0)
    part = SkipConnectedFusion(**{"num_heads": 4, "dim": D, "image_dim": D, **settings})
    for parameter in part.parameters():
        parameter.data.normal_(std=0.3)
    return part.eval()


def words():
    torch.manual_seed(1)
    return Tokens(torch.randn(B, L, D), mask=torch.arange(L) < torch.tensor([[L], [3]]))


def picture(width=D):
    torch.manual_seed(2)
    mask = torch.arange(N) < torch.tensor([[N], [4]])
    return Tokens(torch.randn(B, N, width), mask=mask, patches=(1, N), source=torch.arange(N - 1).expand(B, -1))


@pytest.mark.parametrize(
    ("layers", "stride", "order"),
    [(6, 3, "CCCJCC"), (6, 6, "CCCCCC"), (7, 3, "CCCJCCJ"), (4, 1, "CJJJ"), (1, 1, "C")],
)
def test_order_of_layers(layers, stride, order):
    part = fusion(layers=layers, stride=stride)
    assert "".join("J" if part.connected(j) else "C" for j in range(layers)) == order
    crossing = "".join("J" if layer.cross is None else "C" for layer in part.layers)
    assert crossing == order, "J layers have no cross-attention, C layers have it"


@torch.no_grad()
def test_co_attention_leaves_the_picture_unchanged():
    image = picture()
    out = fusion(layers=3)(words(), image)
    assert torch.equal(out.image.x, image.x)
    assert torch.equal(out.image.mask, image.mask)
    assert out.image.patches == image.patches
    assert torch.equal(out.image.source, image.source)
    assert torch.equal(out.text.pooled, out.text.x[:, 0])


@torch.no_grad()
def test_six_layers_equal_the_formula():
    """C C C, then J over the unpadded [picture ; words] row by row with the skip connection, then C C."""
    part, text, image = fusion(), words(), picture()
    out = part(text, image)
    for row in range(B):
        patches_x, tokens = (x.x[row : row + 1, x.mask[row]] for x in (image, text))
        for j in (0, 1, 2):
            tokens = part.layers[j](tokens, None, patches_x)
        count = patches_x.shape[1]
        joint = part.layers[3](torch.cat([patches_x, tokens], 1), None)
        patches_x, tokens = patches_x + joint[:, :count], joint[:, count:]
        for j in (4, 5):
            tokens = part.layers[j](tokens, None, patches_x)
        assert torch.allclose(out.text.x[row, text.mask[row]], tokens[0], atol=1e-4)
        assert torch.allclose(out.image.x[row, image.mask[row]], patches_x[0], atol=1e-4)


@torch.no_grad()
def test_connected_attention_adds_to_the_picture():
    """With a J layer whose last norm returns a constant c, the picture becomes picture + c and the words c."""
    part, image = fusion(layers=2, stride=1), picture()
    part.layers[1].norm.weight.zero_()
    part.layers[1].norm.bias.fill_(0.25)
    out = part(words(), image)
    assert torch.allclose(out.image.x, image.x + 0.25)
    assert torch.allclose(out.text.x, torch.full((B, L, D), 0.25))


@torch.no_grad()
def test_connected_attention_shows_the_words_to_the_picture():
    part, text, image = fusion(layers=2, stride=1), words(), picture()
    other = Tokens(text.x + 1.0, mask=text.mask)
    other.x[:, :, 0] += 3.0
    assert not torch.allclose(part(text, image).image.x, part(other, image).image.x, atol=1e-3)


@torch.no_grad()
def test_hidden_picture_tokens_and_padding_change_nothing():
    part, text, image = fusion(), words(), picture()
    before = part(text, image)
    text.x[~text.mask], image.x[~image.mask] = 5.0, -5.0
    after = part(text, image)
    assert torch.allclose(before.text.x[text.mask], after.text.x[text.mask], atol=1e-5)
    assert torch.allclose(before.image.x[image.mask], after.image.x[image.mask], atol=1e-5)


@torch.no_grad()
def test_no_picture_tokens_leave_words_among_themselves():
    """A J layer without picture tokens is a layer of self-attention over the words."""
    part, text = fusion(layers=2, stride=1), words()
    nothing = Tokens(torch.zeros(B, 0, D))
    silent = part.layers[0]
    silent.cross = silent.cross_norm = None
    mask = text.mask[:, None, None]
    expected = part.layers[1](silent(text.x, mask), mask)
    assert torch.allclose(part(text, nothing).text.x, expected, atol=1e-5)


def test_a_picture_of_another_width_is_brought_to_the_words():
    part = fusion(image_dim=24)
    out = part(words(), picture(24))
    assert out.image.x.shape == (B, N, D)
    linear, norm, _ = part.image_projection
    assert (linear.in_features, linear.out_features, norm.eps) == (24, D, 1e-12)
    out.memory.x.square().sum().backward()
    assert linear.weight.grad.abs().sum() > 0
    assert isinstance(fusion().image_projection, nn.Identity)


class Traced(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x, mask, patches_x):
        return self.part(Tokens(x, mask=mask), Tokens(patches_x)).memory.x


@torch.no_grad()
def test_runs_on_meta_and_under_tracing():
    part, text, image = fusion(), words(), picture()
    traced = torch.jit.trace(Traced(part), (text.x, text.mask, image.x))
    swapped = (text.x.flip(0), text.mask.flip(0), image.x.flip(0))
    assert torch.allclose(traced(*swapped), Traced(part)(*swapped), atol=1e-5)
    out = part.to("meta")(text.to("meta"), image.to("meta"))
    assert isinstance(out, Fused)
    assert out.memory.x.shape == (B, N + L, D)
