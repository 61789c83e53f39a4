"""Hooks of ``core.load``: read the vocabulary in a folder, and prepare the model for inference."""

from __future__ import annotations

import torch

from core.hookspecs import hookimpl
from core.kinds import Tokenizer
from core.model import LoadedModel, Model
from plugins.inference.packing import pack
from plugins.inference.predictor import Predictor
from plugins.text.tokenizer import load_tokenizer


@hookimpl(trylast=True)
def read_tokenizer(folder: str, length: int) -> Tokenizer:
    return load_tokenizer(folder, length)


@hookimpl(trylast=True)
def wrap_loaded_model(loaded: LoadedModel) -> Predictor:
    prepare_for_inference(loaded.model, loaded.device, loaded.precision)
    return Predictor(loaded)


def prepare_for_inference(model: Model, device: torch.device, precision: str) -> None:
    """Pack linear layers (plugins.inference.packing), except those of heads whose results stay in float32."""
    if precision == "fp32":
        if device.type == "cpu":
            pack(model)
        return
    for name, part in model.named_children():
        if name in ("backbone", "pooler", "text", "fusion", "decoder"):
            pack(part, torch.bfloat16)
    if "words" in model.heads:
        pack(model.heads["words"], torch.bfloat16)
