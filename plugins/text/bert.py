"""The first layers of a BERT as a text encoder. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from core.hookspecs import hookimpl
from core.kinds import TextEncoder
from core.types import Text, Tokens
from plugins.layers import fused_attention, initialise_tower
from plugins.text.weights import read_bert, take
from registry.part import Count, Filled, Fraction, NonNegativeInt, Pretrained


class BertEncoder(TextEncoder):
    """BERT layers 1 to ``layers`` (Devlin et al. 2019; mPLUG takes the first 6 of BERT-base), by transformers.

    ``pooled`` is the last state of [CLS], un-projected: the guide of COPA's detector.

    Args:
        layers: number of layers; 0: only word embeddings, for a single-stream fusion.
        embed_dim: width D; the MLPs are 4 D wide.
        num_heads: attention heads.
        dropout: rate on hidden states and attention.
        weights: a folder with a BERT's config.json and model.safetensors; its first layers are loaded.

    Raises:
        ValueError: weights of other sizes, another vocabulary, fewer positions or layers; names folder and tensor.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"dim": "embed_dim", "heads": "num_heads"}

    def __init__(
        self,
        *,
        layers: NonNegativeInt = 6,
        embed_dim: Count = 768,
        num_heads: Count = 12,
        dropout: Fraction = 0.1,
        weights: Pretrained = "",
        vocabulary: Filled[int],
        text_length: Filled[int],
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide dim {embed_dim}")
        self.dim = embed_dim
        sizes: dict[str, int] = {"max_position_embeddings": text_length}
        tensors: dict[str, Tensor] = {}
        if weights:
            required = {"hidden_size": embed_dim, "num_attention_heads": num_heads, "vocab_size": vocabulary}
            sizes, tensors = read_bert(weights, required, text_length)
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=embed_dim,
            num_hidden_layers=layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * embed_dim,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=sizes["max_position_embeddings"],
            type_vocab_size=sizes.get("type_vocab_size", 2),
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        initialise_tower(self.bert, embed_dim)
        if weights:
            self._load(tensors, weights)

    @property
    def embedding(self) -> nn.Parameter:
        weight: nn.Parameter = self.bert.embeddings.word_embeddings.weight
        return weight

    def forward(self, text: Text) -> Tokens:
        fused = fused_attention(text.ids.device, self.training)
        self.bert.config._attn_implementation = "sdpa" if fused else "eager"
        hidden = torch.zeros(text.mask.shape, device=text.ids.device).masked_fill(
            ~text.mask, torch.finfo(torch.float32).min
        )
        # a 4-D mask: for a 2-D one transformers reads values, which the meta device does not have
        states = self.bert(text.ids, attention_mask=hidden[:, None, None].expand(-1, 1, int(text.ids.shape[1]), -1))
        x = states.last_hidden_state  # (B, L, D)
        return Tokens(x, x[:, 0], text.mask)

    @torch.no_grad()
    def _load(self, tensors: dict[str, Tensor], folder: str) -> None:
        for name, parameter in self.bert.named_parameters():
            parameter.copy_(take(tensors, name, parameter.shape, folder))


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("bert", BertEncoder)
