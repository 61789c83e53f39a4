"""CoCa from the real parts at toy size, for tests."""

from __future__ import annotations

import small
import torch

from core.model import Model
from plugins.backbones.vit import ViT
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.heads.lm_head import LanguageModelHead
from plugins.heads.temperature import Temperature
from plugins.heads.unit import Unit
from plugins.poolers.attentional import AttentionalPoolers
from registry.part import Part

SOURCE = small.data()


def coca(**decoder):
    torch.manual_seed(0)
    width = {"embed_dim": 32, "num_heads": 2}
    layers = {"unimodal": 2, "multimodal": 2, "layout": "paper", "cls": True, "dropout": 0.0}
    return Model(
        backbone=Part(ViT, {**width, "depth": 2, "patch_size": 16, "cls": False}),
        pooler=Part(AttentionalPoolers, {"queries": 6, "num_heads": 2}),
        decoder=Part(DecoupledDecoder, {**width, **layers, **decoder}),
        heads={
            "image": Part(Unit),
            "text": Part(Unit),
            "temperature": Part(Temperature),
            "words": Part(LanguageModelHead),
        },
        vocabulary=SOURCE.tokenizer.vocabulary,
        text_length=SOURCE.text_length,
        image_size=SOURCE.image_size,
    ).eval()
