"""Sizes of an open_clip CoCa: derived from tensors, confirmed by its configuration file."""

from __future__ import annotations

import copy
import dataclasses
import json
import re

import pytest
import torch

from plugins.backbones.timm_options import CLIP_PIXELS
from plugins.importing.checkpoint_file import ForeignCheckpoint
from plugins.importing.open_clip_config import Shape, configured, flat_settings, list_guesses, read_shape

# as open_clip/model_configs/coca_ViT-B-32.json
BASE = {
    "embed_dim": 512,
    "vision_cfg": {
        "image_size": 224,
        "layers": 12,
        "width": 768,
        "patch_size": 32,
        "attentional_pool": True,
        "attn_pooler_heads": 8,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 76,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 76,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
        "attn_pooler_heads": 8,
    },
    "custom_text": True,
}
SHAPE = Shape(
    width=768,
    patch=32,
    grid=7,
    depth=12,
    mlp=4.0,
    dim=512,
    queries=256,
    context=76,
    vocabulary=49408,
    unimodal=12,
    multimodal=12,
    text_heads=8,
)


def tensors(shape: Shape) -> dict[str, torch.Tensor]:
    """Tensors of these sizes on the meta device; only those that set a size."""
    sizes = {
        "visual.conv1.weight": (shape.width, 3, shape.patch, shape.patch),
        "visual.positional_embedding": (shape.grid**2 + 1, shape.width),
        "visual.attn_pool.query": (shape.queries, shape.dim),
        "text.positional_embedding": (shape.context + 1, shape.dim),
        "text.token_embedding.weight": (shape.vocabulary, shape.dim),
        **{
            f"visual.transformer.resblocks.{i}.mlp.c_fc.weight": (int(shape.mlp * shape.width), shape.width)
            for i in range(shape.depth)
        },
        **{f"text.transformer.resblocks.{i}.ln_1.weight": (shape.dim,) for i in range(shape.unimodal)},
        **{f"text_decoder.resblocks.{i}.ln_1.weight": (shape.dim,) for i in range(shape.multimodal)},
    }
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


def changed(path: str, value: object) -> dict:
    """BASE with one setting changed, "text_cfg.width"."""
    config = copy.deepcopy(BASE)
    *sections, name = path.split(".")
    target = config
    for key in sections:
        target = target[key]
    target[name] = value
    return config


FILE = "c.json"


def configure(config, shape=None) -> Shape:
    """Return the shape with this configuration, as JSON has it."""
    return configured(shape or SHAPE, FILE, json.loads(json.dumps(config)))


def test_sizes_of_the_public_base_model():
    shape = read_shape(ForeignCheckpoint("x.pt", tensors(SHAPE)))
    assert shape == SHAPE
    assert shape.image_size == 224
    assert (shape.vision_head, shape.pooler_heads, shape.correct_mask) == (64, 8, False)


@pytest.mark.parametrize(
    "sizes",
    [
        {"grid": 1, "depth": 1, "unimodal": 1, "multimodal": 1, "queries": 1},
        {"width": 96, "mlp": 2.5, "patch": 14, "grid": 16, "vision_head": 96},
        {"dim": 640, "text_heads": 10, "unimodal": 3, "multimodal": 2, "context": 9, "vocabulary": 17},
    ],
)
def test_other_sizes_are_derived_from_the_tensors(sizes):
    shape = dataclasses.replace(SHAPE, **sizes)
    assert read_shape(ForeignCheckpoint("x.pt", tensors(shape))) == shape


@pytest.mark.parametrize("name", [name for name in tensors(SHAPE) if ".resblocks." not in name])
def test_a_missing_tensor_is_named(name):
    left = {key: tensor for key, tensor in tensors(SHAPE).items() if key != name}
    with pytest.raises(ValueError, match=re.escape(f"x.pt: has no tensor '{name}'")):
        read_shape(ForeignCheckpoint("x.pt", left))


def test_patches_fill_a_square():
    given = tensors(SHAPE) | {"visual.positional_embedding": torch.empty(51, 768, device="meta")}
    with pytest.raises(ValueError, match=r"'visual\.positional_embedding' has 50 places for patches: no square"):
        read_shape(ForeignCheckpoint("x.pt", given))


def test_the_public_configuration_agrees_as_a_file_and_one_level_down():
    assert configure(BASE) == SHAPE
    pixels = {"mean": list(CLIP_PIXELS[0]), "std": list(CLIP_PIXELS[1])}
    assert configure({"model_cfg": BASE, "preprocess_cfg": pixels}) == SHAPE


def test_an_empty_configuration_changes_nothing():
    assert configure({}) == SHAPE


def test_heads_and_mask_come_from_the_configuration():
    config = {
        "vision_cfg": {"head_width": 96, "attn_pooler_heads": 4},
        "text_cfg": {"heads": 16, "correct_cls_mask": True},
        "multimodal_cfg": {"heads": 16},
    }
    shape = configure(config)
    assert shape == dataclasses.replace(SHAPE, vision_head=96, pooler_heads=4, text_heads=16, correct_mask=True)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("embed_dim", 768, 512),
        ("quick_gelu", True, False),
        ("custom_text", False, True),
        ("vision_cfg.image_size", 256, 224),
        ("vision_cfg.layers", 11, 12),
        ("vision_cfg.mlp_ratio", 3.5, 4.0),
        ("vision_cfg.attn_pooler_queries", 255, 256),
        ("vision_cfg.attentional_pool", False, True),
        ("text_cfg.context_length", 77, 76),
        ("text_cfg.vocab_size", 49409, 49408),
        ("text_cfg.embed_cls", False, True),
        ("multimodal_cfg.layers", 6, 12),
        ("multimodal_cfg.heads", 4, 8),
        ("multimodal_cfg.width", 768, 512),
    ],
)
def test_a_setting_that_disagrees_with_the_tensors(path, value, expected):
    config = changed(path, value)
    message = f"{FILE}: {path} is {value!r}; expected {expected!r} for this checkpoint"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        configure(config)


@pytest.mark.parametrize("path", ["text_cfg.hf_model_name", "vision_cfg.timm_model_name", "new", "multimodal_cfg.new"])
def test_an_unknown_setting_is_refused(path):
    config = changed(path, "x")
    with pytest.raises(ValueError, match=re.escape(f"{FILE}: {path} is 'x'; this import knows no such setting")):
        configure(config)


@pytest.mark.parametrize("name", ["mlp_ratio", "dim_head", "n_queries", "attn_pooler_heads"])
def test_settings_without_effect_may_have_any_value(name):
    assert configure(changed(f"multimodal_cfg.{name}", 12345)) == SHAPE


def test_pixels_and_squashed_images_are_read():
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "resize_mode": "squash"}
    shape = configure({"model_cfg": BASE, "preprocess_cfg": preprocess})
    assert shape.pixels == ((0.5, 0.5, 0.5), (1, 1, 1))
    assert not shape.crop
    with pytest.raises(ValueError, match=re.escape("c.json: preprocess_cfg.std is [0, 1, 1]; expected three numbers")):
        configure({"model_cfg": BASE, "preprocess_cfg": {"std": [0, 1, 1]}})


def test_null_settings_and_those_of_training_are_left_alone():
    config = copy.deepcopy(BASE)
    config["vision_cfg"] |= {"ls_init_value": None, "patch_dropout": 0.5}
    config["text_cfg"]["hf_model_name"] = None
    assert configure(config) == SHAPE


def test_what_is_guessed_is_listed():
    assert list_guesses(SHAPE, flat_settings(BASE, FILE)) == []
    guesses = list_guesses(SHAPE, {})
    assert guesses[1:3] == ["pooler: 8 heads", "text: 8 heads, width 512 / 64"]
    assert guesses[3].startswith("pixel mean [0.48")
    huge = read_shape(ForeignCheckpoint("x.pt", tensors(dataclasses.replace(SHAPE, width=1280, patch=14, grid=16))))
    assert huge.vision_head == 80
    assert "public models of width 1280" in list_guesses(huge, {})[0]
    assert configure({"vision_cfg": {"layers": 12}}, huge).vision_head == 64  # open_clip's default for every width
