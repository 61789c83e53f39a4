"""The architecture of a ViT's weights, from timm's configuration where there is one, else from the tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch

from plugins.backbones.timm_options import TimmOptions, beyond_options, read_options, split_style
from plugins.backbones.timm_shapes import Shapes, arguments_of, mlp_ratio, sizes_of
from plugins.importing.checkpoint_file import ForeignCheckpoint
from plugins.importing.config import NO_CONFIG, dividing, guess_heads, pixels, section
from registry import near

# of a classifier, of training or of initialisation: without effect on the states of patches in evaluation
UNUSED_ARGUMENTS = ("num_classes", "weight_init", "fix_init", "pretrained", "dynamic_img_size", "dynamic_img_pad")


@dataclass(frozen=True)
class Original:
    """A ViT as timm builds it."""

    model: Any  # timm's VisionTransformer on the meta device, without a classifier
    settings: dict[str, Any]  # of the part ``vit``
    options: TimmOptions
    input_size: tuple[int, int]  # pixels, height and width
    grid: tuple[int, int]  # patches, down and across
    config: dict[str, Any]  # in timm's format
    guesses: tuple[str, ...]  # what neither tensors nor configuration determine
    unknown: str  # why timm's own model is not known, or an empty text

    @property
    def image_size(self) -> int:
        """The side of the square images of the same area in patches."""
        return round(math.sqrt(self.grid[0] * self.grid[1])) * int(self.settings["patch_size"])


def describe_original(checkpoint: ForeignCheckpoint, config_file: str, config: dict[str, Any]) -> Original:
    """Find the architecture of weights.

    Args:
        checkpoint: the weights; its tensors are not taken.
        config_file: name of the configuration, or "".
        config: its content, in timm's format; may be empty.

    Raises:
        ValueError: the two disagree, or the part ``vit`` cannot compute the model; names file and setting.
    """
    where = config_file or f"{checkpoint.file}, without --config"
    pretrained, model_args = section(config, "pretrained_cfg", where) or config, section(config, "model_args", where)
    arguments = {key: value for key, value in model_args.items() if key not in UNUSED_ARGUMENTS}
    arguments |= {"num_heads": config["num_heads"]} if "num_heads" in config else {}
    name, unknown = str(config.get("architecture") or ""), ""
    if not name:
        reason = f"{config_file} names no architecture" if config_file else NO_CONFIG
        unknown = f"{reason}: --config, timm's config.json"
    elif not timm.is_model(name):
        unknown = f"timm {timm.__version__} has no architecture {name!r}{near(name, timm.list_models('vit*'))}"
    else:
        default = _build(name, {}, where)
        _check(default, f"{where}: {name}")
    sizes = sizes_of(checkpoint)
    shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    if unknown:
        arguments = {**arguments_of(shapes, sizes), **arguments}
        name = "vit_base_patch16_clip_224" if arguments.pop("pre_norm") else "vit_base_patch16_224"
        if arguments.pop("swiglu"):
            name = "vit_giant_patch14_dinov2"
    else:
        _reconcile(default, arguments, sizes, where)
        arguments |= _pooling(str(pretrained.get("global_pool") or config.get("global_pool") or ""), arguments, shapes)
    registered: Any = timm.get_pretrained_cfg(name)
    guesses: list[str] = []
    _add_heads(name, arguments, sizes, shapes, guesses, where, unknown)
    model = _build(name, arguments, where)
    usual = {"mean": registered.mean, "std": registered.std}
    mean, std = (pixels(pretrained, f"pretrained_cfg.{key}", usual[key], where) for key in usual)
    reason = "" if unknown else f" ({where} has none; it is timm's for the architecture)"
    guesses += [f"pixel {key} {list(usual[key])}{reason}" for key in usual if pretrained.get(key) is None]
    stated = {"input_size": [3, 0, 0] if unknown else list(registered.input_size), **pretrained, **arguments}
    size = _input_size(checkpoint.file, model, shapes, stated, sizes["patch_size"], guesses, where)
    arguments["img_size"] = list(size)
    model = _build(name, arguments, where)
    _check(model, f"{where}: {name}")
    if model_args.get("dynamic_img_pad") and any(side % sizes["patch_size"] for side in size):
        raise ValueError(f"{where}: model_args.dynamic_img_pad fills up patches beyond {size[0]} x {size[1]} pixels")
    options = read_options(model, mean, std)
    if unknown:
        kind = "SiLU" if options.mlp_layer == "swiglu" else options.act_layer or "exact GELU"
        guesses.append(f"activation {kind}, eps of LayerNorm {model.blocks[0].norm1.eps:g}")
    dim, hidden = sizes["embed_dim"], shapes["blocks.0.mlp.fc1.weight"][0]
    settings = {"embed_dim": dim, "depth": sizes["depth"], "num_heads": arguments["num_heads"]}
    settings |= {"patch_size": sizes["patch_size"], "mlp": mlp_ratio(hidden, dim), "cls": model.has_class_token}
    output = {"architecture": name, "num_classes": 0, "model_args": arguments}
    images = {"input_size": [3, *size], "mean": list(mean), "std": list(std), "num_classes": 0}
    output["pretrained_cfg"] = {**(pretrained if "pretrained_cfg" in config else {}), **images}
    grid = (int(model.patch_embed.grid_size[0]), int(model.patch_embed.grid_size[1]))
    style = split_style(options)
    return Original(model, settings | style, options, size, grid, output, tuple(guesses), unknown)


def _build(name: str, arguments: Mapping[str, Any], where: str) -> Any:
    """Build timm's model on the meta device, without a classifier.

    Raises:
        ValueError: timm cannot.
    """
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except Exception as err:  # of many classes: timm checks little
        settings = ", ".join(f"{key} {value!r}" for key, value in arguments.items())
        raise ValueError(f"{where}: timm {timm.__version__} cannot build {name!r} with {settings}: {err}") from err


def _check(model: Any, name: str) -> None:
    """Check that the part ``vit`` can compute a model.

    Raises:
        ValueError: it cannot; states the name and what the model has.
    """
    problem = beyond_options(model)
    if problem:
        raise ValueError(f"{name} {problem}")


def _reconcile(default: Any, arguments: dict[str, Any], sizes: Mapping[str, int], where: str) -> None:
    """Complete the arguments of an architecture, whose default model is given, by sizes of the tensors.

    Raises:
        ValueError: an argument that the configuration states disagrees with the tensors.
    """
    patch = default.patch_embed.patch_size[0]
    usual = {"embed_dim": default.embed_dim, "depth": len(default.blocks), "patch_size": patch}
    for key, size in sizes.items():
        stated = arguments.get(key, size)
        if stated not in (size, [size, size]):
            raise ValueError(f"{where}: model_args.{key} is {stated!r}; the tensors have {size}")
        if usual[key] != size:
            arguments[key] = size
    if usual["embed_dim"] == sizes["embed_dim"]:
        arguments.setdefault("num_heads", int(default.blocks[0].attn.num_heads))


def _pooling(pool: str, arguments: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Return arguments for the pooling that a configuration states outside model_args, if the tensors are for it."""
    needs = {"token": "cls_token", "map": "attn_pool.latent", "avg": "", "avgmax": "", "max": ""}
    if "global_pool" in arguments or pool not in needs or needs[pool] not in (*shapes, ""):
        return {}
    keep_norm = not needs[pool] and "norm.weight" in shapes and "fc_norm" not in arguments
    return {"global_pool": pool, **({"fc_norm": False} if keep_norm else {})}


def _add_heads(
    name: str,
    arguments: dict[str, Any],
    sizes: Mapping[str, int],
    shapes: Shapes,
    guesses: list[str],
    where: str,
    unknown: str,
) -> None:
    """Set the number of heads: stated, determined by the norm of queries, or guessed.

    Raises:
        ValueError: the number does not divide the width.
    """
    dim = sizes["embed_dim"]
    queries = shapes.get("blocks.0.attn.q_norm.weight")
    if "num_heads" not in arguments and queries:
        arguments["num_heads"] = dim // queries[0]
    if "num_heads" not in arguments:
        arguments["num_heads"], reason = guess_heads(dim)
        guesses.append(reason if unknown else f"{reason} ({where} has none for {name} with embed_dim {dim})")
    arguments["num_heads"] = dividing(arguments, "num_heads", 1, dim, where)


def _input_size(
    file: str,
    model: Any,
    shapes: Shapes,
    config: Mapping[str, Any],
    patch: int,
    guesses: list[str],
    where: str,
) -> tuple[int, int]:
    """Return height and width of the images in pixels, checked against the number of position embeddings.

    Raises:
        ValueError: that number is neither the configured one nor a square.
    """
    size = config.get("img_size", config["input_size"])
    size = [size, size] if isinstance(size, int) else list(size)[-2:]
    if any(size) and (len(size) != 2 or not all(type(side) is int and side >= patch for side in size)):
        raise ValueError(f"{where}: the images' size is {size!r}; expected height and width of at least {patch} pixels")
    if "pos_embed" not in shapes:
        return (size[0], size[1]) if any(size) else (224 // patch * patch,) * 2
    cells = shapes["pos_embed"][1] - (0 if model.no_embed_class else model.num_prefix_tokens)
    if cells == (size[0] // patch) * (size[1] // patch):
        return size[0], size[1]
    side = math.isqrt(max(cells, 0))
    if side < 1 or side**2 != cells:
        stated = f", nor those of {size[0]} x {size[1]} pixels" if any(size) else ""
        raise ValueError(
            f"{file}: 'pos_embed' has {cells} places for patches: no square{stated}; state "
            "the images' size by pretrained_cfg.input_size in timm's config.json: --config FILE"
        )
    guesses.append(f"a square grid of {side} x {side} patches, images of {side * patch} x {side * patch} pixels")
    return side * patch, side * patch
