"""MACs of Patchbay's own parts by formula, to check the counters.

For one image with one text; norms, activations and softmax are not counted, as in plugins.compute.fvcore_macs.
Letters: N tokens, L words, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timm.layers import HybridEmbed
from torch import nn

from core.kinds import Decoder, Pooler, TokenPruner
from core.model import Model
from plugins.backbones.vit import ViT
from plugins.compute.fvcore_macs import MacCount
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.fusion.single_stream import SingleStreamFusion
from plugins.fusion.skip_connected import SkipConnectedFusion
from plugins.heads.classify import Classify
from plugins.heads.lm_head import LanguageModelHead
from plugins.heads.projection import Projection
from plugins.heads.unit import Unit
from plugins.heads.vocabulary import Vocabulary
from plugins.layers import OpenClipLayer
from plugins.poolers.attentional import AttentionalPoolers
from plugins.poolers.query import QueryPooler
from plugins.poolers.shared import SharedPooler
from plugins.pruners.evit import AttentivePruner
from plugins.pruners.prune_list import pruners_by_block
from plugins.pruners.random import RandomPruner
from plugins.pruners.selection import kept_count
from plugins.pruners.tpd import TextAwarePatchDetector
from plugins.text.bert import BertEncoder


class NoFormula(LookupError):
    """No formula for the class of a part; the message names the part."""


def attention(queries: int, keys: int, dim: int, source_dim: int | None = None) -> int:
    """Projections of queries and output (D x D), of keys and values (D' x D), then QK^T and the sum of values."""
    return 2 * queries * dim**2 + 2 * keys * (source_dim or dim) * dim + 2 * queries * keys * dim


def mlp(tokens: int, dim: int, ratio: float = 4) -> int:
    """Two linear maps, D -> ratio D -> D."""
    return 2 * tokens * dim * int(dim * ratio)


def layer(tokens: int, dim: int) -> int:
    """Self-attention and MLP: 12 N D^2 + 2 N^2 D."""
    return attention(tokens, tokens, dim) + mlp(tokens, dim)


def linear_stem(side: int, patch: int, dim: int) -> int:
    """One convolution of stride ``patch`` on 3 colours."""
    return (side // patch) ** 2 * 3 * patch**2 * dim


def conv_stem(side: int, widths: Sequence[int], dim: int) -> int:
    """3x3 convolutions of stride 2 to ``widths``, then 1x1 to ``dim``."""
    total, channels = 0, 3
    for width in widths:
        side //= 2
        total, channels = total + side**2 * 9 * channels * width, width
    return total + side**2 * channels * dim


def detector(patches: int, dim: int, guide_dim: int) -> int:
    """COPA's detector: D + G -> D -> D / 2 -> 1 for each patch."""
    half = max(dim // 2, 1)
    return patches * ((dim + guide_dim) * dim + dim * half + half)


def fusing(patches: int, dim: int) -> int:
    """One token as the weighted sum of all P patches, the kept ones with weight 0."""
    return patches * dim


def pruned_blocks(
    patches: int,
    others: int,
    dim: int,
    depth: int,
    pruners: Mapping[int, TokenPruner],
    recomputed: int,
    ratio: float = 4,
) -> tuple[int, int]:
    """MACs of ``depth`` blocks over ``patches`` and ``others`` tokens, and of their pruners.

    Args:
        pruners: by the number of the block that they prune in or after.
        recomputed: D x D products computed again for a pruner that reads attention: 3 for the joint
            query, key and value map of a timm block, 2 for separate maps.
        ratio: MLP width divided by D.

    Raises:
        NoFormula: an unknown pruner.
    """
    blocks = choosing = 0
    for place in range(1, depth + 1):
        tokens, pruner = others + patches, pruners.get(place)
        kept = patches if pruner is None else _left(pruner, patches)
        inside = pruner is not None and pruner.place == "in_block"
        blocks += attention(tokens, tokens, dim) + mlp(others + (kept if inside else patches), dim, ratio)
        if pruner is not None:
            blocks += recomputed * tokens * dim**2 if type(pruner) is AttentivePruner else 0
            choosing += _choosing(pruner, patches, tokens, dim)
        patches = kept
    return blocks, choosing


def _choosing(pruner: TokenPruner, patches: int, tokens: int, dim: int) -> int:
    if type(pruner) is TextAwarePatchDetector:
        guide_dim = int(pruner.guide_norm.normalized_shape[0])
        return detector(patches, dim, guide_dim) + (0 if pruner.fuse == "none" else fusing(patches, dim))
    if type(pruner) is AttentivePruner:  # the attention's weights, then the fused token
        return tokens**2 * dim + (fusing(patches, dim) if pruner.fuse else 0)
    if type(pruner) is RandomPruner:
        return 0
    raise NoFormula(pruner.origin or type(pruner).__name__)


def _left(pruner: TokenPruner, patches: int) -> int:
    """Number of patches after the pruner, the fused token included."""
    if not isinstance(pruner, (TextAwarePatchDetector, AttentivePruner, RandomPruner)):
        raise NoFormula(pruner.origin or type(pruner).__name__)
    fuse = getattr(pruner, "fuse", False)
    return kept_count(patches, pruner.keep_rate) + (fuse not in (False, "none"))


def of_pair(model: Model, text_length: int, frames: int = 1) -> MacCount:
    """MACs by part of plugins.compute.fvcore_macs.PairInference for one image or clip and one text.

    Raises:
        NoFormula: a part is from another package, or its network is (``convnet``); names it.
    """
    poolers = () if model.pooler is None else ("poolers",)
    parts = dict.fromkeys(("backbone", "pruner", *poolers, "text", "fusion", "decoder", "heads"), 0)
    backbone = model.backbone
    if type(backbone) is not ViT or not backbone.has_closed_form:
        raise NoFormula(backbone.origin)
    patches, others = backbone.grid[0] * backbone.grid[1], int(backbone.vit.num_prefix_tokens)
    pruners = pruners_by_block(backbone.prunings) if backbone.pruning else {}
    depth = len(backbone.blocks)
    blocks, choosing = pruned_blocks(patches, others, backbone.dim, depth, pruners, 3, backbone.mlp)
    parts["backbone"], parts["pruner"] = frames * (_stem(backbone) + blocks), frames * choosing
    for pruner in pruners.values():
        patches = _left(pruner, patches)
    patches, others = frames * patches, frames * others
    tokens, image_dim = others + patches, backbone.dim
    if model.pooler is not None:
        parts["poolers"], tokens, image_dim = _poolers(model.pooler, tokens, image_dim)

    if model.text is not None:
        if type(model.text) is not BertEncoder:
            raise NoFormula(model.text.origin)
        parts["text"] = int(model.text.bert.config.num_hidden_layers) * layer(text_length, model.text.dim)
    if model.fusion is not None and model.text is not None:
        if model.pooler is not None:
            raise NoFormula("poolers before a fusion")
        parts["fusion"], more = _fusion(model, patches, others, text_length)
        parts["pruner"] += more
        return MacCount(sum(parts.values()), parts)
    if model.decoder is not None:
        parts["decoder"] = _decoder(model.decoder, tokens, image_dim, text_length)
    parts["heads"] = _heads(model, others > 0 or model.pooler is not None, text_length)
    return MacCount(sum(parts.values()), parts)


def _stem(backbone: ViT) -> int:
    side, embed = int(backbone.vit.patch_embed.img_size[0]), backbone.vit.patch_embed
    if not isinstance(embed, HybridEmbed):
        return linear_stem(side, int(embed.patch_size[0]), backbone.dim)
    halvings = (side // backbone.grid[0]).bit_length() - 1
    return conv_stem(side, [max(8, backbone.dim >> (halvings - 1 - i)) for i in range(halvings)], backbone.dim)


def _fusion(model: Model, patches: int, others: int, words: int) -> tuple[int, int]:
    """MACs of the fusion, and of its pruners."""
    fusion, image_dim, tokens = model.fusion, model.backbone.dim, others + patches
    if type(fusion) is not SkipConnectedFusion and type(fusion) is not SingleStreamFusion:
        raise NoFormula("" if fusion is None else fusion.origin)
    dim = fusion.dim
    projection = 0 if image_dim == dim else tokens * image_dim * dim
    if isinstance(fusion, SingleStreamFusion):
        pruners = pruners_by_block(fusion.prunings) if fusion.pruning else {}
        blocks, choosing = pruned_blocks(patches, others + words, dim, len(fusion.blocks), pruners, 2)
        return projection + blocks, choosing
    joint, apart = layer(tokens + words, dim), layer(words, dim) + attention(words, tokens, dim)
    return projection + sum(joint if fusion.connected(j) else apart for j in range(len(fusion.layers))), 0


def _poolers(poolers: Pooler, tokens: int, image_dim: int) -> tuple[int, int, int]:
    """MACs of all poolers, then number and width of their output tokens."""
    dim = poolers.dim
    if type(poolers) is QueryPooler:
        return attention(1, tokens, dim, image_dim), 1, dim
    if type(poolers) is SharedPooler:
        queries = len(poolers.queries)
        return attention(queries, tokens, dim, image_dim), queries - 1, dim
    if type(poolers) is not AttentionalPoolers:
        raise NoFormula(poolers.origin)
    queries = len(poolers.captions.queries)
    single = (queries, dim) if poolers.cascade else (tokens, image_dim)
    return attention(queries, tokens, dim, image_dim) + attention(1, single[0], dim, single[1]), queries, dim


def _decoder(decoder: Decoder, tokens: int, image_dim: int, words: int) -> int:
    """MACs of the decoder.

    The unimodal half has one more position for [CLS] and one for the padding of the legacy mask; multimodal layers of
    open_clip have a second MLP.
    """
    if type(decoder) is not DecoupledDecoder:
        raise NoFormula(decoder.origin)
    dim, unimodal, multimodal = decoder.dim, len(decoder.unimodal), list(decoder.multimodal)
    cross = attention(words, tokens, dim, image_dim)
    second = sum(mlp(words, dim) for block in multimodal if isinstance(block, OpenClipLayer))
    positions = words + decoder.has_pooled + decoder.legacy
    return unimodal * layer(positions, dim) + len(multimodal) * (layer(words, dim) + cross) + second


def _heads(model: Model, pooled: bool, words: int) -> int:
    """MACs of the heads that PairInference (fvcore_macs) calls without a fusion."""
    rows = {"words": words if model.decoder else 0, "image": int(pooled), "classify": int(pooled)}
    rows["text"] = int(model.text_tower is not None)
    return sum(count * _head(model.heads[name]) for name, count in rows.items() if count and name in model.heads)


def _head(head: nn.Module) -> int:
    """MACs of a head for one state: the number of weights of its linear layers."""
    if type(head) not in (Classify, LanguageModelHead, Projection, Unit, Vocabulary):
        raise NoFormula(str(getattr(head, "origin", type(head).__name__)))
    return sum(part.in_features * part.out_features for part in head.modules() if isinstance(part, nn.Linear))
