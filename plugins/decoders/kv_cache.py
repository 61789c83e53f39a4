"""Incremental decoding with cached keys and values.

Letters as in core.types; R rows, S cached words, t new words, K rows of one image, d width of an attention head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from core.kinds import DecodeState
from core.types import Text, Tokens
from plugins.layers import Attention, OpenClipLayer, PostNormLayer, PreNormLayer, key_mask

Layer = PostNormLayer | PreNormLayer | OpenClipLayer


class KVCache:
    """Keys and values of one self-attention for the words so far, in buffers with room for ``length`` words."""

    def __init__(self, attention: Attention, length: int):
        self.attention, self.length, self.used = attention, length, 0
        self.buffers: tuple[Tensor, Tensor] | None = None  # keys and values, (R, heads, length, d)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Append the next words and attend from them to all cached words: (R, t, D) -> (R, t, D).

        Args:
            x: (R, t, D).
            mask: (R, 1, t, S + t), as in ``plugins.layers.attend``.
        """
        query = self.attention.split_heads(self.attention.query(x))  # (R, heads, t, d)
        new = self.attention.keys_values(x)  # (R, heads, t, d) each
        if self.buffers is None:
            self.buffers = (self._allocate(new[0]), self._allocate(new[1]))
        start, self.used = self.used, self.used + int(x.shape[1])
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[:, :, start : self.used] = states
        key, value = (buffer[:, :, : self.used] for buffer in self.buffers)  # (R, heads, S + t, d)
        return self.attention.attend_heads(query, key, value, mask)

    def rows(self, index: Tensor) -> None:
        """Continue with rows ``index`` (R',)."""
        if self.buffers is None:
            return
        selected = [buffer[:, :, : self.used].index_select(0, index) for buffer in self.buffers]  # (R', heads, S, d)
        if len(index) != len(self.buffers[0]):
            self.buffers = (self._allocate(selected[0]), self._allocate(selected[1]))
        for buffer, states in zip(self.buffers, selected, strict=True):
            buffer[:, :, : self.used] = states

    def _allocate(self, states: Tensor) -> Tensor:
        """Return an empty buffer (R, heads, length, d) for states (R, heads, t, d)."""
        rows, heads, _, width = states.shape
        return states.new_empty(rows, heads, self.length, width)


def cross_attn(attention: Attention, memory: Tokens) -> Callable[[Tensor], Tensor]:
    """Return cross-attention (R, t, D) -> (R, t, D) to ``memory`` (B, N, D), whose keys and values are computed once.

    The queries of an image's K rows are concatenated along the words, so that its keys and values are not repeated.
    """
    key, value = (states.contiguous() for states in attention.keys_values(memory.x))  # (B, heads, N, d), for every step
    mask, images = key_mask(memory.mask), int(memory.x.shape[0])

    def attend(x: Tensor) -> Tensor:
        grouped = x.reshape(images, -1, int(x.shape[2]))  # (R, t, D) -> (B, K t, D)
        query = attention.split_heads(attention.query(grouped))  # (B, heads, K t, d)
        return attention.attend_heads(query, key, value, mask).view_as(x)  # (R, t, D)

    return attend


class CachedDecodeState(DecodeState):
    """A decoder's layers with a cache for each self-attention.

    Args:
        embed: ids and positions (R, t) -> (R, t, D).
        unimodal: layers without cross-attention.
        multimodal: layers that also attend to ``memory``.
        norm: the final LayerNorm.
        memory: (B, N, D).
        length: maximum number of words.
    """

    def __init__(
        self,
        embed: Callable[[Tensor, Tensor], Tensor],
        unimodal: Sequence[Layer],
        multimodal: Sequence[Layer],
        norm: Callable[[Tensor], Tensor],
        *,
        memory: Tokens,
        length: int,
    ):
        self.embed, self.norm = embed, norm
        self.caches = [KVCache(layer.attention, length) for layer in (*unimodal, *multimodal)]
        self.layers: list[tuple[Layer, Callable[[Tensor], Tensor] | None]] = [(layer, None) for layer in unimodal]
        for layer in multimodal:
            assert layer.cross is not None
            self.layers.append((layer, cross_attn(layer.cross, memory)))
        self.mask = torch.ones(len(memory.x), 0, dtype=torch.bool, device=memory.x.device)  # (R, S)

    def __call__(self, text: Text) -> Tensor:
        cached, new = int(self.mask.shape[1]), int(text.ids.shape[1])
        positions = self.mask.sum(1, keepdim=True) + text.mask.cumsum(1) - 1  # (R, t): padding has no position
        self.mask = torch.cat([self.mask, text.mask], 1)  # (R, S + t)
        slots = torch.arange(cached + new, device=self.mask.device)  # (S + t,)
        queries = slots[cached:, None]  # (t, 1)
        # causal and without padding, but each query attends to itself, so that no row of the softmax is empty
        mask = ((slots <= queries) & self.mask[:, None] | (slots == queries))[:, None]  # (R, 1, t, S + t)
        x = self.embed(text.ids, positions.clamp_min(0))  # (R, t, D)
        for (layer, cross), cache in zip(self.layers, self.caches, strict=True):
            x = layer.forward_with(x, partial(cache.attend, mask=mask), cross)
        return self.norm(x)

    def rows(self, index: Tensor) -> None:
        """Continue with rows ``index`` (R',)."""
        if torch.equal(index, torch.arange(len(self.mask), device=index.device)):
            return
        self.mask = self.mask[index]  # (R', S)
        for cache in self.caches:
            cache.rows(index)
