"""The cache of incremental decoding, by itself. Whole decoders: test_generation.py."""

from __future__ import annotations

import pytest
import torch

from core.types import Text, Tokens
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.decoders.kv_cache import KVCache, cross_attn
from plugins.layers import Attention, causal_mask, key_mask

R, L, N, D, HEADS = 4, 6, 5, 16, 2


def attention(**settings):
    torch.manual_seed(0)
    return Attention(D, HEADS, 0.0, **settings).eval().double()


def words(rows=R):
    torch.manual_seed(1)
    return torch.randn(rows, L, D, dtype=torch.float64)


def decoder():
    torch.manual_seed(0)
    sizes = {"unimodal": 1, "multimodal": 1, "embed_dim": D, "num_heads": HEADS, "dropout": 0.0}
    return DecoupledDecoder(**sizes, layout="paper", memory_dim=D, vocabulary=20, text_length=L).eval()


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(1,) * L, (L,), (2, 1, 3)])
def test_words_in_pieces_attend_like_words_at_once(cuts):
    layer, x = attention(), words()
    whole = layer(x, x, causal_mask(L, x.device))
    cache, parts, start = KVCache(layer, L), [], 0
    for count in cuts:
        mask = causal_mask(L, x.device)[:, :, start : start + count, : start + count]
        parts.append(cache.attend(x[:, start : start + count], mask))
        start += count
    assert cache.used == L
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-12)
    keys, values = layer.keys_values(x)
    assert torch.allclose(cache.buffers[0], keys) and torch.allclose(cache.buffers[1], values)


@torch.no_grad()
@pytest.mark.parametrize("index", [[2, 2, 0, 1], [3], [0, 0, 1, 1, 2, 2, 3, 3]])
def test_selected_rows_continue_where_they_were(index):
    """Fewer, more or as many rows: each continues as if it had been decoded from the start."""
    layer, x, index = attention(), words(), torch.tensor(index)
    cache = KVCache(layer, L)
    cache.rows(index)  # before the first word there is nothing to select
    cache.attend(x[:, :3], causal_mask(3, x.device))
    cache.rows(index)
    out = cache.attend(x[index, 3:], causal_mask(L, x.device)[:, :, 3:])
    whole = layer(x[index], x[index], causal_mask(L, x.device))
    assert torch.allclose(out, whole[:, 3:], atol=1e-12)
    assert cache.buffers[0].shape == (len(index), HEADS, L, D // HEADS)


@torch.no_grad()
@pytest.mark.parametrize("each", [1, 2])
def test_rows_of_an_image_share_its_keys(each):
    """Equal to attention with the memory repeated for every row; the memory is projected once, for all steps."""
    layer, images = attention(source_dim=8, norm_source=True), R // each
    memory = torch.randn(images, N, 8, dtype=torch.float64)
    mask = torch.arange(N) < torch.arange(images)[:, None] + 2
    projections = []
    layer.key.register_forward_hook(lambda *_: projections.append(1))
    attend = cross_attn(layer, Tokens(memory, mask=mask))
    x = words()
    steps = torch.cat([attend(x[:, t : t + 1]) for t in range(L)], 1)
    assert len(projections) == 1
    repeated = layer(x, memory.repeat_interleave(each, 0), key_mask(mask.repeat_interleave(each, 0)))
    assert torch.allclose(steps, repeated, atol=1e-12)


@torch.no_grad()
def test_masked_words_have_no_position_and_no_effect():
    one, memory = decoder(), Tokens(torch.randn(1, N, D))
    ids = torch.tensor([[1, 5, 7, 9]])
    plain = one.start_decoding(memory, L)(Text(ids, torch.ones(1, 4, dtype=torch.bool)))
    gaps = Text(torch.tensor([[1, 5, 0, 0, 7, 9]]), torch.tensor([[True, True, False, False, True, True]]))
    out = one.start_decoding(memory, L)(gaps)
    assert torch.allclose(out[gaps.mask], plain[0], atol=1e-6)


@torch.no_grad()
def test_selecting_all_rows_in_order_copies_nothing():
    one = decoder()
    state = one.start_decoding(Tokens(torch.randn(2, N, D)), L)
    state(Text(torch.tensor([[1], [1]]), torch.ones(2, 1, dtype=torch.bool)))
    before = [buffer.data_ptr() for cache in state.caches for buffer in cache.buffers]
    mask = state.mask
    state.rows(torch.arange(2))
    assert state.mask is mask
    assert [buffer.data_ptr() for cache in state.caches for buffer in cache.buffers] == before


def test_more_words_than_positions_is_an_error():
    memory = Tokens(torch.randn(1, N, D))
    with pytest.raises(ValueError, match=f"length is {L + 1}; this decoder has positions for {L} words"):
        decoder().start_decoding(memory, L + 1)
