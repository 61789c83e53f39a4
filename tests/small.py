"""COPA from the real parts at toy size, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.model import Model
from core.objectives import Objective, Objectives, Step
from core.types import Batch
from plugins.backbones.vit import ViT
from plugins.data.scenes import Scenes
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.fusion.skip_connected import SkipConnectedFusion
from plugins.heads.classify import Classify
from plugins.heads.match import Match
from plugins.heads.projection import Projection
from plugins.heads.scale_bias import ScaleBias
from plugins.heads.temperature import Temperature
from plugins.heads.vocabulary import Vocabulary
from plugins.objectives.itc import ImageTextContrast
from plugins.objectives.itm import ImageTextMatching
from plugins.objectives.mlm import MaskedLanguageModelling
from plugins.objectives.prefix_lm import PrefixLanguageModelling
from plugins.objectives.pta import PatchTextAlignment
from plugins.pruners.prune_list import Prune
from plugins.pruners.tpd import TextAwarePatchDetector
from plugins.text.bert import BertEncoder
from registry.part import Part

READS = frozenset({"masked", "prefixed", "regions"})
LOSSES: dict[str, type[Objective]] = {
    "itc": ImageTextContrast,
    "itm": ImageTextMatching,
    "mlm": MaskedLanguageModelling,
    "prefix_lm": PrefixLanguageModelling,
    "pta": PatchTextAlignment,
}


def data(**settings: Any) -> Scenes:
    return Scenes(**{"train_size": 200, "region_batch_size": 4, "box_fraction": 0.2, **settings})


def copa(source: Scenes, *, guide: str = "leak_free", prune: list[Prune] | None = None, depth: int = 3) -> Model:
    """ViT 32 wide with a detector after block 1 of ``depth``; seeded, in eval mode."""
    torch.manual_seed(0)
    if prune is None:
        prune = [Prune(1, Part(TextAwarePatchDetector, name="tpd", kind="token pruner"))]
    width = {"embed_dim": 32, "num_heads": 2}
    return Model(
        backbone=Part(ViT, {**width, "depth": depth, "patch_size": 16, "prune": prune}),
        text=Part(BertEncoder, {**width, "layers": 1, "dropout": 0.0}),
        fusion=Part(SkipConnectedFusion, {"layers": 4, "num_heads": 2, "dropout": 0.0}),
        decoder=Part(DecoupledDecoder, {**width, "multimodal": 1, "dropout": 0.0}),
        heads={
            "image": Part(Projection, {"width": 16}),
            "text": Part(Projection, {"width": 16}),
            "temperature": Part(Temperature),
            "sigmoid": Part(ScaleBias),
            "match": Part(Match),
            "classify": Part(Classify),
            "words": Part(Vocabulary),
        },
        guide=guide,
        vocabulary=source.tokenizer.vocabulary,
        text_length=source.text_length,
        image_size=source.image_size,
        classes=len(source.classes),
    ).eval()


def objectives(model: Model, *names: str, **weights: float) -> Objectives:
    names = names or tuple(LOSSES)
    parts = {name: Part(LOSSES[name], name=name, kind="objective")() for name in names}
    return Objectives(model, parts, {name: weights.get(name, 1.0) for name in names})


def batch(source: Scenes, size: int = 6) -> Batch:
    return source.batch(0, size=size, seed=0, reads=READS)


def similarity(step: Step) -> Tensor:
    """Cosines of every picture (down) with every caption (across), (B, B)."""
    image, text = (step.model.heads[name](of.pooled) for name, of in (("image", step.image), ("text", step.text)))
    return image @ text.T
