"""Pruned against unpruned: COPA at the paper's sizes at three resolutions, and at its default size."""

from __future__ import annotations

import math

import pytest
import torch

from bench.measure import ROUNDS, Row, copas_blocks, spread, traffic
from core.model import Model
from core.types import Text
from plugins.backbones.vit import ViT
from plugins.compute.fvcore_macs import PairInference
from plugins.fusion.skip_connected import SkipConnectedFusion
from plugins.pruners.prune_list import Prune
from plugins.pruners.tpd import TextAwarePatchDetector
from plugins.text.bert import BertEncoder
from registry.part import Part

DIM, WORDS, PATCH, AFTER, KEEP = 768, 25, 16, 6, 0.5
BATCH = 2 if ROUNDS else 1
ALWAYS_TRAINED = 224  # more pixels take too long for every run of the tests


@pytest.fixture(scope="module")
def base():
    """ViT-B/16 with the detector after block 6, BERT-base's first six layers, mPLUG's fusion."""
    torch.manual_seed(0)
    return Model(
        backbone=Part(
            ViT, {"patch_size": PATCH, "prune": [Prune(AFTER, Part(TextAwarePatchDetector, {"keep_rate": KEEP}))]}
        ),
        text=Part(BertEncoder, {"layers": 6}),
        fusion=Part(SkipConnectedFusion, {"layers": 6, "stride": 3}),
        vocabulary=30522,
        text_length=WORDS,
        image_size=384,
    )


def tokens(side):
    """Patches, and the sequence's length before and after the detector: [CLS], the kept half, the fused one."""
    patches = (side // PATCH) ** 2
    return patches, 1 + patches, 1 + math.ceil(KEEP * patches) + 1


def closed_form(side, pruned):
    """MACs by part of one picture with 25 words."""
    patches, before, after = tokens(side)
    if not pruned:
        after = before

    def block(n):
        return 12 * n * DIM**2 + 2 * n**2 * DIM

    cross = 2 * WORDS * DIM**2 + 2 * after * DIM**2 + 2 * WORDS * after * DIM
    scored = patches * (2 * DIM * DIM + DIM * DIM // 2 + DIM // 2 + DIM)  # three linear layers and the fused token
    return {
        "backbone": patches * 3 * PATCH**2 * DIM + AFTER * block(before) + (12 - AFTER) * block(after),
        "pruner": scored if pruned else 0,
        "text": 6 * block(WORDS),
        "fusion": 5 * (block(WORDS) + cross) + block(after + WORDS),
        "decoder": 0,
        "heads": 0,
    }


@pytest.mark.parametrize("side", [224, 256, 384])
def test_resolution(base, add_row, side):
    base.backbone.vit.set_input_size(img_size=side)  # one model for all, since making it takes seconds
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)
    text = Text(torch.randint(5, 30000, (BATCH, WORDS)), torch.ones(BATCH, WORDS, dtype=torch.bool))
    pair = PairInference(base.eval())

    with traffic(copas_blocks(base)) as seen:
        pruned = pair.count(images[:1], text.rows(slice(0, 1)))
    with base.unpruned():
        unpruned = pair.count(images[:1], text.rows(slice(0, 1)))
    assert pruned.parts == closed_form(side, pruned=True)
    assert unpruned.parts == closed_form(side, pruned=False)
    _, before, after = tokens(side)
    lengths = {"trunk": before, "finish": after, "text": WORDS, "fusion": WORDS, "connected": after + WORDS}
    assert seen == {block: [(1, n)] for block, n in lengths.items()}

    def forward():
        with torch.no_grad():
            pair(images, text.ids, text.mask)

    def train():  # gradients add up, as over the batches of one step
        pair(images, text.ids, text.mask)[0].sum().backward()

    taken = spread(base, forward, ROUNDS or 2)
    trained = "(PATCHBAY_BENCH_ROUNDS is not set)"
    if ROUNDS or side == ALWAYS_TRAINED:
        base.train()
        trained = spread(base, train, ROUNDS or 1)
        base.zero_grad(set_to_none=True)
    add_row(Row(f"ViT-B/16, {side} px, batch {BATCH}", pruned.total, unpruned.total, taken, trained))


def test_default_size(copa, add_row):
    """Here training is a whole step with all objectives, of which only a part is pruned."""
    built, batch = copa
    pair = PairInference(built.model.eval())
    pruned = pair.count(batch.images[:1], batch.text.rows(slice(0, 1))).total
    with built.model.unpruned():
        unpruned = pair.count(batch.images[:1], batch.text.rows(slice(0, 1))).total
    assert pruned < 0.9 * unpruned

    def forward():
        with torch.no_grad():
            pair(batch.images, batch.text.ids, batch.text.mask)

    taken = spread(built.model, forward, ROUNDS or 5)
    built.objectives.train()

    def train():
        built.objectives(batch)[0].backward()

    trained = spread(built.model, train, ROUNDS or 5)
    built.objectives.zero_grad(set_to_none=True)
    add_row(Row(f"default recipe, 64 px, batch {len(batch.images)}", pruned, unpruned, taken, trained))
