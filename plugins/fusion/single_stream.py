"""One transformer over words and patches together. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.blocks import Prune, build_pruners, pruners_by_block, run_blocks, score
from core.files import read_safetensors
from core.hookspecs import hookimpl
from core.kinds import Fusion, TokenPruner
from core.types import Fused, Tokens
from plugins.layers import PreNormLayer, initialise_tower, key_mask
from registry.part import Count, Filled, Fraction


class SingleStreamFusion(Fusion):
    """[words ; patches] through the blocks of a ViT (ViLT, Kim et al. 2021), with prunings between them.

    Embedded words and patches get a type embedding each and run as one sequence; only patches can be pruned. A guided
    pruner reads the [CLS] of the words at its own depth, which has seen the picture by then (COPA's single-stream
    extension; that its details are like this is our reading). Feeds on a backbone of depth 0 and a text encoder of 0
    layers. Unlike ViLT there is no pooler before the heads.

    Args:
        layers: how many blocks.
        num_heads: attention heads.
        dropout: on the residuals and attention.
        prune: which pruner acts where, as in a backbone.
        weights: a safetensors file of a timm ViT, whose first blocks are loaded.

    Raises:
        ValueError: a pruner behind the last block; weights that lack a block or are of another size.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"heads": "num_heads"}

    def __init__(
        self,
        *,
        layers: Count = 12,
        num_heads: Count = 12,
        dropout: Fraction = 0.0,
        prune: Sequence[Prune] = (),
        weights: str = "",
        dim: Filled[int],
        image_dim: Filled[int],
    ):
        super().__init__()
        self.dim = dim
        self.image_projection = nn.Identity() if image_dim == dim else nn.Linear(image_dim, dim)
        self.types = nn.Embedding(2, dim)  # 0: words, 1: picture
        self.layers = nn.ModuleList(PreNormLayer(dim, num_heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for norm in self.modules():
            if isinstance(norm, nn.LayerNorm):
                norm.eps = 1e-6  # as in a ViT
        initialise_tower(self, dim)
        self.prunings = build_pruners(prune, layers, dim, dim)
        if weights:
            self._load(weights)

    @property
    def blocks(self) -> Sequence[_Block]:
        return [_Block(layer) for layer in self.layers if isinstance(layer, PreNormLayer)]

    @property
    def pruners(self) -> Sequence[TokenPruner]:
        return tuple(pruners_by_block(self.prunings).values())

    def score(self, text: Tokens, image: Tokens) -> Tensor | None:
        return score(self.blocks, pruners_by_block(self.prunings), self._joined(text, image), _cls)

    def forward(self, text: Tokens, image: Tokens) -> Fused:
        pruners = pruners_by_block(self.prunings) if self.pruning else {}
        tokens = run_blocks(self.blocks, pruners, self._joined(text, image), _cls)
        length = int(text.x.shape[1])
        x, (start, stop) = self.norm(tokens.x), tokens.patches  # (B, L + N', D)
        shown = None if image.mask is None or tokens.mask is None else tokens.mask[:, length:]  # (B, N')
        seen = Tokens(x[:, length:], None, shown, (start - length, stop - length), tokens.source, tokens.scores)
        return Fused(Tokens(x[:, :length], x[:, 0], text.mask), seen)

    def _joined(self, text: Tokens, image: Tokens) -> Tokens:
        """[words ; picture], (B, L + N, D)."""
        words, picture = text.x + self.types.weight[0], self.image_projection(image.x) + self.types.weight[1]
        length, (start, stop) = int(words.shape[1]), image.patches
        mask = Fused(text=image, image=text).mask  # of both, words first, (B, L + N)
        return Tokens(torch.cat([words, picture], 1), None, mask, (start + length, stop + length), image.source)

    @torch.no_grad()
    def _load(self, file: str) -> None:
        """Fill the blocks and the last norm from a timm ViT."""
        state = read_safetensors(file)

        def take(name: str, into: Sequence[Tensor]) -> None:
            held = state.get(name)
            if held is None or held.shape[1:] != into[0].shape[1:] or len(held) != sum(map(len, into)):
                found = "lacks it" if held is None else f"holds it as {tuple(held.shape)}"
                wanted = (sum(map(len, into)), *into[0].shape[1:])
                raise ValueError(f"{file}: {name} must be {wanted}, but the file {found}")
            for target, part in zip(into, held.split([len(t) for t in into]), strict=True):
                target.copy_(part)

        for kind in ("weight", "bias"):
            for i, layer in enumerate(self.layers):
                for theirs, ours in NAMES.items():
                    parts = [layer.get_parameter(f"{name}.{kind}") for name in ours]
                    take(f"blocks.{i}.{theirs}.{kind}", parts)
            take(f"norm.{kind}", [self.norm.get_parameter(kind)])


NAMES = {  # of a timm block's parts: ours
    "norm1": ("attention_norm",),
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.out",),
    "norm2": ("norm",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
}


class _Block:
    """core.blocks.Block over one of our layers."""

    def __init__(self, layer: PreNormLayer):
        self.layer, self.mlp = layer, layer.mlp

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.layer(x, key_mask(mask))
        return out

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.layer.attend(x, key_mask(mask))

    def attention_maps(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.layer.attention.attention_maps(self.layer.attention_norm(x), key_mask(mask))


def _cls(tokens: Tokens) -> Tensor:
    """The state of the words' [CLS], (B, D): the guide."""
    return tokens.x[:, 0]


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("single_stream", SingleStreamFusion)
