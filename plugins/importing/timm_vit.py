"""Import of a timm Vision Transformer as a folder for ``model.backbone.weights``."""

from __future__ import annotations

import os
from typing import Any

import timm
import torch
from torch import Tensor

from core.files import SIZES, write_json
from plugins.backbones.timm_config import Original, describe_original
from plugins.backbones.vit import ViT
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.comparison import compare, normalise, random_image
from plugins.importing.config import find_config
from plugins.importing.folder import new_folder, write_recipe, write_weights
from plugins.importing.recognition import check_kind

UNUSED_TENSORS = (r"head\..*", r"head_drop\..*", "mask_token")  # classifier and pretraining, which no part uses
POOLING = ("fc_norm.", "attn_pool.")


def import_timm(file: str, out: str, vocabulary: str, config: str, command: str) -> str:
    """Import a checkpoint into a folder; returns a message for the user.

    Args:
        file: the checkpoint, or its folder.
        out: the folder.
        vocabulary: must be "".
        config: the model's config.json on the hub, with its architecture; "": the one beside the file, if it is timm's.
        command: the command line, for the recipe's first line.

    Raises:
        ValueError: a tensor or setting does not fit, or outputs differ from timm's; names the file and the fault.
    """
    if vocabulary:
        raise ValueError(f"--vocabulary {vocabulary}: an image encoder has none")
    checkpoint = read_tensors(file)
    config_file, settings = find_config(checkpoint.file, config, ("config.json",), ("architecture", "pretrained_cfg"))
    check_kind(checkpoint, "timm")
    for library, key in (("transformers", "model_type"), ("open_clip", "vision_cfg"), ("open_clip", "model_cfg")):
        if key in settings:
            raise ValueError(
                f"{config_file}: {key} belongs to the configurations of {library}; expected timm's, with architecture"
            )
    original = describe_original(checkpoint, config_file, settings)
    tensors = _take(checkpoint, original)
    parameters, classifier = sum(tensor.numel() for tensor in tensors.values()), bool(checkpoint.left)
    checkpoint.tensors = {}
    theirs = {} if original.unknown else _run_original(original, tensors)

    side, chosen = original.image_size, dict(original.settings)
    if "timm" in chosen:
        changes = chosen["timm"].changes()
        chosen["timm"] = {name: list(v) if isinstance(v, tuple) else v for name, v in changes.items()}
    note = f"{command}\nuse it in a recipe with extends: {out}/recipe.yaml; its images are {side} pixels wide"
    with new_folder(out) as folder:
        write_weights(folder, tensors)
        write_recipe(folder, {"model": {"backbone": {"name": "vit", **chosen, "weights": out}}}, note)
        if config_file:  # guesses alone do not bind recipes
            write_json(os.path.join(folder, "config.json"), original.config)
        crop = str(settings.get("pretrained_cfg", settings).get("crop_mode", "center")) != "squash"
        write_json(os.path.join(folder, SIZES), {"image_size": side, "crop": crop})
        tensors.clear()
        comparison = f"nothing was compared with timm: {original.unknown}"
        if theirs:
            comparison = compare(f"timm {timm.__version__}", theirs, _run_import(original, folder), "a random image")
    architecture = "a ViT" if original.unknown else str(original.config["architecture"])
    lines = [f"{out}: {architecture}, {parameters:,} parameters; {', '.join(f'{k} {v}' for k, v in chosen.items())}"]
    lines += [f"read: {config_file}"] if config_file else []
    reason = f"; {original.unknown}" if original.unknown else ""
    lines += [f"guessed: {'; '.join(original.guesses)}{reason}"] if original.guesses else []
    lines += _describe_images(original)
    lines += ["left out: the classifier and other tensors without effect on patches"] if classifier else []
    lines += [comparison, _describe_use(out, side)]
    return "\n".join(lines)


def _take(checkpoint: ForeignCheckpoint, original: Original) -> dict[str, Tensor]:
    """Return the tensors (any shape) of the original, which must be those of the part.

    Raises:
        ValueError: a tensor is missing, of another shape, or not computed here; names file and tensor.
    """
    with torch.device("meta"):
        part = ViT(**original.settings, image_size=original.image_size).vit.state_dict()
    expected = original.model.state_dict()
    tensors = {name: checkpoint.take(name, *tensor.shape) for name, tensor in expected.items()}
    others = [name for name in expected if name not in part and not name.startswith(POOLING)]
    others += [name for name in part if name not in expected]
    if others:
        architecture = original.config["architecture"]
        raise ValueError(
            f"{checkpoint.file}: {architecture} has what a ViT here does not compute: {', '.join(others[:3])}"
        )
    checkpoint.refuse_left("a ViT here", *UNUSED_TENSORS)
    return tensors


def _run_original(original: Original, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run timm's model on a random image of its size, or of the recipe's if that is no square.

    Its tensors of any shape are used as they are: they take no further memory.
    """
    model: Any = original.model
    model.load_state_dict(tensors, assign=True)
    height, width = original.input_size
    if original.grid[0] != original.grid[1]:
        height = width = original.image_size
        model.set_input_size((height, width))
    with torch.no_grad():
        pixels = original.config["pretrained_cfg"]
        images = normalise(random_image(height, width), pixels["mean"], pixels["std"])  # (1, 3, H, W)
        states = model.eval().forward_features(images)  # (1, N, D)
        pooled = {"pooled state": model.forward_head(states, pre_logits=True)} if model.global_pool else {}  # (1, D)
    model.to("meta")  # frees the tensors
    return {"states": states, **pooled}


def _run_import(original: Original, folder: str) -> dict[str, Tensor]:
    """Run the part with the folder's weights on the same image: states (1, N, D), and pooled (1, D) if it pools."""
    side = original.image_size
    part = ViT(**original.settings, weights=folder, image_size=side).eval()
    height, width = original.input_size if original.grid[0] == original.grid[1] else (side, side)
    with torch.no_grad():
        tokens = part(random_image(height, width)[..., :side, :side])
    return {"states": tokens.x} if tokens.pooled is None else {"states": tokens.x, "pooled state": tokens.pooled}


def _describe_images(original: Original) -> list[str]:
    """Describe how images differ from the original's, if they do."""
    (height, width), (down, across), side = original.input_size, original.grid, original.image_size
    patch = int(original.settings["patch_size"])
    if down != across:
        return [
            f"resized: the original is for images of {height} x {width} pixels, {down} x {across} patches. Images here "
            f"are square: position embeddings are resized from {down} x {across} to the recipe's grid, {side // patch} "
            f"x {side // patch} at {side} pixels (bicubic, by timm); features differ from those of {height} x {width}"
        ]
    if side != height:
        return [
            f"images: {height} pixels are no multiple of the patch's {patch}: timm leaves out the last "
            f"{height - side}; images here are {side} pixels wide"
        ]
    return []


def _describe_use(out: str, side: int) -> str:
    """State what the folder can be used for."""
    return (
        f"use: an image encoder for images of {side} pixels; other sizes resize its position embeddings. In a recipe: "
        f"extends: {out}/recipe.yaml, or model.backbone.weights: {out}. It has no text encoder, decoder or objectives: "
        "captions, retrieval and zero-shot classes need training with a recipe that adds them"
    )
