"""Defaults of the kinds of part, on the tiny parts."""

from __future__ import annotations

import pytest
import torch
from tiny import DIM, SIDE, TinyBackbone, TinyData, TinyFusion, TinyText

from core.kinds import Backbone, Data, Decoder, Fusion, Head, Pooler, TextEncoder, Tokenizer, TokenPruner
from core.types import BlockCues, DataSpec, Example, Tokens


class First(TokenPruner):
    """Keeps the first patch."""

    def forward(self, tokens, guide, cues):
        return tokens.keep(torch.zeros(len(tokens.x), 1, dtype=torch.long))


@pytest.mark.parametrize("kind", [Backbone, Data, Decoder, Fusion, Head, Pooler, TextEncoder, Tokenizer, TokenPruner])
def test_a_kind_is_abstract(kind):
    with pytest.raises(TypeError, match="abstract"):
        kind()


def test_a_backbone_runs_the_trunk_and_the_later_blocks():
    torch.manual_seed(0)
    backbone = TinyBackbone().eval()
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    result = backbone(images)
    assert torch.equal(result.x, backbone.finish(backbone.trunk(images)).x)
    assert result.x.shape == (2, 17, DIM)
    assert Backbone.score(backbone, backbone.trunk(images)) is None
    assert (backbone.has_pooled, backbone.pruning, backbone.origin) == (True, True, "")


def test_a_pruner_stands_after_a_block_without_a_guide_or_scores():
    pruner, tokens = First(), Tokens(torch.randn(2, 5, DIM), patches=(1, 5))
    assert (pruner.guided, pruner.place) == (False, "after_block")
    assert pruner.score(tokens, None, BlockCues()) is None
    assert torch.equal(pruner(tokens, None, BlockCues()).x, tokens.x[:, :2])


def test_a_fusion_has_no_pruners_and_a_decoder_no_pooled_state():
    fusion, tokens = TinyFusion(), Tokens(torch.randn(2, 5, DIM))
    assert tuple(fusion.pruners) == ()
    assert fusion.score(tokens, tokens) is None
    assert Decoder.pooled_dim({"embed_dim": 8}) == 0
    assert not Decoder.has_pooled
    assert TinyText().embedding.shape[1] == DIM


def test_the_spec_of_data_is_measured_on_one_batch():
    assert TinyData.spec({"withheld": False}, frozenset()) == DataSpec(
        image_size=SIDE, text_length=6, vocabulary=10, masked=1, regions=1, splits=("validation", "test")
    )


def test_defaults_of_data():
    data, image = TinyData(), torch.zeros(3, 1, 1)
    one, other = Example("1", image, "a cat"), Example("2", image, "a dog")
    assert data.references(one) == ("a cat",)
    assert data.describes(one, one)
    assert data.describes(one, Example("3", image, "a cat"))
    assert not data.describes(one, other)
    assert data.verify() == {}
    assert data.labelled_examples("test", 3) == ()
    assert (tuple(data.classes), data.frames) == ((), 0)
