"""The text encoder: both ways, blind to padding, its dropout and its two kernels. Weights: test_weights.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.types import Text
from plugins.text.bert import BertEncoder

V, L = 40, 7


def encoder(**settings):
    torch.manual_seed(0)
    made = BertEncoder(**{"layers": 2, "embed_dim": 32, "num_heads": 4, "vocabulary": V, "text_length": 12, **settings})
    for parameter in made.parameters():
        parameter.data.normal_(std=0.2)
    return made.eval()


def text(length=L, padding=0):
    torch.manual_seed(1)
    ids = torch.cat([torch.randint(1, V, (2, length)), torch.zeros(2, padding, dtype=torch.long)], 1)
    return Text(ids, torch.arange(length + padding).expand(2, -1) < length)


def test_pooled_is_the_last_state_of_cls_and_mask_is_passed_on():
    given = text(padding=2)
    out = encoder()(given)
    assert torch.equal(out.pooled, out.x[:, 0])
    assert torch.equal(out.mask, given.mask)


@torch.no_grad()
def test_every_word_reaches_every_state():
    model, one = encoder(), text()
    before = model(one).x
    for place in range(L):
        ids = one.ids.clone()
        ids[:, place] = ids[:, place] % (V - 1) + 1
        moved = (model(Text(ids, one.mask)).x - before).abs().amax(-1)  # (B, L)
        assert (moved > 1e-4).all(), f"word {place} does not reach all states"


@torch.no_grad()
def test_what_padding_holds_changes_nothing():
    model, one = encoder(), text(padding=3)
    ids = one.ids.clone()
    ids[:, L:] = 9
    before, after = model(one).x, model(Text(ids, one.mask)).x
    assert torch.allclose(before[:, :L], after[:, :L], atol=1e-6)
    assert torch.allclose(before[:, :L], model(text()).x, atol=1e-5)


def test_dropout_acts_in_training_only():
    model, one = encoder(dropout=0.5), text()
    assert torch.equal(model(one).x, model(one).x)
    model.train()
    assert not torch.equal(model(one).x, model(one).x)


def test_both_kernels_give_the_same_states():
    model, one = encoder(dropout=0.0), text(padding=2)
    whole = model(one).x
    with torch.autocast("cpu", torch.bfloat16):
        fused, apart = model(one).x, model.train()(one).x
    assert torch.allclose(whole, fused.float(), atol=0.15)
    assert torch.allclose(whole, apart.float(), atol=0.15)


def test_embedding_is_the_parameter_itself():
    model = encoder()
    assert model.embedding is model.bert.embeddings.word_embeddings.weight
    assert model.embedding.shape == (V, 32)


class Traced(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(Text(ids, mask)).x


@torch.no_grad()
def test_runs_on_meta_and_under_tracing():
    model, one, other = encoder(), text(padding=2), text(length=L - 2, padding=4)
    traced = torch.jit.trace(Traced(model), (one.ids, one.mask))
    assert torch.allclose(traced(other.ids, other.mask), model(other).x, atol=1e-5)
    out = model.to("meta")(one.to("meta"))
    assert out.x.is_meta
    assert out.pooled.shape == (2, 32)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads do not divide dim 32"):
        encoder(num_heads=3)
