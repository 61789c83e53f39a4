"""MACs against closed forms and against torch's own counter."""

import pytest
import timm
import torch
from tiny import DIM, TinyData, tiny_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core.flops import Pair, count


def closed_form(side, patch, dim, depth, ratio=4):
    """A ViT with one [CLS]: 4 N d^2 for the attention's projections, 2 r N d^2 for the MLP, 2 N^2 d for attention."""
    patches = (side // patch) ** 2
    n = patches + 1
    return patches * 3 * patch**2 * dim + depth * ((4 + 2 * ratio) * n * dim**2 + 2 * n**2 * dim)


@pytest.mark.parametrize("fused", [True, False])
def test_small_vit(fused):
    vit = timm.models.VisionTransformer(img_size=48, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=0)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    counted = count(vit, (torch.zeros(2, 3, 48, 48),))
    assert counted.total == 2 * closed_form(48, 8, 64, 3)
    assert not counted.uncounted


def test_vit_b_16():
    vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    attention, mlp = [b.attn for b in vit.blocks], [b.mlp for b in vit.blocks]
    counted = count(vit, (torch.zeros(1, 3, 224, 224),), {"attention": attention, "mlp": mlp})
    assert counted.total == closed_form(224, 16, 768, 12)
    assert counted.total / 1e9 == pytest.approx(17.56, abs=0.005)
    assert counted.parts == {
        "attention": 12 * (4 * 197 * 768**2 + 2 * 197**2 * 768),
        "mlp": 12 * 8 * 197 * 768**2,
        "other": 196 * 768**2,
    }


class Attend(nn.Module):
    def forward(self, query, key, value):
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_fused_attention_of_unequal_lengths_and_widths():
    shapes = (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)  # (B, H, N, d), (B, H, M, d), (B, H, M, e)
    assert count(Attend(), tuple(torch.zeros(s) for s in shapes)).total == 2 * 3 * 5 * 7 * (8 + 6)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.matmul, [(4, 5), (5, 6)], 4 * 5 * 6),
        (torch.matmul, [(4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),  # broadcast over the second's batch
        (torch.matmul, [(2, 4, 5), (5,)], 2 * 4 * 5),
        (torch.matmul, [(5,), (5, 6)], 5 * 6),
        (torch.bmm, [(3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),
        (torch.baddbmm, [(3, 4, 6), (3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),
        (torch.addmm, [(6,), (4, 5), (5, 6)], 4 * 5 * 6),
        (lambda a, b: torch.einsum("bnd,bmd->bnm", a, b), [(3, 4, 5), (3, 7, 5)], 3 * 4 * 7 * 5),
        (lambda a, b: torch.einsum("bhnd,hde->bne", a, b), [(3, 2, 4, 5), (2, 5, 7)], 3 * 2 * 4 * 5 * 7),
        (lambda a: nn.functional.gelu(nn.functional.layer_norm(a, (8,))).softmax(-1) + a, [(4, 8)], 0),
    ],
)
def test_handles(function, shapes, macs):
    counted = count(Call(function), tuple(torch.ones(shape) for shape in shapes))
    assert (counted.total, counted.uncounted) == (macs, {})


def test_convolutions_and_groups():
    for groups in (1, 4):
        conv = nn.Conv2d(8, 16, 3, padding=1, groups=groups)
        assert count(conv, (torch.zeros(2, 8, 10, 10),)).total == 2 * 16 * 8 * 9 * 100 // groups


def test_torchs_multihead_attention_is_not_hidden_in_one_kernel():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    counted = count(layer, (torch.zeros(2, 10, 32),))
    assert counted.total == 2 * (4 * 10 * 32**2 + 2 * 10 * 32 * 64 + 2 * 10**2 * 32)
    assert not counted.uncounted
    assert layer.training


def test_an_operation_of_unknown_cost_is_reported():
    counted = count(Call(lambda a: torch.fft.fft(a).real + torch.cdist(a, a).sum()), (torch.ones(4, 8),))
    assert {"aten::fft_fft", "aten::cdist"} <= set(counted.uncounted)


def pair_inputs():
    batch = TinyData().batch(0, size=2, seed=0, reads=frozenset())
    return batch.images, batch.text


def test_parts_of_a_pair_sum_to_the_total_and_hold_their_own():
    model = tiny_model()
    counted = Pair(model).count(*pair_inputs())
    assert sum(counted.parts.values()) == counted.total
    assert set(counted.parts) == {"backbone", "pruner", "text", "fusion", "decoder", "heads"}
    assert not counted.uncounted
    words = 2 * 6 * DIM**2  # two texts of six tokens, one linear layer
    assert counted.parts["text"] == counted.parts["fusion"] == words
    scoring = 16 * (2 * DIM * DIM + DIM * DIM // 2 + DIM // 2)
    fusing = 16 * DIM
    assert counted.parts["pruner"] == 2 * (scoring + fusing)
    first, later = (n * (4 * DIM**2) + 2 * n**2 * DIM for n in (17, 10))  # [CLS], 8 kept, 1 fused
    assert counted.parts["backbone"] == 2 * (16 * 192 * DIM + first + 2 * later)
    assert counted.parts["decoder"] == counted.parts["heads"] == 0


def test_unpruned_costs_more_and_none_of_the_pruner():
    model = tiny_model()
    with model.unpruned():
        whole = Pair(model).count(*pair_inputs())
    assert whole.parts["pruner"] == 0
    assert whole.parts["backbone"] == 2 * (16 * 192 * DIM + 3 * (17 * 4 * DIM**2 + 2 * 17**2 * DIM))


def test_the_same_in_training_under_autocast_and_by_torchs_counter():
    model = tiny_model().train()
    images, text = pair_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        counted = Pair(model).count(images, text)
    assert model.training
    assert counted == Pair(model.eval()).count(images, text)
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=fused) as counter:
        Pair(model)(images, text.ids, text.mask)
    assert counter.get_total_flops() == 2 * counted.total


def _fused(query, key, value, *args, out_shape=None, **kwargs):
    (batch, heads, n, d), m, e = query, key[-2], value[-1]
    return 2 * batch * heads * n * m * (d + e)
