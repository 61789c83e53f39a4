"""CoCa as open_clip trains it (its ``coca_*`` models), in Patchbay's parts."""

from __future__ import annotations

import torch
from torch import Tensor

from core import discovery
from core.loading import build_model, recipe_in
from core.model import ModelSpec
from core.recipe import read_model
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.folder import new_folder, vocabulary_of, write_recipe, write_weights
from plugins.importing.open_clip_config import Shape, configured, read_shape

BUFFERS = r".*\battn_mask"  # masks that older checkpoints hold
BLOCK = {"ln_1": "norm1", "attn.out_proj": "attn.proj", "ln_2": "norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


class _Taken:
    """Patchbay's tensors as they are taken from open_clip's."""

    def __init__(self, held: ForeignCheckpoint):
        self.held, self.made = held, dict[str, Tensor]()

    def copy(self, ours: str, theirs: str, *shape: int) -> None:
        self.made[ours] = self.held.take(theirs, *shape)

    def affine(self, ours: str, theirs: str, out: int, *into: int) -> None:
        """Weight (out, into), or (out,) of a norm, and bias."""
        self.copy(f"{ours}.weight", f"{theirs}.weight", out, *into)
        self.copy(f"{ours}.bias", f"{theirs}.bias", out)

    def transposed(self, ours: str, theirs: str, into: int, out: int) -> None:
        """What is multiplied from the right there."""
        self.made[ours] = self.held.take(theirs, into, out).T

    def attention(self, ours: str, theirs: str, dim: int, source_dim: int) -> None:
        """Queries, keys and values: one matrix where they are equally wide, else three."""
        names = ("query", "key", "value")
        if source_dim == dim:
            weights = self.held.take(f"{theirs}.in_proj_weight", 3 * dim, dim).chunk(3)
        else:
            sources = (dim, source_dim, source_dim)
            weights = tuple(
                self.held.take(f"{theirs}.{name[0]}_proj_weight", dim, source)
                for name, source in zip(names, sources, strict=True)
            )
        biases = self.held.take(f"{theirs}.in_proj_bias", 3 * dim).chunk(3)
        for name, weight, bias in zip(names, weights, biases, strict=True):
            self.made[f"{ours}.{name}.weight"], self.made[f"{ours}.{name}.bias"] = weight.clone(), bias.clone()
        self.affine(f"{ours}.out", f"{theirs}.out_proj", dim, dim)

    def layer(self, ours: str, theirs: str, dim: int, *, attention: str = "attention") -> None:
        """Attention and MLP, each behind its norm."""
        self.affine(f"{ours}.{attention}_norm", f"{theirs}.ln_1", dim)
        self.attention(f"{ours}.{attention}", f"{theirs}.attn", dim, dim)
        self.affine(f"{ours}.norm", f"{theirs}.ln_2", dim)
        self.affine(f"{ours}.fc1", f"{theirs}.mlp.c_fc", 4 * dim, dim)
        self.affine(f"{ours}.fc2", f"{theirs}.mlp.c_proj", dim, 4 * dim)


def translate(held: ForeignCheckpoint, shape: Shape) -> dict[str, Tensor]:
    """The tensors under the names of Patchbay's parts.

    Raises:
        ValueError: one is absent, of another shape, or left over; names file and tensor.
    """
    taken = _Taken(held)
    _picture(taken, shape)
    _words(taken, shape)
    taken.made["heads.temperature.log"] = -held.take("logit_scale")
    held.refuse_left("an open_clip coca_* model here", BUFFERS)
    return taken.made


def _picture(taken: _Taken, shape: Shape) -> None:
    width, dim, cells = shape.width, shape.dim, shape.grid**2 + 1
    sizes = {"norm1": (width,), "attn.proj": (width, width), "norm2": (width,)}
    hidden = round(shape.mlp * width)
    sizes |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    taken.made["backbone.vit.cls_token"] = taken.held.take("visual.class_embedding", width)[None, None]
    taken.made["backbone.vit.pos_embed"] = taken.held.take("visual.positional_embedding", cells, width)[None]
    kernel = (width, 3, shape.patch, shape.patch)
    taken.copy("backbone.vit.patch_embed.proj.weight", "visual.conv1.weight", *kernel)
    taken.affine("backbone.vit.norm_pre", "visual.ln_pre", width)
    for index in range(shape.depth):
        ours, theirs = f"backbone.vit.blocks.{index}", f"visual.transformer.resblocks.{index}"
        for part, name in BLOCK.items():
            taken.affine(f"{ours}.{name}", f"{theirs}.{part}", *sizes[name])
        taken.copy(f"{ours}.attn.qkv.weight", f"{theirs}.attn.in_proj_weight", 3 * width, width)
        taken.copy(f"{ours}.attn.qkv.bias", f"{theirs}.attn.in_proj_bias", 3 * width)
    taken.affine("backbone.vit.norm", "visual.attn_pool.ln_k", width)
    taken.copy("pooler.queries", "visual.attn_pool.query", shape.queries, dim)
    taken.affine("pooler.query_norm", "visual.attn_pool.ln_q", dim)
    taken.attention("pooler.attention", "visual.attn_pool.attn", dim, width)
    taken.affine("pooler.norm", "visual.ln_post", dim)
    taken.transposed("heads.image.linear.weight", "visual.proj", dim, dim)


def _words(taken: _Taken, shape: Shape) -> None:
    dim = shape.dim
    taken.copy("decoder.words.weight", "text.token_embedding.weight", shape.vocabulary, dim)
    taken.copy("decoder.positions.weight", "text.positional_embedding", shape.context + 1, dim)
    taken.copy("decoder.cls", "text.cls_emb", dim)
    for index in range(shape.unimodal):
        taken.layer(f"decoder.unimodal.{index}", f"text.transformer.resblocks.{index}", dim)
    taken.affine("decoder.cls_norm", "text.ln_final", dim)
    taken.transposed("heads.text.linear.weight", "text.text_projection", dim, dim)
    for index in range(shape.multimodal):
        ours, theirs = f"decoder.multimodal.{index}", f"text_decoder.cross_attn.{index}"
        taken.layer(f"{ours}.self_layer", f"text_decoder.resblocks.{index}", dim)
        taken.layer(ours, theirs, dim, attention="cross")
        taken.affine(f"{ours}.cross.source_norm", f"{theirs}.ln_1_kv", dim)
    taken.affine("decoder.final_norm", "text_decoder.ln_final", dim)
    taken.transposed("heads.words.words.weight", "text_decoder.text_projection", dim, shape.vocabulary)


def recipe(shape: Shape) -> dict[str, object]:
    """The recipe of this model; its data stand for any other."""
    tower = {"embed_dim": shape.width, "depth": shape.depth, "num_heads": shape.width // shape.vision_head}
    decoder = {"unimodal": shape.unimodal, "multimodal": shape.multimodal, "layout": "openclip", "cls": True}
    decoder |= {"mask": "correct" if shape.correct_mask else "legacy"}
    decoder |= {"embed_dim": shape.dim, "num_heads": shape.text_heads, "dropout": 0.0}
    projection = {"name": "projection", "width": shape.dim, "bias": False}
    return {
        "model": {
            "backbone": {"name": "vit", **tower, "patch_size": shape.patch, "mlp": shape.mlp, "style": "openclip"},
            "pooler": {"name": "shared", "queries": shape.queries, "width": shape.dim, "num_heads": shape.pooler_heads},
            "decoder": {"name": "decoupled", **decoder},
            "heads": {"image": projection, "text": dict(projection), "temperature": "temperature", "words": "lm_head"},
        },
        "objectives": {"itc": {"weight": 1.0}, "caption": {"weight": 2.0}},
        "data": {"name": "scenes", "image_size": shape.image_size, "text_length": shape.context},
    }


def import_open_clip(file: str, out: str, vocabulary: str, config: str, command: str) -> str:
    """Make a folder of a checkpoint; returns what to tell the user.

    Args:
        file: the checkpoint.
        out: the folder.
        vocabulary: a file of it, such as open_clip's bpe_simple_vocab_16e6.txt.gz.
        config: open_clip's JSON of the model, where its heads or mask are not those of the public ones; may be "".
        command: what made it, for the recipe's first line.

    Raises:
        ValueError: whatever does not fit, by file, tensor and wanted shape.
    """
    held = read_tensors(file)
    shape = read_shape(held)
    if config:
        shape = configured(shape, config)
    tensors = translate(held, shape)
    words = "text.token_embedding.weight"
    tokenizer = vocabulary_of(vocabulary, shape.context, shape.vocabulary, file, words)
    sizes = ModelSpec(shape.image_size, shape.context, shape.vocabulary)
    with new_folder(out) as folder:
        write_recipe(folder, recipe(shape), command)
        with torch.device("meta"):
            model = build_model(read_model(recipe_in(folder), discovery.load()), sizes)
        wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
        assert wanted == {name: tensor.shape for name, tensor in tensors.items()}
        write_weights(folder, tensors)
        tokenizer.save(folder)
        sizes.write(folder)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return f"{out}: {parameters:,} parameters. Go on with: patchbay caption {out} IMAGE"
