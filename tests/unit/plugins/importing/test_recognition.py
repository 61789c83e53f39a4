"""Checkpoints of other kinds are named, with what to do; real models give the names where they are installed."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import transformers as hf
from safetensors.torch import save_file

from core.cli import main
from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors
from plugins.importing.recognition import check_kind, recognise

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
VISION = SMALL | {"image_size": 32, "patch_size": 16}
TEXT = SMALL | {"vocab_size": 40, "max_position_embeddings": 16}


def clip_names(prefix="visual.", text=""):
    names = ["class_embedding", "conv1.weight", "positional_embedding", "transformer.resblocks.0.ln_1.weight", "proj"]
    words = ["token_embedding.weight", "transformer.resblocks.0.ln_1.weight", "text_projection"]
    return [*(prefix + name for name in names), *(text + name for name in words), "logit_scale"]


def transformers_models():
    both = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16}
    decoder = TEXT | {"encoder_hidden_size": 32}
    return {
        "transformers' CLIPModel": lambda: hf.CLIPModel(hf.CLIPConfig(**both)),
        "transformers' CLIPModel or SiglipModel": lambda: hf.SiglipModel(
            hf.SiglipConfig(text_config=TEXT, vision_config=VISION)
        ),
        "transformers' BLIP": lambda: hf.BlipForConditionalGeneration(
            hf.BlipConfig(text_config=decoder, vision_config=VISION)
        ),
        "transformers' image encoder of a CLIP": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)),
        "transformers' ViTModel": lambda: hf.ViTModel(hf.ViTConfig(**VISION)),
        "transformers' RoBERTa": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**TEXT, pad_token_id=1)),
        "transformers' DistilBERT": lambda: hf.DistilBertModel(
            hf.DistilBertConfig(vocab_size=40, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
        ),
        "transformers' GPT-2": lambda: hf.GPT2Model(hf.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2)),
    }


def checkpoint(names):
    return ForeignCheckpoint("x.pt", {name: torch.zeros(1) for name in names})


@pytest.mark.parametrize("kind", transformers_models())
def test_models_of_transformers_are_named(kind, tmp_path):
    """Names in memory and in a file differ: those in a file are of earlier versions."""
    model = transformers_models()[kind]()
    model.save_pretrained(tmp_path)
    for verb in ("timm", "open_clip", "bert"):
        for file in (ForeignCheckpoint("x.pt", dict(model.state_dict())), read_tensors(str(tmp_path))):
            with pytest.raises(ValueError, match=rf"^\S+: this is {kind}.*\. .*\.$"):
                check_kind(file, verb)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (clip_names(), "a CLIP of OpenAI or open_clip without a caption decoder. For captions import a coca_\\* model"),
        (clip_names(text="text."), "a CLIP of OpenAI or open_clip without a caption decoder.*style: openclip"),
        (["visual.trunk.blocks.0.norm1.weight", "text.ln_final.weight", "logit_scale"], "with timm's image encoder"),
        (["visual.layer1.0.conv1.weight", "token_embedding.weight"], "residual network as image encoder"),
        (["visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.bias"], "the image encoder of a CLIP"),
        (["model.blocks.0.attn.qkv.lora_A.weight"], "a LoRA file. Merge it into its base model first"),
        (["lora_unet_down.lora_up.weight"], "a LoRA file"),
        (["backbone.vit.cls_token", "decoder.words.weight"], "a model of Patchbay. It needs no import"),
        (["patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "dist_token"], "a distillation token"),
        (["model.layers.0.self_attn.q_proj.weight"], "transformers' LLaMA or a relative"),
    ],
)
def test_others_are_named_with_what_to_do(names, message):
    with pytest.raises(ValueError, match=rf"^x\.pt: this is .*{message}"):
        check_kind(checkpoint(names), "open_clip")


@pytest.mark.parametrize(
    "net", ["resnet18", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002"]
)
def test_convolutional_networks_need_no_import(net):
    with torch.device("meta"):
        state = timm.create_model(net).state_dict()
    with pytest.raises(
        ValueError, match=r"convolutional network.*\{name: convnet, net: ITS NAME IN TIMM, weights: x\.pt"
    ):
        check_kind(ForeignCheckpoint("x.pt", state), "timm")


def test_the_right_verb_is_named():
    bert = checkpoint(["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"])
    coca = checkpoint(["text_decoder.cross_attn.0.ln_1.weight", *clip_names(text="text.")])
    vit = checkpoint(["patch_embed.proj.weight", "blocks.0.attn.qkv.weight"])
    for kind, verb in ((bert, "bert"), (coca, "open_clip"), (vit, "timm")):
        check_kind(kind, verb)
        for other in {"bert", "open_clip", "timm"} - {verb}:
            with pytest.raises(ValueError, match=rf"Import it by: patchbay import {verb} x\.pt\.$"):
                check_kind(kind, other)
    unknown = checkpoint(["conv.weight"])
    assert recognise(unknown) is None
    check_kind(unknown, "timm")


def test_the_command_names_a_kind_and_leaves_nothing(tmp_path, capsys):
    save_file({name: torch.zeros(1) for name in clip_names()}, tmp_path / "model.safetensors")
    assert main(["import", "open_clip", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert (
        "model.safetensors: this is a CLIP of OpenAI or open_clip without a caption decoder" in capsys.readouterr().err
    )
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert main(["import", "bert", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "this is an adapter (adapter_config.json is beside it)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
