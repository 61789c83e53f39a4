"""A model and data so small that a test computes them in milliseconds; nothing of plugins but the patch detector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.blocks import run_blocks
from core.kinds import Backbone, Data, Fusion, Head, TextEncoder, Tokenizer, TokenPruner
from core.model import Model
from core.types import Batch, Example, Fused, Region, Text, Tokens
from plugins.heads.temperature import Temperature
from plugins.pruners.tpd import TextAwarePatchDetector
from registry.part import Part

SIDE, PATCH, DIM, LENGTH = 32, 8, 16, 6
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "green", "star", "disc", "ring"]


class TinyBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (2, -1)).transpose(1, 2).chunk(3, -1)  # (B, 2, N, D / 2)
        return x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TinyBackbone(Backbone):
    def __init__(self, *, pruner: TokenPruner | None = None):
        super().__init__()
        self.dim, self.grid = DIM, (SIDE // PATCH, SIDE // PATCH)
        self.embed = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.blocks = nn.ModuleList([TinyBlock() for _ in range(3)])
        self.pruner = pruner
        self.passes = 0  # pictures that blocks 2 and 3 were run for

    @property
    def pruners(self):
        return () if self.pruner is None else (self.pruner,)

    def trunk(self, images):
        x = self.embed(images.float() / 255 - 0.5).flatten(2).transpose(1, 2)  # (B, P, D)
        return run_blocks(self.blocks, {}, Tokens(torch.cat([x.mean(1, keepdim=True), x], 1), patches=(1, 17)), last=1)

    def finish(self, trunk, guide=None):
        self.passes += int(trunk.x.shape[0])
        pruners = {1: self.pruner} if self.pruning and self.pruner is not None else {}
        tokens = run_blocks(self.blocks, pruners, trunk, guide, first=1)
        return Tokens(tokens.x, tokens.x[:, 0], None, tokens.patches, tokens.source, tokens.scores)

    def score(self, trunk, guide=None):
        return None if self.pruner is None else self.pruner.score(trunk, guide, None)


class TinyText(TextEncoder):
    def __init__(self):
        super().__init__()
        self.dim, self.embed, self.layer = DIM, nn.Embedding(len(WORDS), DIM), nn.Linear(DIM, DIM)

    @property
    def embedding(self):
        return self.embed.weight

    def forward(self, text):
        words = self.embed(text.ids) * text.mask.unsqueeze(-1)
        x = self.layer(words + words.sum(1, keepdim=True))  # (B, L, D)
        return Tokens(x, x[:, 0], text.mask)


class TinyFusion(Fusion):
    def __init__(self):
        super().__init__()
        self.dim, self.layer = DIM, nn.Linear(DIM, DIM)
        self.pairs = 0

    def forward(self, text, image):
        self.pairs += int(text.x.shape[0])
        x = self.layer(torch.tanh(text.x * image.x.mean(1, keepdim=True)))
        return Fused(Tokens(x, mask=text.mask), image)


class Unit(Head):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(DIM, 8)

    def forward(self, x):
        return nn.functional.normalize(self.layer(x), dim=-1)


class Match(Head):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(DIM, 2)

    def forward(self, x):
        return self.layer(x)


class TinyTokenizer(Tokenizer):
    vocabulary, pad, cls, sep, mask = len(WORDS), 0, 1, 2, 3

    def __call__(self, texts):
        rows = [[1, *(WORDS.index(word) for word in text.split())][:LENGTH] for text in texts]
        ids = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])
        return Text(ids, ids != 0)

    def decode(self, ids):
        return " ".join(WORDS[i] for i in ids if i > 3)

    def save(self, folder):
        pass


class TinyData(Data):
    """Each picture has one bright patch-aligned square; its caption is its colour and shape."""

    def __init__(self, withheld: bool = True):
        self.image_size, self.text_length, self.tokenizer = SIDE, LENGTH, TinyTokenizer()
        self.withheld = withheld

    def batch(self, step, *, size, seed, reads) -> Batch:
        examples = self.held_out("test", size)
        return Batch(torch.stack([e.image for e in examples]), self.tokenizer([e.caption for e in examples]))

    def splits(self):
        return ("validation", "test", "withheld") if self.withheld else ("validation", "test")

    def held_out(self, split, count):
        return [self._example(split, i) for i in range(count)]

    def _example(self, split: str, number: int) -> Example:
        random = torch.Generator().manual_seed(1000 * len(split) + number)
        image = torch.randint(0, 60, (3, SIDE, SIDE), generator=random, dtype=torch.uint8)
        colour, shape = number % 3, WORDS[7 + number // 3 % 3]  # nine captions in turn
        column, row = (int(torch.randint(4, (), generator=random)) * PATCH for _ in range(2))
        image[colour, row : row + PATCH, column : column + PATCH] = 250
        phrase = f"{WORDS[4 + colour]} {shape}"
        box = (float(column), float(row), float(column + PATCH), float(row + PATCH))
        return Example(
            f"{split} {number}", image, phrase, (Region(box, phrase, shape),), f"{WORDS[4 + (colour + 1) % 3]} {shape}"
        )


def tiny_model(pruner: TokenPruner | None = None, *, joined: bool = True, guide: str = "leak_free") -> Model:
    """Backbone (with a patch detector of keep 0.5 unless a pruner is given), text encoder, fusion and heads."""
    torch.manual_seed(0)
    pruner = pruner or TextAwarePatchDetector(dim=DIM, guide_dim=DIM)
    heads = {
        "image": Part(Unit),
        "text": Part(Unit),
        "temperature": Part(Temperature),
        **({"match": Part(Match)} if joined else {}),
    }
    return Model(
        backbone=Part(TinyBackbone, {"pruner": pruner}),
        text=Part(TinyText),
        fusion=Part(TinyFusion) if joined else None,
        heads=heads,
        guide=guide,
        vocabulary=len(WORDS),
        text_length=LENGTH,
        image_size=SIDE,
    )
