"""Heads: the formula of each, tying, bounds."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plugins.heads.classify import Classify
from plugins.heads.lm_head import LanguageModelHead
from plugins.heads.match import Match
from plugins.heads.projection import Projection
from plugins.heads.temperature import Temperature
from plugins.heads.unit import Unit
from plugins.heads.vocabulary import Vocabulary
from registry.part import Part, PartError

B, L, D, V = 3, 4, 16, 30


def embeddings(**widths):
    torch.manual_seed(1)
    return {name: nn.Parameter(torch.randn(V, width)) for name, width in (widths or {"text": D, "decoder": D}).items()}


def vocabulary(tied="text", tables=None):
    torch.manual_seed(0)
    return Vocabulary(tied=tied, dim=D, vocabulary=V, embeddings=embeddings() if tables is None else tables)


def test_projection_gives_unit_vectors_in_fp32():
    torch.manual_seed(0)
    head, x = Projection(width=8, dim=D), torch.randn(B, D)
    head.linear.bias.data.normal_()
    expected = x @ head.linear.weight.T + head.linear.bias
    assert torch.allclose(head(x), expected / expected.square().sum(-1, keepdim=True).sqrt(), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        half = head(x)
    assert half.dtype == torch.float32
    assert torch.allclose(half.norm(dim=-1), torch.ones(B), atol=1e-6)
    assert Projection(dim=D)(x).shape == (B, 256)


def test_match_is_two_logits():
    torch.manual_seed(0)
    head, x = Match(dim=D), torch.randn(B, D)
    assert torch.allclose(head(x), x @ head.linear.weight.T, atol=1e-6)
    assert head(x).shape == (B, 2)


@pytest.mark.parametrize("tied", ["text", "decoder", "none"])
def test_vocabulary_is_berts_language_model_head(tied):
    head, x = vocabulary(tied), torch.randn(B, L, D)
    for parameter in head.parameters():
        parameter.data.normal_(std=0.5)
    inner = x @ head.transform.weight.T + head.transform.bias
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2  # the exact GELU
    inner = (inner - inner.mean(-1, keepdim=True)) / inner.var(-1, keepdim=True, unbiased=False).sqrt()
    expected = (inner * head.norm.weight + head.norm.bias) @ head.words.weight.T + head.bias
    assert torch.allclose(head(x), expected, atol=1e-4)
    assert head(x).shape == (B, L, V)


@pytest.mark.parametrize("tied", ["text", "decoder"])
def test_tying_shares_the_very_parameter(tied):
    tables = embeddings()
    before = tables[tied].detach().clone()
    head = vocabulary(tied, tables)
    assert head.words.weight is tables[tied]
    assert torch.equal(tables[tied], before), "tying must not start the embeddings anew"
    model = nn.ModuleDict({"head": head, "text": nn.Embedding(V, D)})
    model["text"].weight = tables[tied]
    assert sum(p is tables[tied] for p in model.parameters()) == 1, "counted once"
    twin = copy.deepcopy(model)
    assert twin["head"].words.weight is twin["text"].weight, "a copy (a teacher) stays tied"
    head(torch.randn(B, D)).square().sum().backward()
    assert tables[tied].grad.abs().sum() > 0


def test_untied_has_its_own_matrix():
    tables = embeddings()
    matrix = vocabulary("none", tables).words.weight
    assert all(matrix is not parameter for parameter in tables.values())


def test_tying_to_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="tied: the decoder embeddings are 24 wide, this head's states 16"):
        vocabulary("decoder", embeddings(text=D, decoder=24))
    with pytest.raises(ValueError, match="tied: 'text', but the model has no such word embeddings; it has: decoder"):
        vocabulary("text", embeddings(decoder=D))
    with pytest.raises(PartError, match=r"head 'words': tied: 'text', but the model has no .* it has: none"):
        Part(Vocabulary, {}, "words", "head")(dim=D, vocabulary=V, embeddings={})


def test_temperature_divides():
    head, x = Temperature(), torch.tensor([[0.7, -0.14]])
    assert torch.allclose(head(x), torch.tensor([[10.0, -2.0]]), atol=1e-5)
    assert abs(float(Temperature(initial=0.2).value.detach()) - 0.2) < 1e-6


@pytest.mark.parametrize(("bound", "push"), [(0.001, -5.0), (0.5, 5.0)])
def test_temperature_is_held_in_bounds_and_comes_back(bound, push):
    head = Temperature()
    head.log.data += push * 2
    assert abs(float(head.value.detach()) - bound) < 1e-6
    head(torch.tensor([0.3])).sum().backward()
    assert head.log.grad.abs() > 0, "the gradient passes at the bound"
    head.log.data -= 0.1 if push > 0 else -0.1
    assert abs(float(head.value.detach()) / bound - 1) > 0.09, "one step inward is felt at once"


def test_temperature_may_serve_several_losses_of_a_step():
    """A second use in the same step, before the first one's backward, as ITC and ITM do."""
    torch.manual_seed(0)
    head, similarity = Temperature(), torch.randn(B, B)
    first = F.cross_entropy(head(similarity), torch.arange(B))
    second = F.cross_entropy(head(similarity.T), torch.arange(B))
    (first + second).backward()
    assert head.log.grad.isfinite()


@pytest.mark.parametrize("make", [lambda: Projection(dim=D), lambda: Match(dim=D), vocabulary, Temperature])
def test_heads_run_on_meta_and_under_tracing(make):
    head, x = make().eval(), torch.randn(B, L, D)
    traced = torch.jit.trace(head, (x,))
    assert torch.allclose(traced(x.flip(0)), head(x.flip(0)), atol=1e-5)
    shape = traced(x).shape
    assert head.to("meta")(x.to("meta")).shape == shape


def test_unit_has_no_parameters_and_length_1():
    head = Unit()
    assert not list(head.parameters())
    assert torch.allclose(head(torch.tensor([[3.0, 4.0], [0.0, -2.0]])), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    assert head(torch.ones(B, D, dtype=torch.bfloat16)).dtype == torch.float32


def test_lm_head_is_one_matrix():
    torch.manual_seed(0)
    head, x = LanguageModelHead(dim=D, vocabulary=V, embeddings=embeddings()), torch.randn(B, L, D)
    assert [name for name, _ in head.named_parameters()] == ["words.weight"]
    assert torch.allclose(head(x), x @ head.words.weight.T, atol=1e-6)
    shared = embeddings()
    assert LanguageModelHead(tied="decoder", dim=D, vocabulary=V, embeddings=shared).words.weight is shared["decoder"]


def test_classify_is_linear_and_needs_classes():
    torch.manual_seed(0)
    head, x = Classify(dim=D, classes=5), torch.randn(B, D)
    head.linear.bias.data.normal_()
    assert torch.allclose(head(x), x @ head.linear.weight.T + head.linear.bias, atol=1e-6)
    with pytest.raises(ValueError, match="this data has no classes"):
        Classify(dim=D, classes=0)


def test_projection_without_bias_ignores_the_length_of_its_input():
    torch.manual_seed(0)
    head, x = Projection(width=8, bias=False, dim=D), torch.randn(B, D)
    assert head.linear.bias is None
    assert torch.allclose(head(x), head(7 * x), atol=1e-6)
