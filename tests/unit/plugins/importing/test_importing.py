"""``patchbay import timm`` and ``bert``: folders whose weights compute what the originals do."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import transformers
import yaml
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import BertConfig, BertModel

from core.cli import main
from core.types import Text, Tokens
from plugins.backbones.vit import ViT
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.text.bert import BertEncoder
from plugins.text.tokenizer import SPECIAL

PIECES = [*SPECIAL, *(f"word{i}" for i in range(55))]


@torch.no_grad()
def shifted(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def settings(folder, *path: str) -> dict:
    found = yaml.safe_load((folder / "recipe.yaml").read_text())["model"]
    for key in path:
        found = found[key]
    return {key: value for key, value in found.items() if key != "name"}


def bert(folder, heads: int = 2) -> tuple[BertModel, dict[str, torch.Tensor]]:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": heads, "intermediate_size": 512}
    model = shifted(BertModel(BertConfig(vocab_size=60, hidden_size=128, max_position_embeddings=40, **sizes)))
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, tensor in model.state_dict().items():
        for new, early in old.items():
            name = name.replace(new, early)
        tensors[f"bert.{name}"] = tensor.contiguous()
    tensors["cls.predictions.bias"] = torch.zeros(60)
    return model, tensors


def test_bert(tmp_path, capsys):
    model, tensors = bert(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    out = tmp_path / "made"
    given = [str(tmp_path / "pytorch_model.bin"), "--out", str(out), "--vocabulary", str(tmp_path / "vocab.txt")]
    assert main(["import", "bert", *given]) == 0
    assert "model.text.weights" in capsys.readouterr().out
    text = Text(torch.randint(5, 60, (2, 9)), torch.arange(9) < torch.tensor([[9], [6]]))
    encoder = BertEncoder(**settings(out, "text"), vocabulary=60, text_length=20).eval()
    with torch.no_grad():
        ours = encoder(text).x
        theirs = model(text.ids, attention_mask=text.mask.long()).last_hidden_state
    torch.testing.assert_close(ours[text.mask], theirs[text.mask], atol=1e-5, rtol=0)
    sizes = {"multimodal": 3, "embed_dim": 128, "num_heads": 2, "memory_dim": 128, "vocabulary": 60, "text_length": 20}
    decoder = DecoupledDecoder(**sizes, weights=str(out))
    assert torch.equal(decoder.multimodal[2].fc1.weight, model.encoder.layer[2].intermediate.dense.weight)
    assert decoder.encode_text(text).x.shape == (2, 9, 128)


def test_berts_heads_and_other_activations_come_from_its_configuration(tmp_path, capsys):
    _, tensors = bert(tmp_path, heads=4)
    save_file(tensors, str(tmp_path / "model.safetensors"))
    config = tmp_path / "config.json"
    given = ["import", "bert", str(tmp_path / "model.safetensors"), "--vocabulary", str(tmp_path / "vocab.txt")]
    given += ["--config", str(config)]
    config.write_text(json.dumps({"num_attention_heads": 4, "hidden_act": "gelu"}))
    assert main([*given, "--out", str(tmp_path / "four")]) == 0
    assert settings(tmp_path / "four", "text")["num_heads"] == 4
    for said, fault in (
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_attention_heads": 7}, "num_attention_heads is 7"),
    ):
        config.write_text(json.dumps(said))
        assert main([*given, "--out", str(tmp_path / "none")]) == 2
        assert fault in capsys.readouterr().err
    save_file({**tensors, "bert.encoder.layer.0.adapter.weight": torch.zeros(3)}, str(tmp_path / "model.safetensors"))
    config.unlink()
    assert main([*given[:-2], "--out", str(tmp_path / "none")]) == 2
    assert "has what a BERT here does not compute: encoder.layer.0.adapter.weight" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plain", "clip", "openclip"])
def test_timm(tmp_path, name):
    torch.manual_seed(0)
    kind = "_clip_quickgelu" if name == "clip" else "_clip" if name == "openclip" else ""
    sizes = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 5}
    model = shifted(timm.create_model(f"vit_base_patch16{kind}_224", **sizes))
    assert isinstance(model, VisionTransformer)
    save_file(model.state_dict(), str(tmp_path / "vit.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": f"vit_base_patch16{kind}_224"}))
    out = tmp_path / "made"
    given = [str(tmp_path / "vit.safetensors"), "--out", str(out), "--config", str(tmp_path / "config.json")]
    assert main(["import", "timm", *given]) == 0
    ours = ViT(**settings(out, "backbone"), image_size=64).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        tokens: Tokens = ours(images)
        theirs = model.forward_features((images.float() - ours.mean) / ours.deviation)
    torch.testing.assert_close(tokens.x, theirs, atol=1e-4, rtol=0)


def test_what_is_no_vit_of_timms(tmp_path, capsys):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, init_values=0.1)
    save_file(model.state_dict(), str(tmp_path / "scaled.safetensors"))
    (tmp_path / "other").mkdir()
    save_file(model.state_dict() | {"blocks.0.gate": torch.zeros(3)}, str(tmp_path / "other" / "gated.safetensors"))
    save_file({"conv.weight": torch.zeros(3)}, str(tmp_path / "other.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.485, 2]}}))
    (tmp_path / "heads.json").write_text(json.dumps({"model_args": {"num_heads": "3"}}))
    (tmp_path / "none.json").write_text(json.dumps({"num_heads": 0}))
    (tmp_path / "list.json").write_text(json.dumps({"pretrained_cfg": [1]}))
    faults = {
        "num_heads is '3'; expected a number that divides the width 192": [
            "scaled.safetensors",
            "--config",
            str(tmp_path / "heads.json"),
        ],
        "num_heads is 0; expected a number that divides": [
            "scaled.safetensors",
            "--config",
            str(tmp_path / "none.json"),
        ],
        "pretrained_cfg is [1]; expected a JSON obj": ["scaled.safetensors", "--config", str(tmp_path / "list.json")],
        "does not compute: blocks.0.gate": ["other/gated.safetensors"],
        "has no tensor 'patch_embed.proj.weight'": ["other.safetensors"],
        "pretrained_cfg.mean is [0.485, 2]; expected three numbers": [
            "scaled.safetensors",
            "--config",
            str(tmp_path / "config.json"),
        ],
        "an image encoder has none": ["scaled.safetensors", "--vocabulary", "vocab.txt"],
    }
    for fault, (file, *more) in faults.items():
        assert main(["import", "timm", str(tmp_path / file), "--out", str(tmp_path / "made"), *more]) == 2
        assert fault in capsys.readouterr().err
        assert not (tmp_path / "made").exists()


def test_berts_configuration_beside_the_file_and_the_comparison(tmp_path, capsys):
    _, tensors = bert(tmp_path, heads=4)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    arguments = ["import", "bert", str(tmp_path), "--vocabulary", str(tmp_path / "vocab.txt"), "--out"]
    assert main([*arguments, str(tmp_path / "guessed")]) == 0
    printed = capsys.readouterr().out
    assert "guessed: 2 heads, width 128 / 64; hidden_act gelu; layer_norm_eps 1e-12" in printed
    assert "no configuration was given or found beside the file: --config" in printed
    assert f"compared with transformers {transformers.__version__} on random words: largest difference " in printed
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 4}))
    assert main([*arguments, str(tmp_path / "read")]) == 0
    printed = capsys.readouterr().out
    assert "guessed" not in printed
    assert "data.vocabulary" in printed
    assert settings(tmp_path / "read", "text")["num_heads"] == 4
    assert json.loads((tmp_path / "read" / "sizes.json").read_text()) == {"text_length": 40, "vocabulary": 60}
    for change, fault in (
        ({"model_type": "roberta"}, "model_type is 'roberta': a model of transformers, but no BERT"),
        ({"hidden_size": 768}, "hidden_size is 768; the tensors have 128"),
        ({"intermediate_size": 3072}, "intermediate_size is 3072; the tensors have 512"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; only 'gelu'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4} | change))
        assert main([*arguments, str(tmp_path / "none")]) == 2
        assert fault in capsys.readouterr().err
        assert not (tmp_path / "none").exists()


def test_a_bert_with_other_outputs_is_refused(tmp_path, capsys, monkeypatch):
    _, tensors = bert(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    forward = BertEncoder.forward
    monkeypatch.setattr(BertEncoder, "forward", lambda self, text: forward(self, text.map(lambda t: t.flip(1))))
    arguments = [str(tmp_path), "--vocabulary", str(tmp_path / "vocab.txt"), "--out", str(tmp_path / "out")]
    assert main(["import", "bert", *arguments]) == 2
    assert "refused: compared with transformers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
