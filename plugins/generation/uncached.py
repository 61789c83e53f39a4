"""Decoding without a cache. Letters as in core.types; R rows, t new words."""

from __future__ import annotations

import torch
from torch import Tensor

from core.kinds import Decoder, DecodeState
from core.types import Text, Tokens


class UncachedDecodeState(DecodeState):
    """Runs a decoder on the whole text at every step: for decoders that cannot go on, and to compare with."""

    def __init__(self, decoder: Decoder, memory: Tokens):
        self.decoder, self.memory = decoder, memory
        ids = torch.zeros(len(memory.x), 0, dtype=torch.int64, device=memory.x.device)
        self.text = Text(ids, ids.bool())  # padded on the right, whatever gaps the words came with

    def __call__(self, text: Text) -> Tensor:
        places = self.text.mask.sum(1, keepdim=True) + text.mask.cumsum(1) - 1  # (R, t)
        room = int(self.text.ids.shape[1]) + int(text.ids.shape[1])
        target = torch.where(text.mask, places, room)  # one slot too many takes what is passed over
        extra = places.new_zeros(len(places), room + 1 - int(self.text.ids.shape[1]))
        ids = torch.cat([self.text.ids, extra], 1).scatter(1, target, text.ids)[:, :room]
        mask = torch.cat([self.text.mask, extra.bool()], 1).scatter(1, target, True)[:, :room]
        self.text = Text(ids, mask)
        each = len(ids) // len(self.memory.x)  # K
        pictures = torch.arange(len(ids), device=ids.device) // each
        states = self.decoder(self.decoder.encode_text(self.text), self.memory.rows(pictures)).x  # (R, S + t, D)
        out: Tensor = states.gather(1, places.clamp_min(0)[..., None].expand(-1, -1, int(states.shape[2])))
        return out

    def rows(self, index: Tensor) -> None:
        self.text = self.text.rows(index)
