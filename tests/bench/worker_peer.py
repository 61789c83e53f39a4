"""open_clip 3.3.0 at its work: ``python worker_peer.py FOLDER``, in its own environment."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.loss import CoCaLoss
from safetensors.torch import load_file, save_file
from serving import measured, serve, timed, training_step
from torch.utils.flop_counter import FlopCounterMode

NAME = "coca_ViT-B-32"
COLOURS = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


class Peer:
    def __init__(self, folder: Path):
        logging.disable()
        torch.manual_seed(0)
        self.folder, self.model = folder, open_clip.create_model(NAME)
        self.step: Callable[[], float] | None = None
        if (folder / "peer.safetensors").exists():
            self.model.load_state_dict(load_file(folder / "peer.safetensors"))

    def make(self) -> dict[str, Any]:
        """Random weights, the vocabulary's head, which 3.3.0 leaves at zero, included."""
        head = self.model.text_decoder.text_projection
        torch.nn.init.normal_(head, std=head.shape[0] ** -0.5)
        save_file(self.model.state_dict(), self.folder / "peer.safetensors")
        return {"vocabulary": open_clip.tokenizer.default_bpe()}

    def images(self, count: int) -> torch.Tensor:
        mean, deviation = (torch.tensor(colour).view(1, 3, 1, 1) for colour in COLOURS)
        return (load_file(self.folder / "job.safetensors")["images"][:count] / 255 - mean) / deviation

    @torch.no_grad()
    def generate(self, count: int, length: int, beams: int) -> dict[str, Any]:
        kind = {"generation_type": "top_k", "top_k": 1} if beams == 1 else {"num_beams": beams}
        shared = {"seq_len": length, "min_seq_len": length - 1}
        seconds, ids = timed(partial(self.model.eval().generate, self.images(count), **shared, **kind))
        return {"seconds": seconds, "ids": ids[:, 1 : length - 1].tolist()}

    @torch.no_grad()
    def macs(self, length: int) -> dict[str, Any]:
        """Of the decoder, greedy, for one picture. Torch's counter knows no fused attention on a CPU."""
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            with FlopCounterMode(display=False) as whole:
                written = self.generate(1, length, 1)
            with FlopCounterMode(display=False) as encoding:
                self.model._encode_image(self.images(1))
        return {**written, "macs": (whole.get_total_flops() - encoding.get_total_flops()) // 2}

    def train(self, text: str, bf16: bool, optimizer: str) -> dict[str, Any]:
        """One step; always on the same batch, and on no other in this process. AdamW as its own training has it."""
        if self.step is None:
            job, losses = load_file(self.folder / "job.safetensors"), CoCaLoss(2.0, 1.0)
            ids, model = job[f"{text} ids"], self.model.train()
            images = self.images(len(ids))
            groups: list[dict[str, Any]] = [
                {
                    "params": [p for p in model.parameters() if (p.ndim < 2) is plain],
                    "weight_decay": 0.0 if plain else 0.1,
                }
                for plain in (True, False)
            ]
            adamw = torch.optim.AdamW(groups, lr=1e-4)
            self.step = training_step(lambda: sum(losses(**model(images, ids))), adamw, bf16)
        return measured(self.step)


if __name__ == "__main__":
    worker = Peer(Path(sys.argv[1]))
    serve(make=worker.make, generate=worker.generate, macs=worker.macs, train=worker.train)
