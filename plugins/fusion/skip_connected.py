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
from registry.part import Count, Filled, Fraction, NonNegativeInt, Pretrained


class SkipConnectedFusion(Fusion):
    """Asymmetric co-attention layers, with a connected-attention layer every ``stride`` layers (mPLUG, Li et al. 2022).

    Layer j, counted from 0, is connected (J) if j > 0 and j is a multiple of ``stride``, otherwise co-attention (C).
    Six layers with stride 3 are C C C J C C. C: self-attention of the words, cross-attention to the image, MLP; the
    image is not updated. J: self-attention and MLP over [image ; words]; the image part is added to the image states
    from before (skip connection). J layers have no cross-attention parameters (mPLUG's are unused). If the image's
    width is not ``dim``, a linear map and LayerNorm come first.

    Args:
        layers: number of layers.
        stride: distance of the connected layers.
        num_heads: attention heads.
        dropout: rate on residuals and attention weights.
        weights: folder with a BERT's config.json and model.safetensors to start from; cross-attention is initialised at
            random.
        first_layer: index of the BERT layer, from 0, that layer 0 is initialised from; mPLUG's text encoder has the six
            before it.

    Raises:
        ValueError: weights of other sizes or with fewer layers; the message names folder and tensor.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"heads": "num_heads"}

    def __init__(
        self,
        *,
        layers: Count = 6,
        stride: Count = 3,
        num_heads: Count = 12,
        dropout: Fraction = 0.1,
        weights: Pretrained = "",
        first_layer: NonNegativeInt = 6,
        dim: Filled[int],
        image_dim: Filled[int],
    ):
        super().__init__()
        self.dim, self.stride = dim, stride
        projection = (nn.Linear(image_dim, dim), nn.LayerNorm(dim, eps=1e-12), nn.Dropout(dropout))
        self.image_projection = nn.Identity() if image_dim == dim else nn.Sequential(*projection)
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
        """Return True if layer ``layer``, counted from 0, is a connected layer (J)."""
        return layer > 0 and layer % self.stride == 0

    def forward(self, text: Tokens, image: Tokens) -> Fused:
        words, x = text.x, self.image_projection(image.x)  # (B, L, D), (B, N, D)
        word_mask, image_mask = key_mask(text.mask), key_mask(image.mask)  # (B, 1, 1, L), (B, 1, 1, N)
        joint_mask = key_mask(Fused(text, image).mask)  # (B, 1, 1, N + L)
        length = int(x.shape[1])  # N
        for j, layer in enumerate(self.layers):
            if self.connected(j):  # J
                joint = layer(torch.cat([x, words], 1), joint_mask)  # (B, N + L, D)
                x, words = x + joint[:, :length], joint[:, length:]  # (B, N, D), (B, L, D)
            else:  # C
                words = layer(words, word_mask, x, image_mask)  # (B, L, D)
        fused_image = Tokens(x, None, image.mask, image.patches, image.source)
        return Fused(Tokens(words, words[:, 0], text.mask), fused_image)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("skip_connected", SkipConnectedFusion)
