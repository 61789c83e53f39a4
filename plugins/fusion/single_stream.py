"""One transformer over words and patches in one sequence. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.blocks import run_blocks, score
from core.files import read_safetensors
from core.hookspecs import hookimpl
from core.kinds import Fusion, TokenPruner
from core.types import Fused, Tokens
from plugins.layers import PreNormLayer, initialise_tower, key_mask
from plugins.pruners.prune_list import Prune, build_pruners, pruners_by_block
from registry.part import Count, Filled, Fraction, Pretrained


class SingleStreamFusion(Fusion):
    """Run [words ; patches] through the blocks of a ViT (ViLT, Kim et al. 2021), with prunings between them.

    A type embedding is added to the embedded words and patches; only patches can be pruned. The guide of a pruner is
    the state of the words' [CLS] at the same depth, which has attended to the image by then; the details of COPA's
    single-stream extension are not known to us, so this is our choice. Use a backbone of depth 0 and a text encoder
    with 0 layers. Unlike in ViLT there is no pooler before the heads.

    Args:
        layers: number of blocks.
        num_heads: attention heads.
        dropout: rate on residuals and attention weights.
        prune: pruners and the blocks after which they act, as in a backbone.
        weights: safetensors file of a timm ViT; its first blocks are loaded.

    Raises:
        ValueError: a pruner after the last block; weights without one of the blocks or of other sizes.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"heads": "num_heads"}

    def __init__(
        self,
        *,
        layers: Count = 12,
        num_heads: Count = 12,
        dropout: Fraction = 0.0,
        prune: Sequence[Prune] = (),
        weights: Pretrained = "",
        dim: Filled[int],
        image_dim: Filled[int],
    ):
        super().__init__()
        self.dim = dim
        self.image_projection = nn.Identity() if image_dim == dim else nn.Linear(image_dim, dim)
        self.types = nn.Embedding(2, dim)  # 0: words, 1: image
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
        """The first pruner's logits (B, P); None without a pruner."""
        return score(self.blocks, pruners_by_block(self.prunings), self._concatenate(text, image), _cls)

    def forward(self, text: Tokens, image: Tokens) -> Fused:
        pruners = pruners_by_block(self.prunings) if self.pruning else {}
        tokens = run_blocks(self.blocks, pruners, self._concatenate(text, image), _cls)  # (B, L + N', D)
        length = int(text.x.shape[1])
        x, (start, stop) = self.norm(tokens.x), tokens.patches  # (B, L + N', D)
        mask = None if image.mask is None or tokens.mask is None else tokens.mask[:, length:]  # (B, N')
        patches = (start - length, stop - length)
        fused_image = Tokens(x[:, length:], None, mask, patches, tokens.source, tokens.scores)  # (B, N', D)
        return Fused(Tokens(x[:, :length], x[:, 0], text.mask), fused_image)

    def _concatenate(self, text: Tokens, image: Tokens) -> Tokens:
        """Add the type embeddings and concatenate: words (B, L, D) and image (B, N, D') -> (B, L + N, D)."""
        words = text.x + self.types.weight[0]  # (B, L, D)
        patches = self.image_projection(image.x) + self.types.weight[1]  # (B, N, D)
        length, (start, stop) = int(words.shape[1]), image.patches
        mask = Fused(text=image, image=text).mask  # words first, (B, L + N)
        return Tokens(torch.cat([words, patches], 1), None, mask, (start + length, stop + length), image.source)

    @torch.no_grad()
    def _load(self, file: str) -> None:
        """Load the blocks and the final LayerNorm from a timm ViT."""
        state = read_safetensors(file)

        def copy(name: str, targets: Sequence[Tensor]) -> None:
            tensor = state.get(name)
            expected = (sum(map(len, targets)), *targets[0].shape[1:])
            if tensor is None or tuple(tensor.shape) != expected:
                fault = "lacks it" if tensor is None else f"has {tuple(tensor.shape)}"
                raise ValueError(f"{file}: {name} must be {expected}, but the file {fault}")
            for target, part in zip(targets, tensor.split([len(t) for t in targets]), strict=True):
                target.copy_(part)

        for kind in ("weight", "bias"):
            for i, layer in enumerate(self.layers):
                for timm_name, names in TIMM_NAMES.items():
                    copy(f"blocks.{i}.{timm_name}.{kind}", [layer.get_parameter(f"{name}.{kind}") for name in names])
            copy(f"norm.{kind}", [self.norm.get_parameter(kind)])


TIMM_NAMES = {  # module of a timm block: modules of PreNormLayer
    "norm1": ("attention_norm",),
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.out",),
    "norm2": ("norm",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
}


class _Block:
    """``core.blocks.Block`` of a PreNormLayer. Shapes: x (B, N, D), mask (B, N)."""

    def __init__(self, layer: PreNormLayer):
        self.layer, self.mlp = layer, layer.mlp

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.layer(x, key_mask(mask))  # (B, N, D)
        return out

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.layer.attend(x, key_mask(mask))  # (B, N, D)

    def attention_maps(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys (B, heads, N, d) and weights (B, heads, N, N)."""
        return self.layer.attention.attention_maps(self.layer.attention_norm(x), key_mask(mask))


def _cls(tokens: Tokens) -> Tensor:
    """The guide: the state of the words' [CLS], (B, D)."""
    return tokens.x[:, 0]


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("single_stream", SingleStreamFusion)
