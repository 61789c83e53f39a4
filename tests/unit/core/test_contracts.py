"""Every registered part holds its kind's contract: registering a part is what gets it tested."""

from __future__ import annotations

import pytest
import small
import torch

from core import contracts
from core.discovery import load
from core.kinds import Backbone, Data, Decoder, Fusion, Head, Pooler, TextEncoder, TokenPruner
from core.objectives import Objective
from core.types import Tokens
from plugins.pruners.prune_list import Prune
from registry.part import Part

CATALOG = load()
OBJECTIVES_DATA = small.data(labelled=0.5)
OBJECTIVES_BATCH = OBJECTIVES_DATA.batch(0, size=6, seed=0, reads=small.READS | {"labels"})
SMALL = {
    "vit": {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8},
    "bert": {"embed_dim": 32, "layers": 2, "num_heads": 2},
    "skip_connected": {"num_heads": 2},
    "single_stream": {"num_heads": 2, "layers": 3},
    "decoupled": {"embed_dim": 32, "multimodal": 2, "num_heads": 2},
    "itc_momentum": {"queue": 32},
    "attentional": {"queries": 5, "num_heads": 2},
    "query": {"num_heads": 2},
    "convnet": {"net": "test_convnext2"},
}


def parts(kind: type) -> list[pytest.param]:
    registry = CATALOG.registries[kind]
    return [
        pytest.param(Part(registry[name].cls, SMALL.get(name, {}), name, registry.kind), id=name) for name in registry
    ]


@pytest.mark.parametrize("part", parts(TokenPruner))
def test_pruner(part):
    contracts.check_pruner(part)


@pytest.mark.parametrize("part", parts(Backbone))
def test_backbone(part):
    contracts.check_backbone(part)


@pytest.mark.parametrize("part", parts(Pooler))
@pytest.mark.parametrize("width", [0, 16])
def test_pooler(part, width):
    contracts.check_pooler(Part(part.cls, {**part.settings, "width": width}))


def test_parallel_poolers():
    settings = {**SMALL["attentional"], "arrangement": "parallel", "width": 16}
    contracts.check_pooler(Part(CATALOG.registries[Pooler]["attentional"].cls, settings))


@pytest.mark.parametrize("part", parts(TextEncoder))
def test_text_encoder(part):
    contracts.check_text_encoder(part)


@pytest.mark.parametrize("part", parts(Fusion))
def test_fusion(part):
    contracts.check_fusion(part)


@pytest.mark.parametrize("part", parts(Fusion))
def test_hidden_picture_tokens_change_nothing(part):
    torch.manual_seed(0)
    fusion = part(dim=32, image_dim=32).eval()
    x, mask = torch.randn(2, 10, 32), torch.arange(10).expand(2, -1) < 8
    words = Tokens(torch.randn(2, 5, 32))
    one, other = (
        fusion(words, Tokens(states, mask=mask, patches=(1, 10)))
        for states in (x, torch.where(mask[..., None], x, torch.randn_like(x)))
    )
    torch.testing.assert_close(one.text.x, other.text.x)
    assert torch.equal(one.image.mask, mask)


def test_a_hidden_patch_stays_hidden_when_it_is_kept():
    tokens = Tokens(torch.randn(1, 6, 4), mask=torch.tensor([[True, True, False, True, False, True]]), patches=(1, 5))
    kept = tokens.keep(torch.tensor([[1, 2]]), fused=torch.zeros(1, 1, 4))
    assert kept.mask.tolist() == [[True, False, True, True, True]]  # [CLS], two patches, the fused token, the last


@pytest.mark.parametrize("place", [1, 3])
@pytest.mark.parametrize("pruner", list(CATALOG.registries[TokenPruner]))
def test_single_stream_with_every_pruner(pruner, place):
    pruners, fusions = CATALOG.registries[TokenPruner], CATALOG.registries[Fusion]
    if pruner == "random":
        pytest.skip("no two passes of it are equal")
    prune = [Prune(place, Part(pruners[pruner].cls, {"keep_rate": 0.4}, pruner, "token pruner"))]
    settings = {**SMALL["single_stream"], "prune": prune}
    contracts.check_fusion(Part(fusions["single_stream"].cls, settings))


@pytest.mark.parametrize("part", parts(Decoder))
@pytest.mark.parametrize("layout", ["bert", "paper"])
def test_decoder(part, layout):
    contracts.check_decoder(Part(part.cls, {**part.settings, "unimodal": 1, "layout": layout}))


@pytest.mark.parametrize("part", parts(Head))
def test_head(part):
    contracts.check_head(part)


@pytest.mark.parametrize("part", [p for p in parts(Data) if p.id in ("scenes", "clips")])
def test_data(part):
    contracts.check_data(Part(part.cls, {"train_size": 500})())


@pytest.mark.parametrize("part", parts(Objective))
def test_objective(part):
    contracts.check_objective(part(), small.copa(OBJECTIVES_DATA), OBJECTIVES_BATCH)


class _Loss(Objective):
    is_contrastive = True

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def forward(self, step):
        """The loss, any shape."""
        return self.compute(step)


@pytest.mark.parametrize(
    ("compute", "problem"),
    [
        (lambda step: step.image.pooled, "a finite scalar"),
        (lambda step: step.image.pooled.sum() / 0, "a finite scalar"),
        (lambda step: step.image.pooled.detach().sum() + step.model.null_guide.sum() * 0, "no gradient reaches"),
        (lambda step: step.image.x.mean().sin() + step.text.pooled.mean(), "other gradients"),
    ],
)
def test_what_is_wrong_with_an_objective(compute, problem):
    with pytest.raises(AssertionError, match=problem):
        contracts.check_objective(_Loss(compute), small.copa(OBJECTIVES_DATA), OBJECTIVES_BATCH)


class _Bad(TokenPruner):
    def forward(self, tokens, guide, cues):
        return Tokens(tokens.x[:, :3], patches=(1, 3), source=torch.zeros(len(tokens.x), 2, dtype=torch.long))


def test_a_contract_can_fail():
    with pytest.raises(AssertionError, match="twice"):
        contracts.check_pruner(Part(_Bad))
