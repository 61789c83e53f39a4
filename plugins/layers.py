"""Transformer layers that fusion and decoder share, and how BERT's weights get into them.

Letters: B rows, L queries, N keys, D width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from core.files import paths, read_text


def fused_attention(device: torch.device, training: bool) -> bool:
    """Whether the fused kernel is the faster one here. In bf16 on a CPU its backward is not."""
    return not (device.type == "cpu" and training and torch.is_autocast_enabled("cpu"))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, fused: bool, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v.

    Args:
        query: (B, heads, L, d); key and value: (B, heads, N, d).
        mask: boolean, broadcast to (B, heads, L, N), True where a query may attend to a key.
        fused: by torch's fused kernel rather than by separate products.
        dropout: share of the attention weights that is dropped.
    """
    if fused:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    weights = query @ key.transpose(-2, -1) * int(query.shape[-1]) ** -0.5  # (B, heads, L, N)
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
    return F.dropout(weights.softmax(-1), dropout).to(value.dtype) @ value


def key_mask(mask: Tensor | None) -> Tensor | None:
    """(B, N) of keys that may be attended to -> (B, 1, 1, N)."""
    return None if mask is None else mask[:, None, None]


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(1, 1, L, L): each word sees itself and the words before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


class Attention(nn.Module):
    """Multi-head attention of width ``dim`` over a source of width ``source_dim``."""

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int | None = None):
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide dim {dim}")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source_dim or dim, dim)
        self.value = nn.Linear(source_dim or dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) attends to (B, N, D'); ``mask`` as in ``attend``."""
        return self.mix(self.split(self.query(x)), *self.keys_values(source), mask)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D') -> (B, heads, N, d) twice."""
        return self.split(self.key(source)), self.split(self.value(source))

    def split(self, states: Tensor) -> Tensor:
        """(B, tokens, D) -> (B, heads, tokens, d)."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What the queries find, (B, L, D)."""
        fused = fused_attention(query.device, self.training)
        mixed = attend(query, key, value, mask, fused, self.dropout if self.training else 0.0)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, L, D)
        return out

    def look(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Self-attention's keys (B, heads, N, d) and weights (B, heads, N, N) for (B, N, D)."""
        query, key = self.split(self.query(x)), self.split(self.key(x))
        weights = query @ key.transpose(-2, -1) * int(query.shape[-1]) ** -0.5
        return key, (weights if mask is None else weights.masked_fill(~mask, -torch.inf)).softmax(-1)


class PostNormLayer(nn.Module):
    """BERT's layer: self-attention, cross-attention where a source is given, MLP; LayerNorm after each residual."""

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int | None = None):
        super().__init__()
        self.attention, self.attention_norm = Attention(dim, heads, dropout), nn.LayerNorm(dim, eps=1e-12)
        self.cross = None if source_dim is None else Attention(dim, heads, dropout, source_dim)
        self.cross_norm = None if source_dim is None else nn.LayerNorm(dim, eps=1e-12)
        self.up, self.down, self.norm = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        across = None if self.cross is None else partial(self.cross, source=source, mask=source_mask)
        return self.through(x, lambda states: self.attention(states, states, mask), across)

    def through(self, x: Tensor, own: Callable[[Tensor], Tensor], across: Callable[[Tensor], Tensor] | None) -> Tensor:
        """(B, L, D) by self-attention ``own`` and, where it has one, cross-attention ``across``."""
        x = self.attention_norm(x + self.dropout(own(x)))
        if across is not None and self.cross_norm is not None:
            x = self.cross_norm(x + self.dropout(across(x)))
        out: Tensor = self.norm(x + self.dropout(self.down(F.gelu(self.up(x)))))
        return out


class PreNormLayer(nn.Module):
    """CoCa's layer: self-attention, cross-attention where a source is given, one MLP; LayerNorm before each."""

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int | None = None):
        super().__init__()
        self.attention, self.attention_norm = Attention(dim, heads, dropout), nn.LayerNorm(dim)
        self.cross = None if source_dim is None else Attention(dim, heads, dropout, source_dim)
        self.cross_norm = None if source_dim is None else nn.LayerNorm(dim)
        self.up, self.down, self.norm = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        across = None if self.cross is None else partial(self.cross, source=source, mask=source_mask)
        return self.through(x, lambda states: self.attention(states, states, mask), across)

    def through(self, x: Tensor, own: Callable[[Tensor], Tensor], across: Callable[[Tensor], Tensor] | None) -> Tensor:
        """(B, L, D) by self-attention ``own`` and, where it has one, cross-attention ``across``."""
        x = x + self.dropout(own(self.attention_norm(x)))
        if across is not None and self.cross_norm is not None:
            x = x + self.dropout(across(self.cross_norm(x)))
        return self.feed(x)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention with its norm and residual, (B, L, D)."""
        normed = self.attention_norm(x)
        return x + self.dropout(self.attention(normed, normed, mask))

    def feed(self, x: Tensor) -> Tensor:
        """The MLP with its norm and residual."""
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


def initialise(module: nn.Module, linear: float = 0.02, embedding: float = 0.02) -> None:
    """Linear maps and embeddings normal of the given deviations (BERT's by default), biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=linear)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=embedding)


def initialise_tower(module: nn.Module, dim: int) -> None:
    """The same for a tower of width ``dim``: 0.02 from BERT-base's 768 on, 1 / sqrt(dim) below.

    0.02 leaves the branches of narrow towers so weak that all [CLS] states start alike and the contrast stands still
    for hundreds of steps. Our choice.
    """
    deviation = 0.02 if dim >= 768 else dim**-0.5
    initialise(module, deviation, deviation)


# what BERT computes and no tensor's shape tells
BERT_WAYS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}


def read_bert(folder: str, wanted: dict[str, int], length: int = 0) -> tuple[dict[str, int], dict[str, Tensor]]:
    """A BERT's config.json and model.safetensors: its sizes, and its tensors without the prefix ``bert.``.

    Args:
        folder: holds the two files.
        wanted: what the config must say, such as ``{"hidden_size": 768}``.
        length: words of the longest text, for which it must have positions.

    Raises:
        ValueError: a file is missing or unreadable, sizes differ, or it computes other than BERT; names the file.
    """
    file = os.path.join(folder, "config.json")
    text = read_text(file)
    try:
        config = json.loads(text)
        keys = ("hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings", "type_vocab_size")
        sizes = {key: int(config[key]) for key in keys}
    except (ValueError, KeyError, TypeError) as err:
        raise ValueError(f"{file}: not the config of a BERT: {type(err).__name__}: {err}") from err
    differ = [key for key, size in wanted.items() if sizes[key] != size]
    if differ:
        said, set_here = ({key: numbers[key] for key in differ} for numbers in (sizes, wanted))
        raise ValueError(f"{file} says {said}, this recipe has {set_here}")
    if sizes["max_position_embeddings"] < length:
        raise ValueError(f"{file} says {sizes['max_position_embeddings']} positions, texts are up to {length} long")
    for key, known in BERT_WAYS.items():
        if config.get(key, known) != known:
            raise ValueError(f"{file} says {key} {config[key]!r}; only {known!r} is known here")
    file = os.path.join(folder, "model.safetensors")
    try:
        tensors = load_file(paths.get_local_path(file))
    except Exception as err:
        raise ValueError(f"{file}: cannot be read as safetensors: {err}") from err
    old = {"gamma": "weight", "beta": "bias"}  # names of LayerNorm's tensors in early checkpoints
    renamed = {}
    for name, tensor in tensors.items():
        stem, _, last = name.removeprefix("bert.").rpartition(".")
        renamed[f"{stem}.{old.get(last, last)}"] = tensor
    return sizes, renamed


BERT_NAMES = {  # ours: BERT's, below encoder.layer.N
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


def take(tensors: dict[str, Tensor], name: str, shape: torch.Size, folder: str) -> Tensor:
    """One tensor of a BERT.

    Raises:
        ValueError: absent, or of another shape; names folder and tensor.
    """
    if name not in tensors:
        raise ValueError(f"{folder}: model.safetensors has no tensor {name!r}")
    if tensors[name].shape != shape:
        held = tuple(tensors[name].shape)
        raise ValueError(f"{folder}: model.safetensors has {name!r} of shape {held}, this part needs {tuple(shape)}")
    return tensors[name]


@torch.no_grad()
def load_bert_layer(layer: PostNormLayer, tensors: dict[str, Tensor], index: int, folder: str) -> None:
    """Fill a layer's self-attention and MLP from BERT layer ``index``, counted from 0; cross-attention stays."""
    for ours, theirs in BERT_NAMES.items():
        for name, parameter in layer.get_submodule(ours).named_parameters():
            parameter.copy_(take(tensors, f"encoder.layer.{index}.{theirs}.{name}", parameter.shape, folder))
