"""Settings of timm's VisionTransformer besides its sizes, and the families of weights that share them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from timm.layers import GELUTanh, GluMlp, Mlp, QuickGELU
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from registry.part import NonNegativeFloat, NonNegativeInt

CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ACTIVATIONS: dict[str, Any] = {"gelu": nn.GELU, "gelu_tanh": GELUTanh, "quick_gelu": QuickGELU}
GATED_MLP = partial(GluMlp, gate_last=False)
POOLS = ("avg", "avgmax", "max", "map")  # timm's poolings of all patches


# arguments: one for each argument of timm's that its public ViTs set
@dataclass(frozen=True)
class TimmOptions:
    """Settings under timm's names, all optional; ``mean`` and ``std`` of pixels between 0 and 1.

    ``reg_tokens``: register tokens. ``init_values``: start of the layer scale; 0: none. ``pos_embed`` none: no
    position embeddings. ``global_pool`` empty: the state of [CLS] is the pooled state; avg, max, avgmax and map pool
    the patches as timm does, after ``fc_norm``'s choice of the place of the last norm.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    reg_tokens: NonNegativeInt = 0
    no_embed_class: bool = False
    pos_embed: Literal["learn", "none"] = "learn"
    pre_norm: bool | None = None
    norm_eps: NonNegativeFloat | None = None
    final_norm: bool = True
    qkv_bias: bool = True
    proj_bias: bool = True
    qk_norm: bool = False
    init_values: NonNegativeFloat = 0.0
    act_layer: Literal["gelu", "gelu_tanh", "quick_gelu"] | None = None
    mlp_layer: Literal["mlp", "swiglu"] = "mlp"
    global_pool: Literal["", "token", "avg", "avgmax", "max", "map"] = ""
    fc_norm: bool | None = None

    def changes(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults."""
        return _differences(self, TimmOptions())

    def arguments(self) -> dict[str, Any]:
        """Return arguments of timm's constructor for the settings that differ from the defaults."""
        arguments = {name: value for name, value in self.changes().items() if name not in ("mean", "std")}
        if "norm_eps" in arguments:
            arguments["norm_layer"] = partial(nn.LayerNorm, eps=arguments.pop("norm_eps"))
        if "act_layer" in arguments:
            arguments["act_layer"] = ACTIVATIONS[arguments["act_layer"]]
        if "mlp_layer" in arguments:
            arguments |= {"mlp_layer": GATED_MLP, "act_layer": nn.SiLU}
        return arguments


STYLES: dict[str, TimmOptions] = {  # pixels and arguments of each family of weights
    "plain": TimmOptions(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "clip": TimmOptions(*CLIP_PIXELS, pre_norm=True, norm_eps=1e-5, act_layer="quick_gelu"),
    "openclip": TimmOptions(*CLIP_PIXELS, pre_norm=True, norm_eps=1e-5),
}


def with_style(style: str, options: TimmOptions | None) -> TimmOptions:
    """Return the options of a style, replaced by those that ``options`` sets."""
    return dataclasses.replace(STYLES[style], **(options.changes() if options else {}))


def split_style(options: TimmOptions) -> dict[str, Any]:
    """Return the setting ``style`` and, where options differ from the nearest style's, ``timm``."""
    changes = {style: _differences(options, common) for style, common in STYLES.items()}
    # a default would not replace the style's
    changes = {style: values for style, values in changes.items() if TimmOptions(**values).changes() == values}
    style = min(changes, key=lambda name: len(changes[name]))
    return {"style": style, **({"timm": TimmOptions(**changes[style])} if changes[style] else {})}


def _differences(options: TimmOptions, others: TimmOptions) -> dict[str, Any]:
    """Return the settings of ``options`` that differ from those of ``others``."""
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {name: value for name, value in values.items() if value != getattr(others, name)}


def read_options(model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> TimmOptions:
    """Read the options of a ViT that timm has built, for which ``beyond_options`` is empty."""
    vit: Any = model
    block, pool = vit.blocks[0], str(vit.global_pool)
    norm_eps, moved_norm = block.norm1.eps, not isinstance(vit.fc_norm, nn.Identity)
    keep_pool = pool in POOLS or (pool == "token" and moved_norm)
    pre_norm = not isinstance(vit.norm_pre, nn.Identity)
    return TimmOptions(
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        reg_tokens=int(vit.num_reg_tokens),
        no_embed_class=bool(vit.no_embed_class) and bool(vit.num_prefix_tokens),
        pos_embed="none" if vit.pos_embed is None else "learn",
        pre_norm=pre_norm or None,
        norm_eps=None if norm_eps == NORM_EPS else norm_eps,
        final_norm=moved_norm or not isinstance(vit.norm, nn.Identity),
        qkv_bias=block.attn.qkv.bias is not None,
        proj_bias=block.attn.proj.bias is not None,
        qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        init_values=0.0 if isinstance(block.ls1, nn.Identity) else 1e-5,
        act_layer=_activation(block.mlp) or None,  # type: ignore[arg-type]
        mlp_layer="mlp" if type(block.mlp) is Mlp else "swiglu",
        global_pool=pool if keep_pool else "",  # type: ignore[arg-type]
        fc_norm=moved_norm if keep_pool and moved_norm != (pool in POOLS[:3]) else None,
    )


NORM_EPS = 1e-6  # timm's


def _activation(mlp: nn.Module) -> str | None:
    """Return the activation of an MLP, "" for timm's default, None for another one."""
    if type(mlp) is not Mlp:
        return ""
    name = type(mlp.act).__name__
    if name == "GELU":
        return "gelu_tanh" if getattr(mlp.act, "approximate", "none") == "tanh" else ""
    return {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}.get(name)


def beyond_options(model: nn.Module) -> str:
    """Return the reason why options cannot express a model, or an empty text."""
    name = type(model).__name__
    if type(model) is not VisionTransformer:
        more = " (it has a distillation token)" if name == "VisionTransformerDistilled" else ""
        return f"is a {name} of timm{more}; read is timm's VisionTransformer"
    vit: Any = model
    if len(vit.blocks) == 0:
        return "has no blocks"
    block = vit.blocks[0]
    patch, mlp, norm = vit.patch_embed, getattr(block, "mlp", None), getattr(block, "norm1", None)
    if type(block) is not Block:
        return f"has blocks of the kind {type(block).__name__}; read are timm's Block"
    if type(block.attn).__name__ != "Attention" or block.attn.head_dim * block.attn.num_heads != vit.embed_dim:
        return f"has attention of the kind {type(block.attn).__name__} with heads {block.attn.head_dim} wide"
    if not isinstance(norm, nn.LayerNorm):
        return f"has norms of the kind {type(norm).__name__}; read is LayerNorm"
    if type(patch).__name__ != "PatchEmbed" or not isinstance(patch.norm, nn.Identity):
        return f"embeds patches by {type(patch).__name__} with {type(getattr(patch, 'norm', None)).__name__}"
    if patch.patch_size[0] != patch.patch_size[1]:
        return f"has patches of {patch.patch_size[0]} x {patch.patch_size[1]} pixels; read are square ones"
    if patch.proj.in_channels != 3:
        return f"reads {patch.proj.in_channels} channels; images here have 3"
    if vit.global_pool not in ("", "token", *POOLS) or vit.pool_include_prefix:
        return f"pools by {vit.global_pool!r}, prefix tokens included: {vit.pool_include_prefix}"
    swiglu = isinstance(mlp, GluMlp) and isinstance(mlp.act, nn.SiLU) and not mlp.gate_last
    if type(mlp) is not Mlp and not swiglu:
        return f"has MLPs of the kind {type(mlp).__name__}; read are Mlp and SwiGLUPacked"
    if isinstance(mlp, Mlp) and _activation(mlp) is None:
        return f"has the activation {type(mlp.act).__name__}; read are {', '.join(ACTIVATIONS)}"
    return ""
