"""MACs against closed forms and against torch's own counter."""

import json
from pathlib import Path

import pytest
import small
import timm
import torch
from tiny import DIM, TinyData, tiny_model
from torch import nn

from core import cli, discovery
from core.model import Model
from core.recipe import read
from core.types import DataSpec, Text
from plugins.backbones.vit import ViT
from plugins.commands.flops import flops, inference, timm_flops
from plugins.compute import closed_form, dry_run, torch_macs
from plugins.compute.fvcore_macs import PairInference, count
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.fusion.single_stream import SingleStreamFusion
from plugins.fusion.skip_connected import SkipConnectedFusion
from plugins.pruners.evit import AttentivePruner
from plugins.pruners.prune_list import Prune
from plugins.pruners.random import RandomPruner
from plugins.pruners.tpd import TextAwarePatchDetector
from plugins.text.bert import BertEncoder
from registry.part import Part

COPA = Path(__file__).parents[4] / "projects" / "copa"


def vit_macs(side, patch, dim, depth, ratio=4):
    """A ViT with one [CLS]: 4 N d^2 for the attention's projections, 2 r N d^2 for the MLP, 2 N^2 d for attention."""
    patches = (side // patch) ** 2
    n = patches + 1
    return patches * 3 * patch**2 * dim + depth * ((4 + 2 * ratio) * n * dim**2 + 2 * n**2 * dim)


@pytest.mark.parametrize("fused", [True, False])
def test_small_vit(fused):
    vit = timm.models.VisionTransformer(img_size=48, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=0)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    counted = count(vit, (torch.zeros(2, 3, 48, 48),))
    assert counted.total == 2 * vit_macs(48, 8, 64, 3)
    assert not counted.uncounted


def test_vit_b_16():
    vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    attention, mlp = [b.attn for b in vit.blocks], [b.mlp for b in vit.blocks]
    counted = count(vit, (torch.zeros(1, 3, 224, 224),), {"attention": attention, "mlp": mlp})
    assert counted.total == vit_macs(224, 16, 768, 12)
    assert counted.total / 1e9 == pytest.approx(17.56, abs=0.005)
    assert counted.parts == {
        "attention": 12 * (4 * 197 * 768**2 + 2 * 197**2 * 768),
        "mlp": 12 * 8 * 197 * 768**2,
        "other": 196 * 768**2,
    }


class Attend(nn.Module):
    def forward(self, query, key, value):
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_fused_attention_of_unequal_lengths_and_widths():
    shapes = (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)  # (B, H, N, d), (B, H, M, d), (B, H, M, e)
    assert count(Attend(), tuple(torch.zeros(s) for s in shapes)).total == 2 * 3 * 5 * 7 * (8 + 6)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.matmul, [(4, 5), (5, 6)], 4 * 5 * 6),
        (torch.matmul, [(4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),  # broadcast over the second's batch
        (torch.matmul, [(2, 4, 5), (5,)], 2 * 4 * 5),
        (torch.matmul, [(5,), (5, 6)], 5 * 6),
        (torch.bmm, [(3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),
        (torch.baddbmm, [(3, 4, 6), (3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),
        (torch.addmm, [(6,), (4, 5), (5, 6)], 4 * 5 * 6),
        (lambda a, b: torch.einsum("bnd,bmd->bnm", a, b), [(3, 4, 5), (3, 7, 5)], 3 * 4 * 7 * 5),
        (lambda a, b: torch.einsum("bhnd,hde->bne", a, b), [(3, 2, 4, 5), (2, 5, 7)], 3 * 2 * 4 * 5 * 7),
        (lambda a: nn.functional.gelu(nn.functional.layer_norm(a, (8,))).softmax(-1) + a, [(4, 8)], 0),
    ],
)
def test_handles(function, shapes, macs):
    counted = count(Call(function), tuple(torch.ones(shape) for shape in shapes))
    assert (counted.total, counted.uncounted) == (macs, {})


def test_convolutions_and_groups():
    for groups in (1, 4):
        conv = nn.Conv2d(8, 16, 3, padding=1, groups=groups)
        assert count(conv, (torch.zeros(2, 8, 10, 10),)).total == 2 * 16 * 8 * 9 * 100 // groups


def test_torchs_multihead_attention_is_not_hidden_in_one_kernel():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    counted = count(layer, (torch.zeros(2, 10, 32),))
    assert counted.total == 2 * (4 * 10 * 32**2 + 2 * 10 * 32 * 64 + 2 * 10**2 * 32)
    assert not counted.uncounted
    assert layer.training


def test_an_operation_of_unknown_cost_is_reported():
    counted = count(Call(lambda a: torch.fft.fft(a).real + torch.cdist(a, a).sum()), (torch.ones(4, 8),))
    assert {"aten::fft_fft", "aten::cdist"} <= set(counted.uncounted)


def pair_inputs():
    batch = TinyData().batch(0, size=2, seed=0, reads=frozenset())
    return batch.images, batch.text


def test_parts_of_a_pair_sum_to_the_total_and_hold_their_own():
    model = tiny_model()
    counted = PairInference(model).count(*pair_inputs())
    assert sum(counted.parts.values()) == counted.total
    assert set(counted.parts) == {"backbone", "pruner", "text", "fusion", "decoder", "heads"}
    assert not counted.uncounted
    words = 2 * 6 * DIM**2  # two texts of six tokens, one linear layer
    assert counted.parts["text"] == counted.parts["fusion"] == words
    scoring = 16 * (2 * DIM * DIM + DIM * DIM // 2 + DIM // 2)
    fusing = 16 * DIM
    assert counted.parts["pruner"] == 2 * (scoring + fusing)
    first, later = (n * (4 * DIM**2) + 2 * n**2 * DIM for n in (17, 10))  # [CLS], 8 kept, 1 fused
    assert counted.parts["backbone"] == 2 * (16 * 192 * DIM + first + 2 * later)
    assert counted.parts["decoder"] == counted.parts["heads"] == 0


def test_unpruned_costs_more_and_none_of_the_pruner():
    model = tiny_model()
    with model.unpruned():
        whole = PairInference(model).count(*pair_inputs())
    assert whole.parts["pruner"] == 0
    assert whole.parts["backbone"] == 2 * (16 * 192 * DIM + 3 * (17 * 4 * DIM**2 + 2 * 17**2 * DIM))


def test_the_same_in_training_under_autocast_and_by_torchs_counter():
    model = tiny_model().train()
    images, text = pair_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        counted = PairInference(model).count(images, text)
    assert model.training
    assert counted == PairInference(model.eval()).count(images, text)
    assert counted == PairInference(model).count(images, text, by=torch_macs.count)


def pruning(cls, after, **settings):
    return Prune(after, Part(cls, settings, cls.__name__, "token pruner"))


def three_ways(model, side, length, pairs=1):
    """MACs by part of the model as it is: fvcore, torch's counter, closed form."""
    images, ids = torch.zeros(pairs, 3, side, side, dtype=torch.uint8), torch.zeros(pairs, length, dtype=torch.long)
    text = Text(ids, torch.ones_like(ids, dtype=torch.bool))
    ways = [PairInference(model).count(images, text), PairInference(model).count(images, text, by=torch_macs.count)]
    return [*(way.parts for way in ways), closed_form.of_pair(model, length).parts]


SOURCE = small.data()
KEEPS = (0.1, 0.3, 0.5, 0.7, 1.0)
PRUNED = {
    **{
        f"tpd after {k}, keep {keep}": [pruning(TextAwarePatchDetector, k, keep_rate=keep)]
        for k in (1, 2)
        for keep in KEEPS
    },
    "tpd at the end": [pruning(TextAwarePatchDetector, 3)],
    "nothing fused": [pruning(TextAwarePatchDetector, 2, fuse="none")],
    "random": [pruning(RandomPruner, 2, keep_rate=0.3)],
    "evit": [pruning(AttentivePruner, 1, keep_rate=0.6)],
    "evit, nothing fused": [pruning(AttentivePruner, 2, keep_rate=0.6, fuse=False)],
    "three": [
        pruning(AttentivePruner, 1, keep_rate=0.7),
        pruning(TextAwarePatchDetector, 2, keep_rate=0.6),
        pruning(RandomPruner, 3, keep_rate=0.5),
    ],
    "none": [],
}


@pytest.mark.parametrize("prune", PRUNED.values(), ids=PRUNED)
def test_three_ways_agree_on_every_part(prune):
    model = small.copa(SOURCE, prune=prune)
    traced, counted, formula = three_ways(model, SOURCE.image_size, 7)
    assert traced == counted == formula
    with model.unpruned():
        traced, counted, formula = three_ways(model, SOURCE.image_size, 7)
    assert traced == counted == formula
    assert formula["pruner"] == 0


def assembled(**parts):
    """A model of these slots on pictures of 64 pixels."""
    torch.manual_seed(0)
    return Model(**parts, vocabulary=50, text_length=9, image_size=64).eval()


WIDTH = {"embed_dim": 32, "num_heads": 2}
TEXT = Part(BertEncoder, {**WIDTH, "layers": 2})
OTHERS = {
    "single stream": {
        "backbone": Part(ViT, {"embed_dim": 48, "num_heads": 2, "depth": 0, "stem": "conv", "patch_size": 8}),
        "text": Part(BertEncoder, {**WIDTH, "layers": 0}),
        "fusion": Part(
            SingleStreamFusion,
            {"layers": 4, "num_heads": 2, "prune": [pruning(TextAwarePatchDetector, 2), pruning(AttentivePruner, 4)]},
        ),
    },
    "another width": {
        "backbone": Part(ViT, {"embed_dim": 48, "num_heads": 2, "depth": 2, "style": "clip"}),
        "text": TEXT,
        "fusion": Part(SkipConnectedFusion, {"layers": 5, "stride": 2, "num_heads": 2}),
    },
    "decoder in the fusion's place": {
        "backbone": Part(ViT, {"embed_dim": 48, "num_heads": 2, "depth": 2, "prune": [pruning(RandomPruner, 1)]}),
        "decoder": Part(DecoupledDecoder, {**WIDTH, "unimodal": 2, "multimodal": 3, "layout": "paper"}),
    },
    "pictures alone": {"backbone": Part(ViT, {**WIDTH, "depth": 2})},
    "apart": {
        "backbone": Part(ViT, {**WIDTH, "depth": 2, "prune": [pruning(TextAwarePatchDetector, 1)]}),
        "text": TEXT,
    },
}


@pytest.mark.parametrize("parts", OTHERS.values(), ids=OTHERS)
def test_three_ways_agree_on_other_assemblies(parts):
    traced, counted, formula = three_ways(assembled(**parts), 64, 9)
    assert traced == counted == formula
    assert sum(formula.values()) > 0


def test_a_foreign_part_has_no_closed_form():
    with pytest.raises(closed_form.NoFormula, match="TinyBackbone"):
        closed_form.of_pair(tiny_model(), 6)
    with pytest.raises(closed_form.NoFormula, match="Everything"):
        closed_form.of_pair(small.copa(SOURCE, prune=[pruning(Everything, 1)]), 6)


class Everything(RandomPruner):
    """A pruner of somebody else's that keeps every patch."""

    def forward(self, tokens, guide, cues):
        return tokens


# The analytic table of the facts that COPA was built from, in G-MACs: side, keep, then after block 2, 4, 6, 8, 10.
TABLE = [
    (256, 0.1, (9.0, 12.5, 15.9, 19.3, 22.8)),
    (256, 0.3, (13.4, 16.1, 18.8, 21.5, 24.2)),
    (256, 0.5, (17.9, 19.8, 21.8, 23.7, 25.7)),
    (256, 0.7, (22.4, 23.6, 24.8, 25.9, 27.1)),
    (384, 0.3, (27.9, 34.5, 41.1, 47.7, 54.4)),
    (384, 0.5, (38.5, 43.3, 48.1, 52.9, 57.8)),
]


def copa_base(side, *prune):
    """COPA-base without decoder and heads; shapes only."""
    with torch.device("meta"):
        return Model(
            backbone=Part(ViT, {"prune": prune}),
            text=Part(BertEncoder, {}),
            fusion=Part(SkipConnectedFusion, {}),
            vocabulary=100,
            text_length=25,
            image_size=side,
        )


@pytest.mark.parametrize(("side", "keep", "cells"), TABLE)
def test_closed_form_over_keep_and_place(side, keep, cells):
    for after, cell in zip((2, 4, 6, 8, 10), cells, strict=True):
        model = copa_base(side, pruning(TextAwarePatchDetector, after, keep_rate=keep))
        assert closed_form.of_pair(model, 25).total / 1e9 == pytest.approx(cell, rel=0.01), after


@pytest.mark.parametrize(("side", "cell"), [(256, 29.0), (384, 65.9)])
def test_closed_form_unpruned(side, cell):
    assert closed_form.of_pair(copa_base(side), 25).total / 1e9 == pytest.approx(cell, rel=0.01)


def test_copa_base_three_ways():
    """The recipe's own model: fvcore, torch's counter and the closed form within 0.01 %, pruned and unpruned."""
    recipe = read(str(COPA / "pretrain_4m.yaml"), [], discovery.load())
    report = inference(dry_run.build_dry_run(recipe, DataSpec(256, 25, 30522)))
    assert {key: found["difference"] <= 1e-4 for key, found in report["checks"].items()} == {
        "torch": True,
        "closed_form": True,
    }
    assert report["total"] / 1e9 == pytest.approx(21.76, abs=0.005)
    assert report["unpruned"] / 1e9 == pytest.approx(28.98, abs=0.005)
    assert report["total"] == sum(report["parts"].values())
    assert report["parts"]["pruner"] == 256 * (1536 * 768 + 768 * 384 + 384 + 768)


def test_training_step_of_a_linear_chain():
    """Backward costs twice the forward but for the first layer, whose input needs no gradient."""
    layers = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    with torch_macs.counter() as forward:
        loss = layers(torch.zeros(10, 8)).sum()
    with torch_macs.counter() as backward:
        loss.backward()
    assert torch_macs.macs(forward) == 10 * (8 * 16 + 16 * 4)
    assert torch_macs.macs(backward) == 10 * (8 * 16 + 2 * 16 * 4)


def test_attention_backward_of_the_fused_kernel():
    query, key = (torch.zeros(2, 3, n, 8, requires_grad=True) for n in (5, 7))
    with torch_macs.counter() as backward:
        nn.functional.scaled_dot_product_attention(query, key, key).sum().backward()
    assert torch_macs.macs(backward) == 2 * 3 * 5 * 7 * 8 * (2 + 5)  # two products forwards, five backwards


LITTLE = ["train.batch=4", "train.gradient_accumulation_steps=2", "data.train_size=100", "data.region_batch_size=4"]


def test_report_of_a_recipe(capsys):
    report = flops(str(COPA / "pretrain.yaml"), LITTLE)
    assert set(report) == {
        *("total", "unpruned", "parts", "unpruned_parts", "image_size", "text_length", "checks", "training")
    }
    training = report["training"]
    assert training["pictures"] == 8
    assert training["total"] == training["forward"] + training["backward"] == 8 * training["per_picture"]
    assert set(training["losses_alone"]) == {"itc", "itm", "mlm", "prefix_lm", "pta"}
    assert max(training["losses_alone"].values()) < training["total"] < sum(training["losses_alone"].values())


def test_verb_prints_a_table_or_json(capsys):
    assert cli.main(["flops", "timm:vit_base_patch16_224"]) == 0
    said = capsys.readouterr().out
    assert "total        17.56 G" in said
    assert "torch's counter  17,563,828,224  off by 0.0000 %" in said
    assert "are not counted" in said
    assert cli.main(["flops", "timm:vit_tiny_patch16_224", "--image-size", "64", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["total"] == vit_macs(64, 16, 192, 12) + 192 * 1000 == sum(report["parts"].values())
    assert report["checks"]["torch"] == {"total": report["total"], "difference": 0.0}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["timm:vit_bas_patch16_224"], "timm has no such model. Did you mean 'vit_base_patch16_224'"),
        (["timm:vit_tiny_patch16_224", "a=1"], "timm:vit_tiny_patch16_224 has no settings to override: a=1"),
        ([str(COPA / "pretrain.yaml"), "--image-size", "96"], "a recipe takes data.image_size=N"),
        ([str(COPA / "pretrain.yaml"), "model.backbone.dept=3"], "Did you mean 'depth'"),
    ],
)
def test_verb_refuses_in_words(call, said, capsys):
    assert cli.main(["flops", *call]) == 2
    assert said in capsys.readouterr().err


def test_timm_models_other_than_vits():
    report = timm_flops("resnet18", 64)
    assert report["total"] == report["checks"]["torch"]["total"]
    assert report["image_size"] == 64


@pytest.mark.parametrize(("name", "prunes"), [("coca/pretrain", False), ("copa/mplug", False), ("copa/pretrain", True)])
def test_an_unpruned_model_has_one_column_of_macs(name, prunes, capsys):
    assert cli.main(["flops", name, "train.batch=2"]) == 0
    printed = capsys.readouterr().out
    assert ("unpruned" in printed) is prunes
    table = printed.partition("Total by each counter")[0].splitlines()
    (total,) = (line for line in table if line.split()[:1] == ["total"])
    assert len(total.split()) == (5 if prunes else 3)  # a number and its unit a column
