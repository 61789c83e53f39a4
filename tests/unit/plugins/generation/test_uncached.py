"""Decoding without a cache: gaps between tokens are closed, rows may repeat, beams share an image."""

from __future__ import annotations

import pytest
import torch

from core.kinds import Decoder
from core.types import Text, Tokens
from plugins.generation.uncached import UncachedDecodeState


class Recorder(Decoder):
    """States that encode a token's position, id and image, and a record of the texts it was called with."""

    def __init__(self):
        super().__init__()
        self.dim, self.texts = 3, []

    @property
    def embedding(self):
        return torch.zeros(10, 3)

    def encode_text(self, text):
        self.texts.append(text)
        return Tokens(text.ids[..., None].float(), mask=text.mask)

    def forward(self, text, memory):
        ids = text.x[..., 0]  # (R, S)
        places = torch.arange(ids.shape[1]).expand_as(ids)
        image = memory.x[:, :1, 0].expand_as(ids)
        return Tokens(torch.stack([places, ids, image], -1).float())  # (R, S, 3)


def state(images=2):
    decoder = Recorder()
    memory = Tokens(10.0 * torch.arange(images).view(images, 1, 1).expand(images, 4, 3))
    return decoder, UncachedDecodeState(decoder, memory)


def text(*rows):
    """Text from ids; a minus marks a masked token."""
    ids = torch.tensor(rows)
    return Text(ids.clamp_min(0), ids >= 0)


def test_states_are_of_the_new_tokens_at_their_positions():
    decoder, decoding = state()
    prompt = decoding(text([5, 6, 7], [8, -1, -1]))
    assert prompt.shape == (2, 3, 3)
    assert prompt[0].tolist() == [[0, 5, 0], [1, 6, 0], [2, 7, 0]]
    assert prompt[1, 0].tolist() == [0, 8, 10]
    new = decoding(text([1], [2]))
    assert new.tolist() == [[[3, 1, 0]], [[1, 2, 10]]]  # the second text has no gap after its prompt
    assert decoder.texts[-1].ids.tolist() == [[5, 6, 7, 1], [8, 2, 0, 0]]
    assert decoder.texts[-1].mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_a_finished_text_does_not_grow():
    decoder, decoding = state()
    decoding(text([5], [6]))
    decoding(text([-1], [7]))
    decoding(text([-1], [8]))
    assert decoder.texts[-1].mask.sum(1).tolist() == [1, 3]
    assert decoder.texts[-1].ids[1].tolist() == [6, 7, 8]


def test_rows_may_repeat_and_beams_share_their_image():
    decoder, decoding = state()
    decoding(text([5], [6]))
    decoding.rows(torch.tensor([0, 0, 0, 1, 1, 1]))
    new = decoding(text([1], [2], [3], [4], [5], [6]))
    assert new[:, 0].tolist() == [[1, i + 1, 10 * (i // 3)] for i in range(6)]
    decoding.rows(torch.tensor([2, 2, 0, 5, 3, 3]))
    decoding(text(*[[9]] * 6))
    assert decoder.texts[-1].ids.tolist() == [[5, 3, 9], [5, 3, 9], [5, 1, 9], [6, 6, 9], [6, 4, 9], [6, 4, 9]]


@pytest.mark.parametrize("split", range(1, 5))
def test_one_call_equals_two(split):
    whole = [3, 1, 4, 1, 5]
    _, once = state(1)
    _, twice = state(1)
    expected = once(text(whole))
    parts = [twice(text(whole[:split])), twice(text(whole[split:]))]
    assert torch.equal(torch.cat(parts, 1), expected)


def test_a_gap_inside_new_tokens_is_closed():
    decoder, decoding = state(1)
    got = decoding(text([7, -1, 8]))
    assert decoder.texts[-1].ids.tolist() == [[7, 8, 0]]
    assert got[0, [0, 2]].tolist() == [[0, 7, 0], [1, 8, 0]]
