"""timm's Vision Transformer with prunings, split before the first pruner. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from timm.layers import HybridEmbed, LayerNorm2d, PatchEmbed
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from core.blocks import first_pruned_block, run_blocks, score
from core.hookspecs import hookimpl
from core.kinds import Backbone, TokenPruner
from core.types import Tokens
from plugins.backbones.timm_options import TimmOptions, with_style
from plugins.backbones.weights import check_fit, check_settings, read_weights, resize_positions, shape_mismatches
from plugins.layers import fused_attention, initialise_tower
from plugins.pruners.prune_list import Prune, build_pruners, pruners_by_block
from registry.part import Count, Filled, NonNegativeFloat, NonNegativeInt, Pretrained


class ViT(Backbone):
    """Vision Transformer (Dosovitskiy et al. 2021) with prunings between its blocks.

    Sizes by name: ViT-S 384/12/6, ViT-B 768/12/12, ViT-L 1024/24/16 (dim/depth/heads).

    Args:
        embed_dim: width D.
        depth: number of blocks; 0: only embedded patches, for a single-stream fusion.
        num_heads: attention heads.
        patch_size: side of a patch in pixels; it must divide the image's side.
        stem: ``linear``: one convolution with stride ``patch_size``. ``conv``: 3x3 convolutions with stride 2 (Xiao et
            al. 2021); ``patch_size`` must then be a power of 2.
        mlp: width of the MLPs as a multiple of ``embed_dim``.
        cls: put a [CLS] token before the patches, whose state is the pooled state; without it the model needs a pooler
            (CoCa).
        style: ``plain``; ``clip`` (LayerNorm before the blocks, QuickGELU, CLIP's pixel mean and deviation);
            ``openclip`` (the same with exact GELU, as most of open_clip's models).
        timm: further settings of timm's ViTs, such as register tokens and the pixel mean, where they differ from the
            style's; an import writes them.
        prune: pruners and the blocks after which they act.
        weights: safetensors file of a timm or OpenAI CLIP ViT, or an import folder; the first blocks are loaded, and
            position embeddings and patch kernels resized.

    Raises:
        ValueError: sizes that do not divide, a pruner after the last block, weights that do not fit.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"dim": "embed_dim", "heads": "num_heads", "patch": "patch_size"}

    # arguments: eleven settings, eight of them timm's own, and two filled sizes
    def __init__(
        self,
        *,
        embed_dim: Count = 768,
        depth: NonNegativeInt = 12,
        num_heads: Count = 12,
        patch_size: Count = 16,
        mlp: NonNegativeFloat = 4.0,
        cls: bool = True,
        stem: Literal["linear", "conv"] = "linear",
        style: Literal["plain", "clip", "openclip"] = "plain",
        timm: TimmOptions | None = None,
        prune: Sequence[Prune] = (),
        weights: Pretrained = "",
        image_size: Filled[int],
        guide_dim: Filled[int] = 0,
    ):
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        if image_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide the image's side of {image_size} pixels")
        if embed_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide dim {embed_dim}")
        options = with_style(style, timm)
        self.dim, self.mlp, self.has_pooled = embed_dim, mlp, cls or bool(options.global_pool)
        self.has_closed_form = options.mlp_layer == "mlp" and options.global_pool != "map"  # of its MACs
        self.grid = (image_size // patch_size, image_size // patch_size)
        self.vit = VisionTransformer(
            img_size=image_size,
            patch_size=1 if stem == "conv" else patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp,
            class_token=cls,
            num_classes=0,
            embed_layer=_stem(stem, embed_dim, patch_size),
            **{"global_pool": "", **options.arguments()},
        )
        if depth == 0:
            self.vit.norm = nn.Identity()
        initialise_tower(self.vit.blocks, embed_dim)
        for name, pixels in (("mean", options.mean), ("deviation", options.std)):
            self.register_buffer(name, torch.tensor(pixels).view(1, 3, 1, 1) * 255, persistent=False)
        self.prunings = build_pruners(prune, depth, embed_dim, guide_dim)
        self.split = first_pruned_block(pruners_by_block(self.prunings), depth)
        if weights:
            settings = {"num_heads": num_heads, "options": options} if depth and stem == "linear" else {}
            self._load(weights, settings)

    @property
    def blocks(self) -> Sequence[_TimmBlock]:
        return [_TimmBlock(block) for block in self.vit.blocks]

    @property
    def pruners(self) -> Sequence[TokenPruner]:
        return tuple(pruners_by_block(self.prunings).values())

    def trunk(self, images: Tensor) -> Tokens:
        """Run the blocks before the first pruner: (B, 3, H, W) uint8 -> (B, N, D), N = 1 + P with [CLS]."""
        pixels = (images.float() - self.mean) / self.deviation  # (B, 3, H, W)
        fused = fused_attention(images.device, self.training)
        for block in self.vit.blocks:
            block.attn.fused_attn = fused
        x = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(pixels)))  # (B, N, D)
        tokens = Tokens(x, patches=(self.vit.num_prefix_tokens, int(x.shape[1])))
        return run_blocks(self.blocks, {}, tokens, last=self.split)

    def finish(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """Prune by ``guide`` (B, G) and run the remaining blocks: (B, N, D) -> (B, N', D)."""
        pruners = pruners_by_block(self.prunings) if self.pruning else {}
        tokens = run_blocks(self.blocks, pruners, trunk, guide, first=self.split)  # (B, N', D)
        x = self.vit.norm(tokens.x)  # (B, N', D)
        return Tokens(x, self._pool(x), tokens.mask, tokens.patches, tokens.source, tokens.scores)

    def _pool(self, x: Tensor) -> Tensor | None:
        """Pool the last states (B, N', D) -> (B, D) as timm does; None if nothing is pooled."""
        if self.vit.global_pool:
            pooled: Tensor = self.vit.forward_head(x, pre_logits=True)  # (B, D)
            return pooled
        return x[:, 0] if self.vit.has_class_token else None  # (B, D)

    def score(self, trunk: Tokens, guide: Tensor | None = None) -> Tensor | None:
        """The first pruner's logits (B, P); None without a pruner."""
        return score(self.blocks, pruners_by_block(self.prunings), trunk, guide, first=self.split)

    def _load(self, file: str, settings: dict[str, Any]) -> None:
        """Load weights, resized to this patch size and resolution (by timm, bicubic)."""
        weights, parameters = read_weights(file), self.vit.state_dict()
        if settings:
            resize_positions(weights, check_settings(file, weights, **settings), self.vit)
        convolutions = [k for k in parameters if k.startswith("patch_embed.backbone.") and k not in weights]
        if convolutions:
            raise ValueError(f"{file}: does not fit stem 'conv': lacks {', '.join(convolutions[:3])}")
        try:
            state = checkpoint_filter_fn(weights, self.vit)
        except Exception as err:  # timm reshapes without any check
            raise ValueError(f"{file}: cannot be resized to this ViT's patch and image size: {err}") from err
        faults = {
            "lacks": [k for k in parameters if k not in state],
            "has": shape_mismatches(state, parameters),
            "has what this ViT does not compute,": [k for k in state if k not in parameters and self._is_used(k)],
        }
        check_fit(file, "ViT", faults)
        self.vit.load_state_dict({k: state[k] for k in parameters})

    def _is_used(self, name: str) -> bool:
        """Return True if a tensor of a file affects the states after these blocks, unlike heads and later blocks."""
        part, *rest = name.split(".")
        if part == "blocks":
            return int(rest[0]) < len(self.vit.blocks)
        return part in ("patch_embed", "cls_token", "reg_token", "dist_token", "pos_embed", "norm_pre")


class _TimmBlock:
    """``core.blocks.Block`` of a timm block. The mask is ignored: all tokens of an image may be attended to."""

    def __init__(self, block: Any):
        self.block = block

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.block(x)  # (B, N, D)
        return out

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        block = self.block
        return x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))  # (B, N, D)

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))  # (B, N, D)

    def attention_maps(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys (B, heads, N, D / heads) and weights (B, heads, N, N) of the attention, for the block's input."""
        attn = self.block.attn
        qkv = attn.qkv(self.block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1))  # (B, N, 3, heads, D / heads)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D / heads)
        query, key = attn.q_norm(query), attn.k_norm(key)  # (B, heads, N, D / heads)
        return key, (query @ key.transpose(-2, -1) * attn.scale).softmax(-1)


def _stem(stem: str, dim: int, patch: int) -> Callable[..., nn.Module]:
    """Return timm's constructor of the patch embedding."""
    if stem == "linear":
        return PatchEmbed
    halvings = patch.bit_length() - 1
    if patch != 2**halvings or halvings < 1:
        raise ValueError(f"stem 'conv' needs a patch_size that is a power of 2, got {patch}")
    widths = [max(8, dim >> (halvings - 1 - i)) for i in range(halvings)]  # doubling up to dim
    convolutions = ConvStem(  # stride-2 convolutions, then 1x1
        depth=halvings + 1,
        channels=(*widths, dim),
        kernel_size=(3,) * halvings + (1,),
        stride=(2,) * halvings + (1,),
        norm_layer=LayerNorm2d,
        act_layer=nn.GELU,
    )
    return partial(HybridEmbed, backbone=convolutions, proj=False)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("vit", ViT)
