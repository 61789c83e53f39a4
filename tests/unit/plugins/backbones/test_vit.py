"""The ViT: pixels, blocks in two halves, attention maps, the split at the first pruner. Weights: test_weights.py."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from plugins.backbones.timm_options import STYLES
from plugins.backbones.vit import ViT
from plugins.pruners.evit import AttentivePruner
from plugins.pruners.prune_list import Prune
from plugins.pruners.random import RandomPruner
from plugins.pruners.tpd import TextAwarePatchDetector
from registry.part import Part, PartError

B, SIDE, PATCH, D, HEADS, DEPTH, P = 2, 32, 8, 16, 2, 3, 16


def vit(**settings):
    torch.manual_seed(0)
    sizes = {"embed_dim": D, "depth": DEPTH, "num_heads": HEADS, "patch_size": PATCH, "image_size": SIDE}
    return ViT(**{**sizes, **settings}).eval()


def images():
    torch.manual_seed(1)
    return torch.randint(0, 256, (B, 3, SIDE, SIDE), dtype=torch.uint8)


def after(block, cls, **settings):
    return Prune(block, Part(cls, settings, cls.__name__, "token pruner"))


@torch.no_grad()
@pytest.mark.parametrize("cls", [True, False])
def test_without_pruners_it_is_timms(cls):
    one, pixels = vit(cls=cls), (images().float() / 255 - 0.5) / 0.5
    sizes = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": D, "depth": DEPTH, "num_heads": HEADS}
    other = VisionTransformer(**sizes, class_token=cls, num_classes=0, global_pool="").eval()
    other.load_state_dict(one.vit.state_dict())
    out = one(images())
    assert torch.allclose(out.x, other(pixels), atol=1e-5)
    assert out.x.shape == (B, cls + P, D)
    assert out.patches == (cls, cls + P)
    assert torch.equal(out.pooled, out.x[:, 0]) if cls else out.pooled is None


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_pixels_of_the_mean_become_zero(style):
    """An image of the family's mean colour leaves the patch embedding its bias, which CLIP's does not have."""
    one, embedded = vit(style=style), []
    one.vit.patch_embed.register_forward_hook(lambda _part, inputs, out: embedded.append((inputs[0], out)))
    mean, deviation = STYLES[style].mean, STYLES[style].std
    one.trunk((255 * torch.tensor(mean)).view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE))
    ((pixels, patches),) = embedded
    assert torch.allclose(pixels, torch.zeros(()), atol=1e-5)
    assert (one.vit.patch_embed.proj.bias is None) == (style != "plain")
    if style == "plain":
        assert torch.allclose(patches, one.vit.patch_embed.proj.bias.expand(1, P, D), atol=1e-5)
    one.trunk(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8))
    black = -torch.tensor(mean) / torch.tensor(deviation)
    assert torch.allclose(embedded[1][0], black.view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE), atol=1e-5)


@torch.no_grad()
def test_the_halves_of_a_block_make_the_block():
    one, x = vit(), torch.randn(B, 5, D)
    for block in one.blocks:
        assert torch.allclose(block.mlp(block.attend(x, None)), block(x, None), atol=1e-6)


@torch.no_grad()
def test_attention_maps_are_those_of_the_block():
    """Weights times values, through the output map, are what attention adds to its input."""
    one, x = vit(), torch.randn(B, 5, D)
    for wrapped, block in zip(one.blocks, one.vit.blocks, strict=True):
        keys, weights = wrapped.attention_maps(x, None)
        assert keys.shape == (B, HEADS, 5, D // HEADS)
        assert torch.allclose(weights.sum(-1), torch.ones(B, HEADS, 5), atol=1e-6)
        qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, HEADS, -1))  # (B, N, 3, heads, d)
        assert torch.allclose(keys, qkv[:, :, 1].transpose(1, 2))
        values = qkv[:, :, 2].transpose(1, 2)  # (B, heads, N, d)
        added = block.attn.proj((weights @ values).transpose(1, 2).flatten(2))
        assert torch.allclose(x + added, wrapped.attend(x, None), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("prune", "split"),
    [
        ([after(2, TextAwarePatchDetector)], 2),
        ([after(2, AttentivePruner)], 1),  # within block 2, so only block 1 comes before
        ([after(3, RandomPruner), after(1, TextAwarePatchDetector)], 1),
        ([], DEPTH),
    ],
    ids=["after_block", "in_block", "two", "none"],
)
def test_the_trunk_ends_before_the_first_pruner(prune, split):
    one, runs = vit(prune=prune, guide_dim=4), []
    for i, block in enumerate(one.vit.blocks, 1):
        block.norm2.register_forward_hook(lambda *_, i=i: runs.append(i))
    trunk = one.trunk(images())
    assert runs == list(range(1, split + 1))
    assert trunk.x.shape == (B, 1 + P, D)
    out = one.finish(trunk, torch.randn(B, 4))
    assert runs == [1, 2, 3], "each block runs once"
    assert one.split == split
    assert (out.source is None) == (not prune)


@torch.no_grad()
def test_unpruned_keeps_every_patch():
    one = vit(prune=[after(1, RandomPruner, keep_rate=0.25)])
    assert one(images()).x.shape == (B, 1 + 4, D)
    one.pruning = False
    assert torch.equal(one(images()).x, vit()(images()).x)


@torch.no_grad()
def test_depth_0_is_embedded_patches():
    one = vit(depth=0)
    out = one(images())
    x = one.vit.patch_embed((images().float() / 255 - 0.5) / 0.5)  # (B, P, D)
    expected = torch.cat([one.vit.cls_token.expand(B, -1, -1), x], 1) + one.vit.pos_embed
    assert torch.allclose(out.x, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("patch", [2, 8])
def test_the_convolutional_stem_has_the_same_grid(patch):
    one = vit(stem="conv", patch_size=patch)
    convolutions = [m for m in one.vit.patch_embed.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == [3] * (patch.bit_length() - 1) + [1]
    assert one(images()).x.shape == (B, 1 + (SIDE // patch) ** 2, D)
    assert one.grid == (SIDE // patch, SIDE // patch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 7}, "patch_size 7 does not divide the image's side of 32 pixels"),
        ({"num_heads": 3}, "3 heads do not divide dim 16"),
        ({"stem": "conv", "patch_size": 1}, "stem 'conv' needs a patch_size that is a power of 2, got 1"),
        ({"prune": [after(4, RandomPruner)]}, "prune: after_block"),
        ({"prune": [after(1, RandomPruner), after(1, RandomPruner)]}, "prune: after_block"),
        ({"prune": [after(1, RandomPruner, keep_rate=0.0)]}, "keep_rate is 0; it must be above 0"),
    ],
)
def test_sizes_that_do_not_fit(settings, message):
    with pytest.raises((ValueError, PartError), match=message):
        vit(**settings)
