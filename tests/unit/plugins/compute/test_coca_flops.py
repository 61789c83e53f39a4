"""What CoCa costs, counted three ways by part; and its parameters, none of them twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core import discovery
from core.loading import build_model
from core.model import Model, ModelSpec
from core.recipe import read
from core.types import DataSpec, Text
from plugins.backbones.vit import ViT
from plugins.commands.flops import inference
from plugins.compute import closed_form, dry_run, memory, torch_macs
from plugins.compute.fvcore_macs import PairInference, count
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.heads.lm_head import LanguageModelHead
from plugins.heads.projection import Projection
from plugins.heads.unit import Unit
from plugins.heads.vocabulary import Vocabulary
from plugins.poolers.attentional import AttentionalPoolers
from plugins.poolers.query import QueryPooler
from plugins.poolers.shared import SharedPooler
from plugins.pruners.prune_list import Prune
from plugins.pruners.tpd import TextAwarePatchDetector
from registry.part import Part

COCA = Path(__file__).parents[4] / "projects" / "coca"
PAPER, SMALL = DataSpec(288, 76, 64_000), DataSpec(64, 40, 217)
SIDE, L, V = 64, 9, 50
WIDTH = {"embed_dim": 32, "num_heads": 2}
LOWER = {**WIDTH, "unimodal": 2, "multimodal": 3, "cls": True}
POOLERS = {
    "cascade": Part(AttentionalPoolers, {"queries": 6, "num_heads": 2}),
    "parallel, another width": Part(
        AttentionalPoolers, {"queries": 6, "num_heads": 2, "width": 24, "arrangement": "parallel"}
    ),
    "shared": Part(SharedPooler, {"queries": 6, "num_heads": 2}),
    "one query": Part(QueryPooler, {"num_heads": 2}),
}
DECODERS = {
    "paper": Part(DecoupledDecoder, {**LOWER, "layout": "paper"}),
    "openclip": Part(DecoupledDecoder, {**LOWER, "layout": "openclip"}),
    "legacy mask": Part(DecoupledDecoder, {**LOWER, "layout": "openclip", "mask": "legacy"}),
    "a captioner's": Part(DecoupledDecoder, {**LOWER, "unimodal": 0, "cls": False, "layout": "paper"}),
}
HEADS = {"image": Part(Projection, {"width": 8}), "text": Part(Unit), "words": Part(LanguageModelHead)}


def coca(pooler, decoder, prune=(), words=HEADS["words"]):
    torch.manual_seed(0)
    heads = {**HEADS, "words": words} if decoder.settings["cls"] else {"words": words}
    backbone = Part(
        ViT, {"embed_dim": 48, "num_heads": 2, "depth": 3, "mlp": 4.364, "cls": False, "prune": list(prune)}
    )
    return Model(
        backbone=backbone, pooler=pooler, decoder=decoder, heads=heads, vocabulary=V, text_length=L, image_size=SIDE
    ).eval()


def three_ways(model):
    images, ids = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(1, L, dtype=torch.long)
    text = Text(ids, torch.ones_like(ids, dtype=torch.bool))
    ways = [PairInference(model).count(images, text), PairInference(model).count(images, text, by=torch_macs.count)]
    return [*(way.parts for way in ways), closed_form.of_pair(model, L).parts]


@pytest.mark.parametrize("pooler", POOLERS.values(), ids=POOLERS)
@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_three_ways_agree_on_every_part(pooler, decoder):
    traced, counted, formula = three_ways(coca(pooler, decoder))
    assert traced == counted == formula
    assert all(formula[part] for part in ("backbone", "poolers", "decoder", "heads"))


def test_three_ways_agree_on_a_guided_pruner_and_on_berts_head():
    prune = [Prune(1, Part(TextAwarePatchDetector, {"keep_rate": 0.3}, "tpd", "token pruner"))]
    model = coca(POOLERS["cascade"], DECODERS["paper"], prune, Part(Vocabulary, {"tied": "none"}))
    traced, counted, formula = three_ways(model)
    assert traced == counted == formula
    patches = (SIDE // 16) ** 2
    assert formula["pruner"] == patches * ((48 + 32) * 48 + 48 * 24 + 24 + 48)
    with model.unpruned():
        whole = three_ways(model)
    assert whole[0] == whole[1] == whole[2]
    assert whole[0]["backbone"] > formula["backbone"]
    assert whole[0]["poolers"] > formula["poolers"], "fewer keys"


def test_the_lower_half_is_read_once_for_guide_feature_and_words():
    prune = [Prune(1, Part(TextAwarePatchDetector, {}, "tpd", "token pruner"))]
    model, calls = coca(POOLERS["cascade"], DECODERS["paper"], prune), []
    model.decoder.unimodal[0].register_forward_hook(lambda _, x, y: calls.append(tuple(y.shape)))
    ids = torch.zeros(1, L, dtype=torch.long)
    PairInference(model)(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), ids, torch.ones_like(ids, dtype=torch.bool))
    assert calls == [(1, L + 1, 32)]


def made(name, sizes):
    recipe = read(str(COCA / f"{name}.yaml"), [], discovery.load())
    return dry_run.build_dry_run(recipe, sizes)


@pytest.mark.parametrize(
    ("name", "sizes", "giga"),
    [("pretrain", SMALL, 0.1107), ("with_tpd", SMALL, 0.0983), ("base", PAPER, 46.16), ("large", PAPER, 119.74)],
)
def test_recipes_three_ways(name, sizes, giga):
    report = inference(made(name, sizes))
    assert {way: found["difference"] for way, found in report["checks"].items()} == {"torch": 0, "closed_form": 0}
    assert "uncounted" not in report
    assert report["total"] / 1e9 == pytest.approx(giga, rel=1e-3)
    used = {part for part, macs in report["parts"].items() if macs}
    assert used - {"pruner"} == {"backbone", "poolers", "decoder", "heads"}


def test_the_largest_by_formula_and_torchs_counter_without_memory():
    built = made("2b", PAPER)
    assert built.pair().parts == closed_form.of_pair(built.model, 76).parts
    assert all(p.untyped_storage().device.type == "meta" for p in built.model.parameters())


def test_a_convnet_is_outside_the_closed_form():
    report = inference(made("convnet", SMALL))
    assert report["checks"]["closed_form"] == {"missing": "backbone 'convnet'"}
    assert report["checks"]["torch"]["difference"] == 0


@pytest.mark.parametrize(("name", "tied"), [("base", False), ("2b", True)])
def test_tied_words_count_once_in_parameters_and_memory(name, tied):
    built = made(name, PAPER)
    parts, model = memory.parameters(built.model), built.model
    assert set(parts) == {"backbone", "poolers", "decoder", "heads"}
    words = 64_000 * model.decoder.dim
    assert parts["heads"] == 1 + (0 if tied else words), "the temperature, and the output matrix where it is its own"
    assert sum(parts.values()) == sum(p.numel() for p in set(model.parameters()))
    needed = built.memory(0)
    assert needed["parameters"] == needed["gradients"] == 4 * sum(parts.values())
    assert closed_form.of_pair(model, 76).parts["heads"] == 76 * words, "tied or not, the product is computed"


def test_zeros_without_memory_count_as_a_drawn_model_does():
    recipe = read(str(COCA / "with_tpd.yaml"), [], discovery.load())
    inputs = dry_run.full(SMALL, 1)
    drawn, blank = build_model(recipe.model, ModelSpec.of(SMALL)), dry_run.zero_model(recipe, SMALL)
    assert PairInference(drawn).count(*inputs) == PairInference(blank).count(*inputs)
    assert all(p.untyped_storage().nbytes() == p.element_size() for p in blank.parameters())
    assert count(blank.heads["words"], (torch.zeros(1, 128),)).total == 128 * 217
