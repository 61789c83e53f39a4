"""Import of open_clip's CoCa (``coca_*`` models)."""

from __future__ import annotations

import torch
from torch import Tensor

from core import discovery
from core.loading import build_model, recipe_in
from core.model import ModelSpec
from core.recipe import read_model
from plugins.backbones.timm_options import CLIP_PIXELS
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.comparison import compare
from plugins.importing.config import describe_guesses, find_config
from plugins.importing.folder import new_folder, vocabulary_of, write_recipe, write_weights
from plugins.importing.open_clip_config import Shape, configured, flat_settings, list_guesses, read_shape
from plugins.importing.open_clip_original import run_import, run_original
from plugins.importing.recognition import check_kind

CONFIG_FILES = ("open_clip_config.json", "config.json")  # beside a checkpoint
BUFFERS = r".*\battn_mask"  # masks in older checkpoints
BLOCK_NAMES = {
    "ln_1": "norm1",
    "attn.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class _Translation:
    """Translation of open_clip's tensors, (out, in) unless stated, to Patchbay's names."""

    def __init__(self, checkpoint: ForeignCheckpoint):
        self.checkpoint, self.tensors = checkpoint, dict[str, Tensor]()

    def copy(self, ours: str, theirs: str, *shape: int) -> None:
        self.tensors[ours] = self.checkpoint.take(theirs, *shape)

    def affine(self, ours: str, theirs: str, out: int, *into: int) -> None:
        """Copy a weight (out, into), or (out,) of a norm, and its bias (out,)."""
        self.copy(f"{ours}.weight", f"{theirs}.weight", out, *into)
        self.copy(f"{ours}.bias", f"{theirs}.bias", out)

    def transposed(self, ours: str, theirs: str, into: int, out: int) -> None:
        """Copy a weight (into, out) transposed: open_clip computes x @ weight."""
        self.tensors[ours] = self.checkpoint.take(theirs, into, out).T

    def attention(self, ours: str, theirs: str, dim: int, source_dim: int) -> None:
        """Copy queries, keys and values: one matrix if their inputs are equally wide, else three."""
        names = ("query", "key", "value")
        if source_dim == dim:
            weights = self.checkpoint.take(f"{theirs}.in_proj_weight", 3 * dim, dim).chunk(3)
        else:
            sources = (dim, source_dim, source_dim)
            weights = tuple(
                self.checkpoint.take(f"{theirs}.{name[0]}_proj_weight", dim, source)
                for name, source in zip(names, sources, strict=True)
            )
        biases = self.checkpoint.take(f"{theirs}.in_proj_bias", 3 * dim).chunk(3)
        for name, weight, bias in zip(names, weights, biases, strict=True):
            self.tensors[f"{ours}.{name}.weight"], self.tensors[f"{ours}.{name}.bias"] = weight.clone(), bias.clone()
        self.affine(f"{ours}.out", f"{theirs}.out_proj", dim, dim)

    def layer(self, ours: str, theirs: str, dim: int, *, attention: str = "attention") -> None:
        """Copy attention and MLP with the norms before them."""
        self.affine(f"{ours}.{attention}_norm", f"{theirs}.ln_1", dim)
        self.attention(f"{ours}.{attention}", f"{theirs}.attn", dim, dim)
        self.affine(f"{ours}.norm", f"{theirs}.ln_2", dim)
        self.affine(f"{ours}.fc1", f"{theirs}.mlp.c_fc", 4 * dim, dim)
        self.affine(f"{ours}.fc2", f"{theirs}.mlp.c_proj", dim, 4 * dim)


def translate(checkpoint: ForeignCheckpoint, shape: Shape) -> dict[str, Tensor]:
    """Return the tensors (any shape) under the names of Patchbay's parts.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown; names file and tensor.
    """
    translation = _Translation(checkpoint)
    _translate_image_side(translation, shape)
    _translate_text_side(translation, shape)
    translation.tensors["heads.temperature.log"] = -checkpoint.take("logit_scale")
    checkpoint.refuse_left("an open_clip coca_* model here", BUFFERS)
    return translation.tensors


def _translate_image_side(translation: _Translation, shape: Shape) -> None:
    width, dim, cells = shape.width, shape.dim, shape.grid**2 + 1
    sizes = {"norm1": (width,), "attn.proj": (width, width), "norm2": (width,)}
    hidden = round(shape.mlp * width)
    sizes |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    translation.tensors["backbone.vit.cls_token"] = translation.checkpoint.take("visual.class_embedding", width)[
        None, None
    ]
    translation.tensors["backbone.vit.pos_embed"] = translation.checkpoint.take(
        "visual.positional_embedding", cells, width
    )[None]
    kernel = (width, 3, shape.patch, shape.patch)
    translation.copy("backbone.vit.patch_embed.proj.weight", "visual.conv1.weight", *kernel)
    translation.affine("backbone.vit.norm_pre", "visual.ln_pre", width)
    for index in range(shape.depth):
        ours, theirs = f"backbone.vit.blocks.{index}", f"visual.transformer.resblocks.{index}"
        for part, name in BLOCK_NAMES.items():
            translation.affine(f"{ours}.{name}", f"{theirs}.{part}", *sizes[name])
        translation.copy(f"{ours}.attn.qkv.weight", f"{theirs}.attn.in_proj_weight", 3 * width, width)
        translation.copy(f"{ours}.attn.qkv.bias", f"{theirs}.attn.in_proj_bias", 3 * width)
    translation.affine("backbone.vit.norm", "visual.attn_pool.ln_k", width)
    translation.copy("pooler.queries", "visual.attn_pool.query", shape.queries, dim)
    translation.affine("pooler.query_norm", "visual.attn_pool.ln_q", dim)
    translation.attention("pooler.attention", "visual.attn_pool.attn", dim, width)
    translation.affine("pooler.norm", "visual.ln_post", dim)
    translation.transposed("heads.image.linear.weight", "visual.proj", dim, dim)


def _translate_text_side(translation: _Translation, shape: Shape) -> None:
    dim = shape.dim
    translation.copy("decoder.words.weight", "text.token_embedding.weight", shape.vocabulary, dim)
    translation.copy("decoder.positions.weight", "text.positional_embedding", shape.context + 1, dim)
    translation.copy("decoder.cls", "text.cls_emb", dim)
    for index in range(shape.unimodal):
        translation.layer(f"decoder.unimodal.{index}", f"text.transformer.resblocks.{index}", dim)
    translation.affine("decoder.cls_norm", "text.ln_final", dim)
    translation.transposed("heads.text.linear.weight", "text.text_projection", dim, dim)
    for index in range(shape.multimodal):
        ours, theirs = f"decoder.multimodal.{index}", f"text_decoder.cross_attn.{index}"
        translation.layer(f"{ours}.self_layer", f"text_decoder.resblocks.{index}", dim)
        translation.layer(ours, theirs, dim, attention="cross")
        translation.affine(f"{ours}.cross.source_norm", f"{theirs}.ln_1_kv", dim)
    translation.affine("decoder.final_norm", "text_decoder.ln_final", dim)
    translation.transposed("heads.words.words.weight", "text_decoder.text_projection", dim, shape.vocabulary)


def recipe(shape: Shape) -> dict[str, object]:
    """Write the recipe of this model; its ``data:`` is a placeholder."""
    tower: dict[str, object] = {
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.width // shape.vision_head,
    }
    decoder = {"unimodal": shape.unimodal, "multimodal": shape.multimodal, "layout": "openclip", "cls": True}
    decoder |= {"mask": "correct" if shape.correct_mask else "legacy"}
    decoder |= {"embed_dim": shape.dim, "num_heads": shape.text_heads, "dropout": 0.0}
    projection = {"name": "projection", "width": shape.dim, "bias": False}
    tower |= {"patch_size": shape.patch, "mlp": shape.mlp, "style": "openclip"}
    if shape.pixels != CLIP_PIXELS:
        tower["timm"] = {"mean": list(shape.pixels[0]), "std": list(shape.pixels[1])}
    return {
        "model": {
            "backbone": {"name": "vit", **tower},
            "pooler": {"name": "shared", "queries": shape.queries, "width": shape.dim, "num_heads": shape.pooler_heads},
            "decoder": {"name": "decoupled", **decoder},
            "heads": {"image": projection, "text": dict(projection), "temperature": "temperature", "words": "lm_head"},
        },
        "objectives": {"itc": {"weight": 1.0}, "caption": {"weight": 2.0}},
        "data": {"name": "scenes", "image_size": shape.image_size, "text_length": shape.context},
    }


def import_open_clip(file: str, out: str, vocabulary: str, config: str, command: str) -> str:
    """Import a checkpoint into a folder; returns a message for the user.

    Args:
        file: the checkpoint.
        out: the folder.
        vocabulary: a file, such as open_clip's bpe_simple_vocab_16e6.txt.gz.
        config: open_clip's JSON of the model; "": the one beside the file, if it is open_clip's.
        command: the command line, for the recipe's first line.

    Raises:
        ValueError: a tensor or setting does not fit; names the file, the tensor and the expected shape.
    """
    checkpoint = read_tensors(file)
    file = checkpoint.file
    config_file, content = find_config(file, config, CONFIG_FILES, ("model_cfg", "vision_cfg", "embed_dim"))
    check_kind(checkpoint, "open_clip")
    shape = read_shape(checkpoint)
    settings = flat_settings(content, config_file)
    if config_file:
        shape = configured(shape, config_file, content)
    words = "text.token_embedding.weight"
    tokenizer = vocabulary_of(vocabulary, shape.context, shape.vocabulary, file, words)
    tensors = translate(checkpoint, shape)
    library, theirs = run_original(shape, checkpoint.tensors)
    checkpoint.tensors = {}
    sizes = ModelSpec(shape.image_size, shape.context, shape.vocabulary, crop=shape.crop)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    with new_folder(out) as folder:
        write_recipe(folder, recipe(shape), command)
        with torch.device("meta"):
            model = build_model(read_model(recipe_in(folder), discovery.load()), sizes)
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        assert expected == {name: tensor.shape for name, tensor in tensors.items()}
        write_weights(folder, tensors)
        tokenizer.save(folder)
        sizes.write(folder)
        tensors.clear()
        line = f"nothing was compared with open_clip: {library}"
        if theirs:
            line = compare(library, theirs, run_import(shape, folder), "a random image and text")
    guesses = list_guesses(shape, settings)
    line += ", built with what is guessed above" if theirs and guesses else ""
    lines = [f"{out}: {parameters:,} parameters", *([f"read: {config_file}"] if config_file else [])]
    lines += describe_guesses(guesses, config_file, "open_clip's JSON")
    return "\n".join([*lines, line, f"use: all commands and core.load. Go on with: patchbay caption {out} IMAGE"])
