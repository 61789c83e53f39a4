"""What ``core.load`` asks of plugins: the vocabulary in a folder, and the model made ready for use."""

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
    ready(loaded.model, loaded.device, loaded.precision)
    return Predictor(loaded)


def ready(model: Model, device: torch.device, precision: str) -> None:
    """Pack the linear maps (plugins.inference.packing), save those whose results are wanted in full precision
    whatever it
    is."""
    if precision == "fp32":
        if device.type == "cpu":
            pack(model)
        return
    for name, part in model.named_children():
        if name in ("backbone", "pooler", "text", "fusion", "decoder"):
            pack(part, torch.bfloat16)
    if "words" in model.heads:
        pack(model.heads["words"], torch.bfloat16)
