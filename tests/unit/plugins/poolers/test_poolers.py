"""Poolers against torch's own attention and on examples with known results. Attentional poolers: also test_coca.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.types import Tokens
from plugins.layers import Attention
from plugins.poolers.attentional import AttentionalPoolers, Queries
from plugins.poolers.query import QueryPooler
from plugins.poolers.shared import SharedPooler

B, N, D, WIDTH, HEADS = 2, 7, 16, 24, 3


def image():
    """Tokens of two images, of which the second has 4."""
    torch.manual_seed(1)
    return Tokens(torch.randn(B, N, D), mask=torch.arange(N) < torch.tensor([[N], [4]]))


def build(cls, **settings):
    """A pooler with random weights, those of the norms included."""
    torch.manual_seed(0)
    pooler = cls(**{"width": WIDTH, "num_heads": HEADS, "dim": D, **settings}).eval()
    for parameter in pooler.parameters():
        parameter.data.normal_(std=0.3)
    return pooler


def torch_attention(attention: Attention, queries, tokens, mask):
    """nn.MultiheadAttention with the same weights."""
    source = int(tokens.shape[2])
    other = nn.MultiheadAttention(WIDTH, HEADS, kdim=source, vdim=source, batch_first=True)
    maps = (attention.query, attention.key, attention.value)
    state = {"in_proj_bias": torch.cat([part.bias for part in maps])}
    state |= {f"{name}_proj_weight": part.weight for name, part in zip("qkv", maps, strict=True)}
    state |= {"out_proj.weight": attention.out.weight, "out_proj.bias": attention.out.bias}
    other.load_state_dict(state)
    padding = None if mask is None else ~mask
    return other(queries.expand(len(tokens), -1, -1), tokens, tokens, key_padding_mask=padding)[0]


@torch.no_grad()
def test_query_is_one_attention_and_a_norm():
    pooler, tokens = build(QueryPooler), image()
    part = pooler.query
    expected = part.norm(torch_attention(part.attention, part.queries, tokens.x, tokens.mask))
    out = pooler(tokens)
    assert out.x.shape == (B, 1, WIDTH)
    assert torch.allclose(out.x, expected, atol=1e-5)
    assert torch.equal(out.pooled, out.x[:, 0])


@torch.no_grad()
def test_shared_splits_one_attention():
    pooler, tokens = build(SharedPooler, queries=5), image()
    queries = pooler.query_norm(pooler.queries)
    expected = pooler.norm(torch_attention(pooler.attention, queries, tokens.x, tokens.mask))
    out = pooler(tokens)
    assert torch.allclose(out.pooled, expected[:, 0], atol=1e-5)
    assert out.x.shape == (B, 4, WIDTH)
    assert torch.allclose(out.x, expected[:, 1:], atol=1e-5)


def test_shared_needs_a_query_for_each_use():
    with pytest.raises(
        ValueError, match="queries is 1; it must be at least 2: one for contrast and one for captioning"
    ):
        SharedPooler(queries=1, dim=D)


@torch.no_grad()
@pytest.mark.parametrize(
    "pooler",
    [
        build(QueryPooler),
        build(SharedPooler, queries=3),
        build(AttentionalPoolers, queries=3),
        build(AttentionalPoolers, queries=3, arrangement="parallel"),
    ],
    ids=["query", "shared", "cascade", "parallel"],
)
def test_padding_changes_nothing(pooler):
    tokens = image()
    changed = tokens.x.masked_fill(~tokens.mask[..., None], 9.0)
    short = Tokens(tokens.x[1:, :4])
    out, other, alone = pooler(tokens), pooler(Tokens(changed, mask=tokens.mask)), pooler(short)
    assert torch.equal(out.x, other.x) and torch.equal(out.pooled, other.pooled)
    assert torch.allclose(out.x[1:], alone.x, atol=1e-5) and torch.allclose(out.pooled[1:], alone.pooled, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("cls", "settings"),
    [(QueryPooler, {}), (SharedPooler, {"queries": 3}), (AttentionalPoolers, {"queries": 3})],
)
def test_the_order_of_tokens_does_not_matter(cls, settings):
    pooler, x = build(cls, **settings), image().x
    out, other = pooler(Tokens(x)), pooler(Tokens(x.flip(1)))
    assert torch.allclose(out.x, other.x, atol=1e-5) and torch.allclose(out.pooled, other.pooled, atol=1e-5)


@torch.no_grad()
def test_width_0_is_that_of_the_image():
    for cls in (QueryPooler, SharedPooler, AttentionalPoolers):
        pooler = cls(dim=HEADS * 8, num_heads=HEADS, **({} if cls is QueryPooler else {"queries": 4}))
        assert pooler.dim == HEADS * 8
        assert pooler(Tokens(torch.randn(B, N, HEADS * 8))).pooled.shape == (B, HEADS * 8)


@torch.no_grad()
def test_a_pooler_that_starts_as_the_mean():
    """With queries of zero every token weighs the same, so that the output is the normalised mean."""
    torch.manual_seed(0)
    queries = Queries(3, D, 4, D)
    for part in (queries.attention.value, queries.attention.out):
        nn.init.zeros_(part.bias)
    nn.init.zeros_(queries.queries)
    nn.init.zeros_(queries.attention.query.bias)
    queries.start_as_mean()
    tokens = image()
    out = queries(tokens.x, tokens.mask)
    for row, count in ((0, N), (1, 4)):
        mean = nn.functional.layer_norm(tokens.x[row, :count].mean(0), (D,))
        assert torch.allclose(out[row], mean.expand(3, -1), atol=1e-5)


@torch.no_grad()
def test_attentional_poolers_start_near_the_mean():
    """Averaged over images, both outputs point where the normalised mean of the tokens does."""
    torch.manual_seed(0)
    pooler, x = AttentionalPoolers(queries=8, num_heads=4, dim=64), torch.randn(32, 9, 64)
    out = pooler(Tokens(x))
    mean = x.mean(1)
    for state in (out.pooled, out.x.mean(1)):
        assert nn.functional.cosine_similarity(state, mean).mean() > 0.9


@torch.no_grad()
def test_the_cascades_contrast_depends_on_the_image_through_the_captioning_tokens_alone():
    """Zero value and output maps of the captioning queries make them constant: cascade is blind, parallel is not."""
    for arrangement, differs in (("cascade", False), ("parallel", True)):
        pooler = build(AttentionalPoolers, queries=3, arrangement=arrangement)
        nn.init.zeros_(pooler.captions.attention.out.weight)
        out = pooler(Tokens(image().x))
        assert torch.allclose(out.pooled[0], out.pooled[1], atol=1e-6) != differs
