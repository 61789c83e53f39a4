"""mPLUG's cross-modal skip-connected network. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import nn

from core.hookspecs import hookimpl
from core.kinds import Fusion
from core.types import Fused, Tokens
from plugins.layers import PostNormLayer, initialise, key_mask
from plugins.text.weights import load_bert_layer, read_bert
from registry.part import Count, Filled, Fraction, NonNegativeInt


class SkipConnectedFusion(Fusion):
    """Mostly co-attention, now and then connected attention (mPLUG, Li et al. 2022).

    Layer j, counted from 0, is connected (J) where j > 0 and j is a multiple of ``stride``, else co-attention (C); six
    layers at stride 3 are C C C J C C. C: words attend to words, then to the picture, then the MLP; the picture passes
    unchanged. J: self-attention and MLP over [picture ; words], and the picture's result is added to what it was.
    J layers have no cross-attention parameters (mPLUG's have some that nothing uses). A picture of another width is
    first brought to ``dim`` by a linear map and LayerNorm.

    Args:
        layers: how many layers.
        stride: every how many layers the two streams are connected.
        num_heads: attention heads.
        dropout: on the residuals and attention.
        weights: a folder with a BERT's config.json and model.safetensors to start from; cross-attention starts new.
        first_layer: the BERT layer, counted from 0, that layer 0 takes its weights from; mPLUG's text encoder has the
            six before.

    Raises:
        ValueError: weights of other sizes or fewer layers; names folder and tensor.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"heads": "num_heads"}

    def __init__(
        self,
        *,
        layers: Count = 6,
        stride: Count = 3,
        num_heads: Count = 12,
        dropout: Fraction = 0.1,
        weights: str = "",
        first_layer: NonNegativeInt = 6,
        dim: Filled[int],
        image_dim: Filled[int],
    ):
        super().__init__()
        self.dim, self.stride = dim, stride
        wider = (nn.Linear(image_dim, dim), nn.LayerNorm(dim, eps=1e-12), nn.Dropout(dropout))
        self.image_projection = nn.Identity() if image_dim == dim else nn.Sequential(*wider)
        self.layers = nn.ModuleList(
            PostNormLayer(dim, num_heads, dropout, source_dim=None if self.connected(j) else dim) for j in range(layers)
        )
        initialise(self)
        if weights:
            _, tensors = read_bert(weights, {"hidden_size": dim, "num_attention_heads": num_heads})
            for j, layer in enumerate(self.layers):
                assert isinstance(layer, PostNormLayer)
                load_bert_layer(layer, tensors, first_layer + j, weights)

    def connected(self, layer: int) -> bool:
        """Whether layer ``layer``, counted from 0, is a J."""
        return layer > 0 and layer % self.stride == 0

    def forward(self, text: Tokens, image: Tokens) -> Fused:
        words, picture = text.x, self.image_projection(image.x)  # (B, L, D), (B, N, D)
        word_mask, picture_mask = key_mask(text.mask), key_mask(image.mask)
        joint_mask = key_mask(Fused(text, image).mask)
        patches = int(picture.shape[1])
        for j, layer in enumerate(self.layers):
            if self.connected(j):
                joint = layer(torch.cat([picture, words], 1), joint_mask)  # (B, N + L, D)
                picture, words = picture + joint[:, :patches], joint[:, patches:]
            else:
                words = layer(words, word_mask, picture, picture_mask)
        seen = Tokens(picture, None, image.mask, image.patches, image.source)
        return Fused(Tokens(words, words[:, 0], text.mask), seen)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("skip_connected", SkipConnectedFusion)
