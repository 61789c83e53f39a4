"""A causal decoder in two halves: words alone, then words beside a memory. Letters as in core.types."""

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
from registry.part import Count, Filled, Fraction, NonNegativeInt, parameters

LAYERS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {  # of the lower half, of the upper
    "bert": (PostNormLayer, PostNormLayer),
    "paper": (PreNormLayer, PreNormLayer),
    "openclip": (PreNormLayer, OpenClipLayer),
}


class DecoupledDecoder(StepwiseDecoder):
    """One decoder for mPLUG, CoCa and plain captioners: the split point and the layers' layout tell them apart.

    ``unimodal: 0, multimodal: 12, layout: bert`` is mPLUG's prefix decoder; equal halves with ``paper`` are CoCa's.

    Args:
        unimodal: layers that see words alone; they have no cross-attention.
        multimodal: layers that attend to the memory too.
        layout: ``bert``: LayerNorm after each residual, embeddings normalised; ``paper``: LayerNorm before, one at the
            end. Both: self-attention, cross-attention, one MLP of 4 D. ``openclip``: as ``paper``, but a second MLP
            between the two attentions, LayerNorm on the memory, and a position of its own for [CLS].
        embed_dim: width D.
        num_heads: attention heads.
        dropout: on the residuals and attention.
        cls: whether a learnt [CLS] is read after the words, whose state, normalised, is the text's feature (CoCa). The
            words never see it, and ``forward`` is not given it.
        mask: what [CLS] sees. ``correct``: the words and itself. ``legacy`` (layout ``openclip`` only), as open_clip's
            released weights were trained: the words and one token of padding, id 0, behind them, but not itself.
        weights: a folder with a BERT's config.json and model.safetensors to start from (layout ``bert`` only);
            cross-attention starts new.

    Raises:
        ValueError: weights with another layout than ``bert``, of other sizes, another vocabulary, fewer positions or
            layers; cls without a unimodal layer; the legacy mask without cls or with another layout.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"dim": "embed_dim", "heads": "num_heads"}

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
        weights: str = "",
        memory_dim: Filled[int],
        vocabulary: Filled[int],
        text_length: Filled[int],
    ):
        super().__init__()
        if weights and layout != "bert":
            raise ValueError(f"weights of a BERT need layout 'bert', got {layout!r}")
        if cls and not unimodal:
            raise ValueError("cls needs at least one unimodal layer: it is read by the lower half alone")
        if mask == "legacy" and not (cls and layout == "openclip"):
            raise ValueError(f"mask 'legacy' needs layout 'openclip' and cls, got layout {layout!r}, cls {cls}")
        lower, upper = LAYERS[layout]
        self.dim, self.text_length, self.legacy = embed_dim, text_length, mask == "legacy"
        self.cls_position = cls and layout == "openclip"  # the last one, behind those of the words
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
        if cls:  # the lower half is a text tower
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
        length = int(text.ids.shape[1])
        places = torch.arange(length, device=text.ids.device)
        x = self._embed(text.ids, places)  # (B, L, D)
        mask = self._mask(text.mask)
        if self.cls is not None:
            x, mask = self._behind(x, text.mask)
        for layer in self.unimodal:
            x = layer(x, mask)
        if self.cls_norm is None:
            return Tokens(x, None, text.mask)
        return Tokens(x[:, :length], self.cls_norm(x[:, -1]), text.mask)

    def forward(self, words: Tokens, memory: Tokens) -> Tokens:
        assert words.mask is not None
        x, mask, memory_mask = words.x, self._mask(words.mask), key_mask(memory.mask)
        for layer in self.multimodal:
            x = layer(x, mask, memory.x, memory_mask)
        return Tokens(self.final_norm(x), None, words.mask)

    def start_decoding(self, memory: Tokens, length: int) -> CachedDecodeState:
        """As in core.decoding; the [CLS] that ``read`` puts behind the words is left out, for none of them sees it.

        Raises:
            ValueError: room for more words than there are positions.
        """
        if length > self.text_length:
            raise ValueError(f"asked to read {length} words; this decoder has positions for {self.text_length}")
        lower, upper = (cast("list[Layer]", list(half)) for half in (self.unimodal, self.multimodal))
        return CachedDecodeState(self._embed, lower, upper, self.final_norm, memory=memory, length=length)

    def _behind(self, x: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Put [CLS] behind words (B, L, D) and their padding, where no word sees it.

        The legacy mask shows it one token of padding, which goes between them; a text without padding is followed by
        [CLS] itself. Returns (B, L + 1, D), legacy (B, L + 2, D), and the mask.
        """
        assert self.cls is not None
        cls = self.cls.to(x.dtype).expand(int(x.shape[0]), 1, -1)  # (B, 1, D)
        if self.cls_position:
            cls = cls + self.positions.weight[-1].to(x.dtype)
        count = words.sum(1, keepdim=True)  # (B, 1)
        itself = torch.ones_like(count, dtype=torch.bool)
        if self.legacy:
            itself = count == self.text_length
            x = torch.cat([x, self._embed(torch.zeros_like(count), count)], 1)  # (B, L + 1, D)
            words = torch.cat([words, ~itself], 1)  # (B, L + 1)
        own = torch.cat([words, itself], 1)[:, None, None]  # what [CLS] sees, (B, 1, 1, N)
        return torch.cat([x, cls], 1), torch.cat([F.pad(self._mask(words), (0, 1)), own], 2)  # (B, 1, N, N)

    def _embed(self, ids: Tensor, places: Tensor) -> Tensor:
        """Ids (B, L) at positions (L,) or (B, L) -> (B, L, D)."""
        x: Tensor = self.dropout(self.embedding_norm(self.words(ids) + self.positions(places)))
        return x

    def _mask(self, mask: Tensor) -> Tensor:
        """(B, L) -> (B, 1, L, L): earlier words that are no padding, and oneself."""
        length = int(mask.shape[1])
        own = torch.eye(length, dtype=torch.bool, device=mask.device)
        return causal_mask(length, mask.device) & mask[:, None, None] | own

    @torch.no_grad()
    def _load(self, folder: str, heads: int) -> None:
        vocabulary, length = len(self.words.weight), len(self.positions.weight)
        wanted = {"hidden_size": self.dim, "num_attention_heads": heads, "vocab_size": vocabulary}
        sizes, tensors = read_bert(folder, wanted, length)

        def table(name: str, rows: int) -> Tensor:
            return take(tensors, f"embeddings.{name}_embeddings.weight", torch.Size([rows, self.dim]), folder)

        self.words.weight.copy_(table("word", vocabulary))
        places = table("position", sizes["max_position_embeddings"])
        kinds = table("token_type", sizes["type_vocab_size"])
        self.positions.weight.copy_(places[:length] + kinds[0])  # every word of a decoder is of the first kind
        for name, parameter in self.embedding_norm.named_parameters():
            parameter.copy_(take(tensors, f"embeddings.LayerNorm.{name}", parameter.shape, folder))
        for index, layer in enumerate([*self.unimodal, *self.multimodal]):
            assert isinstance(layer, PostNormLayer)
            load_bert_layer(layer, tensors, index, folder)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("decoupled", DecoupledDecoder)
