"""Decoding without a cache. Letters as in core.types; R rows, K beams, t new tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from core.kinds import Decoder, DecodeState
from core.types import Text, Tokens


class UncachedDecodeState(DecodeState):
    """Run a decoder on the whole text at every step: for decoders without a cache, and as a reference."""

    def __init__(self, decoder: Decoder, memory: Tokens):
        self.decoder, self.memory = decoder, memory
        ids = torch.zeros(len(memory.x), 0, dtype=torch.int64, device=memory.x.device)
        self.text = Text(ids, ids.bool())  # padded on the right, also if there were gaps

    def __call__(self, text: Text) -> Tensor:
        places = self.text.mask.sum(1, keepdim=True) + text.mask.cumsum(1) - 1  # (R, t)
        length = int(self.text.ids.shape[1]) + int(text.ids.shape[1])
        target = torch.where(text.mask, places, length)  # (R, t); masked tokens go to one extra slot
        extra = places.new_zeros(len(places), length + 1 - int(self.text.ids.shape[1]))
        ids = torch.cat([self.text.ids, extra], 1).scatter(1, target, text.ids)[:, :length]  # (R, S + t)
        mask = torch.cat([self.text.mask, extra.bool()], 1).scatter(1, target, True)[:, :length]
        self.text = Text(ids, mask)
        beams = len(ids) // len(self.memory.x)  # K
        images = torch.arange(len(ids), device=ids.device) // beams  # (R,)
        states = self.decoder(self.decoder.encode_text(self.text), self.memory.rows(images)).x  # (R, S + t, D)
        out: Tensor = states.gather(1, places.clamp_min(0)[..., None].expand(-1, -1, int(states.shape[2])))  # (R, t, D)
        return out

    def rows(self, index: Tensor) -> None:
        # index (R',)
        self.text = self.text.rows(index)
