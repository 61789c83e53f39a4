"""Keys and values kept from word to word. Letters as in core.types; R rows, S words kept, d width of a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from core.kinds import DecodeState
from core.types import Text, Tokens
from plugins.layers import Attention, OpenClipLayer, PostNormLayer, PreNormLayer, key_mask

Layer = PostNormLayer | PreNormLayer | OpenClipLayer


class Cache:
    """One layer's keys and values of the words read so far, in a buffer with room for ``length`` words."""

    def __init__(self, attention: Attention, length: int):
        self.attention, self.length, self.used = attention, length, 0
        self.buffers: tuple[Tensor, Tensor] | None = None

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """The next words (R, t, D) attend to all that were read, themselves included; ``mask`` (R, 1, t, S + t)."""
        query, new = self.attention.split(self.attention.query(x)), self.attention.keys_values(x)  # (R, heads, t, d)
        if self.buffers is None:
            self.buffers = (self._room(new[0]), self._room(new[1]))
        start, self.used = self.used, self.used + int(x.shape[1])
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[:, :, start : self.used] = states
        key, value = (buffer[:, :, : self.used] for buffer in self.buffers)
        return self.attention.attend_heads(query, key, value, mask)

    def rows(self, index: Tensor) -> None:
        """Go on from rows ``index`` (R',)."""
        if self.buffers is None:
            return
        taken = [buffer[:, :, : self.used].index_select(0, index) for buffer in self.buffers]
        if len(index) != len(self.buffers[0]):
            self.buffers = (self._room(taken[0]), self._room(taken[1]))
        for buffer, states in zip(self.buffers, taken, strict=True):
            buffer[:, :, : self.used] = states

    def _room(self, states: Tensor) -> Tensor:
        rows, heads, _, width = states.shape
        return states.new_empty(rows, heads, self.length, width)


def across(attention: Attention, memory: Tokens) -> Callable[[Tensor], Tensor]:
    """Cross-attention from (R, t, D) to a memory (B, N, D), whose keys and values are computed here, once.

    The words of the K rows of a picture are laid side by side as queries, so that nothing is repeated.
    """
    key, value = (
        states.contiguous() for states in attention.keys_values(memory.x)
    )  # (B, heads, N, d), read at each step
    mask, pictures = key_mask(memory.mask), int(memory.x.shape[0])

    def attend(x: Tensor) -> Tensor:
        beside = x.reshape(pictures, -1, int(x.shape[2]))  # (R, t, D) -> (B, K t, D)
        return attention.attend_heads(attention.split(attention.query(beside)), key, value, mask).view_as(x)

    return attend


class CachedDecodeState(DecodeState):
    """A decoder's layers over cached words.

    Args:
        embed: ids and positions (R, t) -> (R, t, D).
        unimodal: layers over words alone.
        multimodal: layers that attend to ``memory`` too.
        norm: the last one.
        memory: (B, N, D).
        length: words for which there is room.
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
        self.caches = [Cache(layer.attention, length) for layer in (*unimodal, *multimodal)]
        self.layers: list[tuple[Layer, Callable[[Tensor], Tensor] | None]] = [(layer, None) for layer in unimodal]
        for layer in multimodal:
            assert layer.cross is not None
            self.layers.append((layer, across(layer.cross, memory)))
        self.mask = torch.ones(len(memory.x), 0, dtype=torch.bool, device=memory.x.device)  # (R, S)

    def __call__(self, text: Text) -> Tensor:
        read, new = int(self.mask.shape[1]), int(text.ids.shape[1])
        places = self.mask.sum(1, keepdim=True) + text.mask.cumsum(1) - 1  # (R, t): words counted, not gaps
        self.mask = torch.cat([self.mask, text.mask], 1)  # (R, S + t)
        slots = torch.arange(read + new, device=self.mask.device)
        own = slots[read:, None]  # (t, 1)
        mask = ((slots <= own) & self.mask[:, None] | (slots == own))[:, None]  # (R, 1, t, S + t)
        x = self.embed(text.ids, places.clamp_min(0))
        for (layer, cross), cache in zip(self.layers, self.caches, strict=True):
            x = layer.forward_with(x, partial(cache.attend, mask=mask), cross)
        return self.norm(x)

    def rows(self, index: Tensor) -> None:
        if torch.equal(index, torch.arange(len(self.mask), device=index.device)):
            return
        self.mask = self.mask[index]
        for cache in self.caches:
            cache.rows(index)
