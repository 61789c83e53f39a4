"""A causal decoder in two halves: unimodal layers, then multimodal layers. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import StepwiseDecoder
from core.types import Text, Tokens
from plugins.decoders.kv_cache import CachedDecodeState, Layer
from plugins.layers import (
    OpenClipLayer,
    PostNormLayer,
    PreNormLayer,
    causal_mask,
    initialise,
    initialise_tower,
    key_mask,
)
from plugins.text.weights import load_bert_layer, read_bert, take
from registry.part import Count, Filled, Fraction, NonNegativeInt, Pretrained, parameters

LAYERS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {  # of the unimodal half, of the multimodal half
    "bert": (PostNormLayer, PostNormLayer),
    "paper": (PreNormLayer, PreNormLayer),
    "openclip": (PreNormLayer, OpenClipLayer),
}


class DecoupledDecoder(StepwiseDecoder):
    """Decoder of CoCa (Yu et al. 2022, section 3.2), mPLUG and plain captioners, by number of layers and layout.

    All layers are causal; the upper ones also attend to the memory. Equal halves with layout ``paper`` are CoCa's
    decoder; ``unimodal: 0, multimodal: 12, layout: bert`` is mPLUG's prefix decoder.

    Args:
        unimodal: number of lower layers, without cross-attention.
        multimodal: number of upper layers, with cross-attention to the memory.
        layout: ``bert``: LayerNorm after each residual and on the embeddings; ``paper``: LayerNorm before, and a final
            one. Both: self-attention, cross-attention, one MLP of 4 D. ``openclip``: as ``paper``, with a second MLP
            between the two attentions, LayerNorm on the memory, and a separate position embedding for [CLS].
        embed_dim: width D.
        num_heads: attention heads.
        dropout: rate on residuals and attention weights.
        cls: append a learned [CLS] to the words; its unimodal output, normalised, is the text feature (CoCa). Words do
            not attend to it, and the multimodal half does not process it.
        mask: keys of [CLS]. ``correct``: the words and [CLS]. ``legacy`` (layout ``openclip`` only), as in open_clip's
            released weights: the words and one padding token, id 0, after them, without [CLS].
        weights: folder with a BERT's config.json and model.safetensors to start from (layout ``bert`` only);
            cross-attention is initialised at random.

    Raises:
        ValueError: weights with another layout than ``bert``, of other sizes, another vocabulary, fewer positions or
            layers; cls without a unimodal layer; the legacy mask without cls or with another layout.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"dim": "embed_dim", "heads": "num_heads"}

    # arguments: nine settings that a recipe needs to describe both papers, and three filled sizes
    def __init__(
        self,
        *,
        unimodal: NonNegativeInt = 0,
        multimodal: Count = 12,
        layout: Literal["bert", "paper", "openclip"] = "bert",
        embed_dim: Count = 768,
        num_heads: Count = 12,
        dropout: Fraction = 0.1,
        cls: bool = False,
        mask: Literal["correct", "legacy"] = "correct",
        weights: Pretrained = "",
        memory_dim: Filled[int],
        vocabulary: Filled[int],
        text_length: Filled[int],
    ):
        super().__init__()
        if weights and layout != "bert":
            raise ValueError(f"weights of a BERT need layout 'bert', got {layout!r}")
        if cls and not unimodal:
            raise ValueError("cls needs at least one unimodal layer: only the unimodal half processes it")
        if mask == "legacy" and not (cls and layout == "openclip"):
            raise ValueError(f"mask 'legacy' needs layout 'openclip' and cls, got layout {layout!r}, cls {cls}")
        lower, upper = LAYERS[layout]
        self.dim, self.text_length, self.legacy = embed_dim, text_length, mask == "legacy"
        self.cls_position = cls and layout == "openclip"  # the last position embedding is that of [CLS]
        self.words, self.positions = (
            nn.Embedding(vocabulary, embed_dim),
            nn.Embedding(text_length + self.cls_position, embed_dim),
        )
        self.embedding_norm = nn.LayerNorm(embed_dim, eps=1e-12) if layout == "bert" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.unimodal = nn.ModuleList(lower(embed_dim, num_heads, dropout) for _ in range(unimodal))
        self.multimodal = nn.ModuleList(upper(embed_dim, num_heads, dropout, memory_dim) for _ in range(multimodal))
        self.final_norm = nn.Identity() if layout == "bert" else nn.LayerNorm(embed_dim)
        self.cls = nn.Parameter(torch.randn(embed_dim) * 0.02) if cls else None
        self.cls_norm = nn.LayerNorm(embed_dim) if cls else None
        self.has_pooled = cls
        initialise(self)
        if cls:  # the unimodal half is a text encoder
            for tower in (self.words, self.positions, self.unimodal):
                initialise_tower(tower, embed_dim)
        if weights:
            self._load(weights, num_heads)

    @classmethod
    def pooled_dim(cls, settings: Mapping[str, Any]) -> int:
        return int(settings.get("embed_dim", parameters(cls)["embed_dim"][1].default)) if settings.get("cls") else 0

    @property
    def embedding(self) -> nn.Parameter:
        return cast("nn.Parameter", self.words.weight)

    def encode_text(self, text: Text) -> Tokens:
        """Run the unimodal half: (B, L) -> (B, L, D), and with cls the text feature ``pooled`` (B, D)."""
        length = int(text.ids.shape[1])
        positions = torch.arange(length, device=text.ids.device)  # (L,)
        x = self._embed(text.ids, positions)  # (B, L, D)
        mask = self._causal_mask(text.mask)  # (B, 1, L, L)
        if self.cls is not None:
            x, mask = self._append_cls(x, text.mask)  # (B, L + 1, D); legacy (B, L + 2, D)
        for layer in self.unimodal:
            x = layer(x, mask)
        if self.cls_norm is None:
            return Tokens(x, None, text.mask)
        return Tokens(x[:, :length], self.cls_norm(x[:, -1]), text.mask)

    def forward(self, words: Tokens, memory: Tokens) -> Tokens:
        """Run the multimodal half: words (B, L, D) attend to ``memory`` (B, N, D') -> (B, L, D)."""
        assert words.mask is not None
        x, mask, memory_mask = words.x, self._causal_mask(words.mask), key_mask(memory.mask)
        for layer in self.multimodal:
            x = layer(x, mask, memory.x, memory_mask)
        return Tokens(self.final_norm(x), None, words.mask)

    def start_decoding(self, memory: Tokens, length: int) -> CachedDecodeState:
        """Return an empty state for ``memory`` (B, N, D'). [CLS] is left out: no word attends to it.

        Raises:
            ValueError: ``length`` exceeds the number of position embeddings.
        """
        if length > self.text_length:
            raise ValueError(f"length is {length}; this decoder has positions for {self.text_length} words")
        unimodal, multimodal = (cast("list[Layer]", list(half)) for half in (self.unimodal, self.multimodal))
        return CachedDecodeState(self._embed, unimodal, multimodal, self.final_norm, memory=memory, length=length)

    def _append_cls(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Append [CLS] to words (B, L, D) with mask (B, L), where no word attends to it.

        With the legacy mask, [CLS] attends to one padding token, appended before it, instead of itself; in a text
        without padding it attends to itself. Returns (B, L + 1, D), legacy (B, L + 2, D), and the mask (B, 1, N, N).
        """
        assert self.cls is not None
        cls = self.cls.to(x.dtype).expand(int(x.shape[0]), 1, -1)  # (B, 1, D)
        if self.cls_position:
            cls = cls + self.positions.weight[-1].to(x.dtype)
        count = mask.sum(1, keepdim=True)  # (B, 1) words
        to_itself = torch.ones_like(count, dtype=torch.bool)  # (B, 1)
        if self.legacy:
            to_itself = count == self.text_length
            x = torch.cat([x, self._embed(torch.zeros_like(count), count)], 1)  # (B, L + 1, D)
            mask = torch.cat([mask, ~to_itself], 1)  # (B, L + 1)
        cls_row = torch.cat([mask, to_itself], 1)[:, None, None]  # keys of [CLS], (B, 1, 1, N)
        word_rows = F.pad(self._causal_mask(mask), (0, 1))  # keys of the words, (B, 1, N - 1, N)
        return torch.cat([x, cls], 1), torch.cat([word_rows, cls_row], 2)  # (B, N, D), (B, 1, N, N)

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Embed ids (B, L) at positions (L,) or (B, L) -> (B, L, D)."""
        x: Tensor = self.dropout(self.embedding_norm(self.words(ids) + self.positions(positions)))
        return x

    def _causal_mask(self, mask: Tensor) -> Tensor:
        """(B, L) -> (B, 1, L, L): each position attends to itself and to earlier words, not to padding."""
        length = int(mask.shape[1])
        diagonal = torch.eye(length, dtype=torch.bool, device=mask.device)  # (L, L)
        return causal_mask(length, mask.device) & mask[:, None, None] | diagonal

    @torch.no_grad()
    def _load(self, folder: str, heads: int) -> None:
        """Fill embeddings and layers from a BERT."""
        vocabulary, length = len(self.words.weight), len(self.positions.weight)
        expected = {"hidden_size": self.dim, "num_attention_heads": heads, "vocab_size": vocabulary}
        sizes, tensors = read_bert(folder, expected, length)

        def table(name: str, rows: int) -> Tensor:
            return take(tensors, f"embeddings.{name}_embeddings.weight", torch.Size([rows, self.dim]), folder)

        self.words.weight.copy_(table("word", vocabulary))
        positions = table("position", sizes["max_position_embeddings"])
        types = table("token_type", sizes["type_vocab_size"])
        self.positions.weight.copy_(positions[:length] + types[0])  # all words of a decoder have token type 0
        for name, parameter in self.embedding_norm.named_parameters():
            parameter.copy_(take(tensors, f"embeddings.LayerNorm.{name}", parameter.shape, folder))
        for index, layer in enumerate([*self.unimodal, *self.multimodal]):
            assert isinstance(layer, PostNormLayer)
            load_bert_layer(layer, tensors, index, folder)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("decoupled", DecoupledDecoder)
