"""Patchbay at the same work: ``python worker_ours.py FOLDER``. What is asked is in serving.py and worker_peer.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from serving import measured, serve, timed, training_step

from core.loading import load_model
from core.objectives import Objectives
from core.settings import TrainSettings
from core.training.optimizer import make_optimizer
from core.types import Batch, Text
from plugins.compute.torch_macs import counter, macs
from plugins.generation.generate import generate
from plugins.generation.settings import GeneratedText, Generation
from plugins.inference.packing import PackedLinear, pack
from plugins.objectives.caption import Captioning
from plugins.objectives.itc import ImageTextContrast
from plugins.text.tokenizer import load_tokenizer


class Ours:
    def __init__(self, folder: Path):
        self.job, ours = load_file(folder / "job.safetensors"), str(folder / "ours")
        self.model, sizes = load_model(ours)
        self.tokenizer = load_tokenizer(ours, sizes.text_length)
        self.step: Callable[[], float] | None = None

    def write(self, count: int, length: int, beams: int) -> list[GeneratedText]:
        """Texts of ``length`` tokens, start and end included."""
        images, start = self.job["images"][:count], torch.full((count, 1), self.tokenizer.cls)
        how = Generation(
            mode="greedy" if beams == 1 else "beam", beams=beams, max_length=length - 1, min_length=length - 2
        )
        model = self.model.eval()
        memory = model.encode_image(model.trunk(images))
        ends = {"end": self.tokenizer.sep, "pad": self.tokenizer.pad}
        return generate(model.decoder, model.heads["words"], memory, Text(start, start >= 0), how, **ends)

    @torch.no_grad()
    def generate(self, count: int, length: int, beams: int) -> dict[str, Any]:
        seconds, written = timed(partial(self.write, count, length, beams))
        return {"seconds": seconds, "ids": [list(text.ids[: length - 2]) for text in written]}

    @torch.no_grad()
    def macs(self, length: int) -> dict[str, Any]:
        with counter() as whole:
            written = self.generate(1, length, 1)
        with counter() as encoding:
            self.model.encode_image(self.model.trunk(self.job["images"][:1]))
        return {**written, "macs": macs(whole) - macs(encoding)}

    @torch.no_grad()
    def floor(self, length: int) -> dict[str, Any]:
        """Bytes of weights that each word of one picture reads, seconds a word, and the memory's bytes a second."""
        model = self.model
        read = [*model.decoder.unimodal, *model.decoder.multimodal, model.heads["words"]]
        once = ("cross.key", "cross.value")  # of the picture, before the first word
        parts = [part for module in read for name, part in module.named_modules() if not name.endswith(once)]
        weights = sum(part.bytes for part in parts if isinstance(part, PackedLinear))
        encoding, _ = timed(
            lambda: model.decoder.start_decoding(model.encode_image(model.trunk(self.job["images"][:1])), length)
        )
        writing, _ = timed(partial(self.write, 1, length, 1))
        big = torch.ones(2**27)  # half a gigabyte
        best = min(timed(big.sum)[0] for _ in range(5))
        return {"weights": weights, "step": (writing - encoding) / (length - 1), "bandwidth": big.nbytes / best}

    def pack(self, bf16: bool) -> dict[str, Any]:
        pack(self.model, torch.bfloat16 if bf16 else torch.float32)
        return {}

    def train(self, text: str, bf16: bool, optimizer: Literal["adamw", "adafactor"]) -> dict[str, Any]:
        if self.step is None:
            parts, weights = {"itc": ImageTextContrast(), "caption": Captioning()}, {"itc": 1.0, "caption": 2.0}
            objectives = Objectives(self.model, parts, weights).train()
            ids = self.job[f"{text} ids"]
            mask = ids != 0
            words = Text(ids, mask).map(lambda t: t[:, : int(mask.sum(1).max())])
            batch = Batch(self.job["images"][: len(ids)], words)
            settings = TrainSettings(optimizer=optimizer, lr=1e-4, weight_decay=0.1)
            made = make_optimizer(objectives, settings, torch.device("cpu"))
            self.step = training_step(lambda: objectives(batch)[0], made, bf16)
        return measured(self.step)


if __name__ == "__main__":
    worker = Ours(Path(sys.argv[1]))
    serve(generate=worker.generate, macs=worker.macs, floor=worker.floor, pack=worker.pack, train=worker.train)
