"""Small recipes, folders of runs with them, and image files, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core import run as running

COCA = """\
model:
  backbone: {name: vit, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 16, cls: false}
  pooler: {name: attentional, queries: 4, num_heads: 2, arrangement: cascade}
  decoder: {name: decoupled, unimodal: 1, multimodal: 1, layout: paper, cls: true, embed_dim: 32, num_heads: 2,
  dropout: 0.0}
  heads: {image: unit, text: unit, temperature: temperature, words: lm_head}
objectives: {itc: {}, caption: {}}
data: {name: scenes, train_size: 50, image_size: 64, text_length: 20}
train: {steps: 1, batch: 4, workers: 0, precision: fp32}
run: {device: cpu, evaluate: false}
"""
COPA = """\
model:
  backbone: {name: vit, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 16, prune: [{after_block: 1, pruner: tpd}]}
  text: {name: bert, layers: 1, embed_dim: 32, num_heads: 2, dropout: 0.0}
  fusion: {name: skip_connected, layers: 2, num_heads: 2, dropout: 0.0}
  decoder: {name: decoupled, unimodal: 0, multimodal: 1, embed_dim: 32, num_heads: 2, dropout: 0.0}
  heads:
    image: {name: projection, width: 8}
    text: {name: projection, width: 8}
    temperature: temperature
    match: match
    words: vocabulary
objectives: {itc: {}, itm: {}, mlm: {}}
data: {name: scenes, train_size: 50, image_size: 64, text_length: 20}
train: {steps: 1, batch: 4, workers: 0, precision: fp32}
run: {device: cpu, evaluate: false}
"""


def train_run(folder: Path, recipe: str, *overrides: str) -> str:
    """Train one step by a recipe; returns the run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(recipe)
    running.run(str(folder / "small.yaml"), [f"run.folder={folder / 'run'}", *overrides])
    return str(folder / "run")


def paint(folder: Path, count: int = 5, size: tuple[int, int] = (90, 70)) -> list[str]:
    """Write image files (PNG) of random blocks, the same at each call."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        blocks = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return sorted(str(file) for file in folder.glob("*.png"))


def tensor(file: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
