"""The decoder: causal, blind to padding, its halves, its layouts, CoCa's size. Weights: test_weights.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.types import Text, Tokens
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.heads.vocabulary import Vocabulary
from plugins.layers import PostNormLayer, PreNormLayer

B, L, N, D, V = 2, 6, 5, 16, 40
# mPLUG's, a captioner's, a hybrid, CoCa's, open_clip's
SHAPES = [(0, 2, "bert"), (0, 2, "paper"), (1, 2, "bert"), (2, 2, "paper"), (2, 2, "openclip")]


def decoder(unimodal=1, multimodal=2, layout="bert", **settings):
    torch.manual_seed(0)
    filled = {"memory_dim": 24, "vocabulary": V, "text_length": 12}
    sizes = {"unimodal": unimodal, "multimodal": multimodal, "layout": layout, "embed_dim": D, "num_heads": 4}
    model = DecoupledDecoder(**{**sizes, **filled, **settings})
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.eval()


def text(mask=None):
    torch.manual_seed(1)
    return Text(torch.randint(1, V, (B, L)), torch.ones(B, L, dtype=torch.bool) if mask is None else mask)


def memory():
    torch.manual_seed(2)
    return Tokens(torch.randn(B, N, 24), mask=torch.arange(N) < torch.tensor([[N], [3]]))


def other_word(given, place):
    ids = given.ids.clone()
    ids[:, place] = ids[:, place] % (V - 1) + 1
    return Text(ids, given.mask)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_word_changes_itself_and_later_states_only(shape):
    model, one = decoder(*shape), text()
    encoded = model.encode_text(one)
    before = model(encoded, memory()).x
    for place in range(L):
        words = model.encode_text(other_word(one, place))
        moved = (model(words, memory()).x - before).abs().amax(-1) > 1e-6  # (B, L)
        assert not moved[:, :place].any(), f"word {place} changes an earlier state"
        assert moved[:, place:].all(), f"word {place} does not reach every later state"
        assert torch.equal(words.x[:, :place], encoded.x[:, :place]), "the lower half must be causal too"


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_padding_and_hidden_memory_change_nothing(shape):
    model, source = decoder(*shape), memory()
    one = text(torch.arange(L) < torch.tensor([[L], [4]]))
    before = model(model.encode_text(one), source).x
    shorter = Text(one.ids[1:, :4], one.mask[1:, :4])
    alone = model(model.encode_text(shorter), Tokens(source.x[1:, :3])).x
    assert torch.allclose(before[1, :4], alone[0], atol=1e-5)
    hidden = source.x.clone()
    hidden[~source.mask] = 9.0
    assert torch.allclose(before, model(model.encode_text(one), Tokens(hidden, mask=source.mask)).x, atol=1e-5)
    assert before.isfinite().all(), "states of padding are finite too"


@torch.no_grad()
def test_words_masked_in_front_are_unseen():
    model = decoder(unimodal=2, layout="paper")
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[:, :2] = False
    one = text(mask)
    before, after = (model(model.encode_text(given), memory()).x for given in (one, other_word(one, 1)))
    assert torch.allclose(before[:, 2:], after[:, 2:], atol=1e-6)
    alone = Text(one.ids[:, :1], torch.ones(B, 1, dtype=torch.bool))
    assert torch.allclose(before[:, :1], model(model.encode_text(alone), memory()).x, atol=1e-5), (
        "a masked word sees itself"
    )


@torch.no_grad()
def test_only_the_upper_half_sees_the_memory():
    model, one = decoder(unimodal=2, multimodal=1), text()
    assert all(layer.cross is None for layer in model.unimodal)
    assert all(layer.cross is not None for layer in model.multimodal)
    words = model.encode_text(one)
    moved = model(words, memory()).x - model(words, Tokens(memory().x + torch.randn(B, N, 24), mask=memory().mask)).x
    assert (moved.abs().amax(-1) > 1e-5).all()


@torch.no_grad()
def test_reading_with_no_unimodal_layers_is_embedding():
    model, one = decoder(unimodal=0), text()
    summed = model.words.weight[one.ids] + model.positions.weight[:L]
    mean, variance = summed.mean(-1, keepdim=True), summed.var(-1, keepdim=True, unbiased=False)
    expected = (summed - mean) / (variance + 1e-12).sqrt() * model.embedding_norm.weight + model.embedding_norm.bias
    assert torch.allclose(model.encode_text(one).x, expected, atol=1e-5)
    plain = decoder(unimodal=0, layout="paper")
    assert torch.allclose(plain.encode_text(one).x, plain.words.weight[one.ids] + plain.positions.weight[:L])


@pytest.mark.parametrize(("layout", "kind"), [("bert", PostNormLayer), ("paper", PreNormLayer)])
@torch.no_grad()
def test_layouts(layout, kind):
    model, one = decoder(layout=layout), text()
    assert all(isinstance(layer, kind) for layer in [*model.unimodal, *model.multimodal])
    x, mask = model.encode_text(one).x, torch.ones(L, L, dtype=torch.bool).tril()
    for layer in model.multimodal:
        x = layer(x, mask, memory().x, memory().mask[:, None, None])
    expected = (
        nn.functional.layer_norm(x, (D,), model.final_norm.weight, model.final_norm.bias) if layout == "paper" else x
    )
    assert torch.allclose(model(model.encode_text(one), memory()).x, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("dim", "heads", "millions"),
    [pytest.param(768, 12, 297, id="CoCa-Base"), pytest.param(1024, 16, 484, id="CoCa-Large")],
)
def test_cocas_decoder_has_the_papers_size(dim, heads, millions):
    """CoCa, table 1: one MLP per multimodal layer, input embedding and softmax untied, vocabulary of 64,000."""
    vocabulary, length = 64_000, 64
    sizes = {"unimodal": 12, "multimodal": 12, "layout": "paper", "embed_dim": dim, "num_heads": heads}
    with torch.device("meta"):
        model = DecoupledDecoder(**sizes, memory_dim=dim, vocabulary=vocabulary, text_length=length)
        head = Vocabulary(tied="none", dim=dim, vocabulary=vocabulary, embeddings={})
    total = sum(p.numel() for module in (model, head) for p in module.parameters())
    assert abs(total / (millions * 1e6) - 1) < 0.01
    attention, mlp, norm = 4 * dim**2 + 4 * dim, 8 * dim**2 + 5 * dim, 2 * dim
    layers = 24 * (attention + mlp + 2 * norm) + 12 * (attention + norm)
    assert sum(p.numel() for p in model.parameters()) == layers + (vocabulary + length) * dim + norm


class Traced(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask, source):
        return self.model(self.model.encode_text(Text(ids, mask)), Tokens(source)).x


@pytest.mark.parametrize("layout", ["bert", "paper"])
@torch.no_grad()
def test_runs_on_meta_and_under_tracing(layout):
    model, one = decoder(layout=layout), text(torch.arange(L) < torch.tensor([[L], [4]]))
    traced = torch.jit.trace(Traced(model), (one.ids, one.mask, memory().x))
    swapped = (one.ids.flip(0), one.mask.flip(0), memory().x.flip(0))
    assert torch.allclose(traced(*swapped), Traced(model)(*swapped), atol=1e-5)
    model = model.to("meta")
    assert model(model.encode_text(one.to("meta")), memory().to("meta")).x.shape == (B, L, D)


def test_embedding_is_the_parameter_itself():
    model = decoder()
    assert model.embedding is model.words.weight
    assert model.embedding.shape == (V, D)


def test_bert_weights_need_the_bert_layout():
    with pytest.raises(ValueError, match="weights of a BERT need layout 'bert', got 'paper'"):
        decoder(layout="paper", weights="some/bert")


@pytest.mark.parametrize("mask", ["correct", "legacy"])
@torch.no_grad()
def test_open_clips_cls_sees_the_words_and_no_more_padding_than_it_must(mask):
    model = decoder(2, 2, "openclip", cls=True, mask=mask)
    lengths = torch.tensor([[L], [4]])
    one = text(torch.arange(L) < lengths)
    pooled = model.encode_text(one).pooled
    longer = Text(torch.cat([one.ids, torch.full((B, 4), 7)], 1), torch.cat([one.mask, one.mask.new_zeros(B, 4)], 1))
    torch.testing.assert_close(model.encode_text(longer).pooled, pooled)
    torch.testing.assert_close(model.encode_text(Text(one.ids[1:, :4], one.mask[1:, :4])).pooled, pooled[1:])
    for place in range(4):
        assert ((model.encode_text(other_word(one, place)).pooled - pooled).abs().amax(1) > 1e-6).all()


@torch.no_grad()
def test_the_legacy_mask_by_hand():
    """As open_clip computes it: padded with id 0 to all positions, keys shifted by one, [CLS] at the last position."""
    model = decoder(2, 1, "openclip", cls=True, mask="legacy")
    for count in (1, 5, 12):
        ids = torch.zeros(1, 12, dtype=torch.int64)
        ids[0, :count] = torch.arange(1, count + 1)
        x = torch.cat([model.words(ids), model.cls.expand(1, 1, -1)], 1) + model.positions.weight  # (1, 13, D)
        keys = torch.cat([torch.ones(1, 1, dtype=torch.bool), ids != 0], 1)  # (1, 13)
        mask = torch.ones(13, 13, dtype=torch.bool).tril() & keys[:, None, None]
        for layer in model.unimodal:
            x = layer(x, mask)
        words = Text(ids[:, :count], torch.ones(1, count, dtype=torch.bool))
        encoded = model.encode_text(words)
        torch.testing.assert_close(encoded.pooled, model.cls_norm(x[:, -1]))
        torch.testing.assert_close(encoded.x, x[:, :count])


def test_settings_of_the_mask_that_do_not_fit():
    for settings in ({"layout": "paper", "cls": True}, {"layout": "openclip"}):
        with pytest.raises(ValueError, match="mask 'legacy' needs layout 'openclip' and cls"):
            decoder(1, 1, mask="legacy", **settings)
