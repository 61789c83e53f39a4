"""Weights of BERT and of timm's ViTs in COPA's parts give the originals' outputs."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from core.part import Part, PartError
from core.types import Text, Tokens
from plugins.backbones.vit import ViT
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.fusion.skip_connected import SkipConnectedFusion
from plugins.text.bert import BertEncoder

LAYERS, WIDTH = 12, 32


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=4 * WIDTH
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)  # so that no bias or norm is at its start
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return model, str(folder)


def words():
    text = Text(torch.randint(0, 60, (2, 9)), torch.arange(9).expand(2, -1) < torch.tensor([[9], [6]]))
    return text, text.mask


def test_text_encoder_is_layers_1_to_6(bert):
    model, folder = bert
    settings = {"layers": 6, "dim": WIDTH, "heads": 2, "weights": folder}
    encoder = Part(BertEncoder, settings)(vocabulary=60, text_length=30).eval()
    text, mask = words()
    with torch.no_grad():
        own = encoder(text).x
        hidden = model(text.ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[6]
    assert torch.allclose(own[mask], hidden[mask], atol=1e-5)


def test_fusion_starts_from_layers_7_to_12(bert):
    """With cross-attention silenced and unit norms, co-attention layers are BERT's layers on the words."""
    model, folder = bert
    settings = {"layers": 3, "stride": 9, "heads": 2, "weights": folder}
    fusion = Part(SkipConnectedFusion, settings)(dim=WIDTH, image_dim=WIDTH).eval()
    text, mask = words()
    with torch.no_grad():
        hidden = model(text.ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        for layer, index in zip(fusion.layers, (6, 7, 8), strict=True):
            layer.cross = layer.cross_norm = None
            own = layer(hidden[index], mask[:, None, None])
            assert torch.allclose(own[mask], hidden[index + 1][mask], atol=1e-5)


def test_decoder_starts_from_bert(bert):
    """A causal decoder with cross-attention silenced is BERT under a causal mask."""
    model, folder = bert
    settings = {"multimodal": LAYERS, "dim": WIDTH, "heads": 2, "weights": folder}
    decoder = Part(DecoupledDecoder, settings)(memory_dim=WIDTH, vocabulary=60, text_length=30).eval()
    for layer in decoder.multimodal:
        layer.cross = layer.cross_norm = None
    ids = torch.randint(0, 60, (2, 9))
    causal = torch.full((9, 9), torch.finfo(torch.float32).min).triu(1).expand(2, 1, 9, 9)
    with torch.no_grad():
        own = decoder(
            decoder.read(Text(ids, torch.ones_like(ids, dtype=torch.bool))), Tokens(torch.zeros(2, 1, WIDTH))
        ).x
        theirs = model(ids, attention_mask=causal).last_hidden_state
    assert torch.allclose(own, theirs, atol=1e-5)


def test_bert_weights_that_do_not_fit_are_named(bert, tmp_path):
    _, folder = bert
    with pytest.raises(PartError, match=r"config\.json says .*'hidden_size': 32.* this recipe has"):
        Part(BertEncoder, {"layers": 6, "dim": 64, "heads": 2, "weights": folder})(vocabulary=60, text_length=30)
    with pytest.raises(PartError, match=r"no tensor 'encoder\.layer\.12"):
        Part(SkipConnectedFusion, {"heads": 2, "weights": folder, "first_layer": 10})(dim=WIDTH, image_dim=WIDTH)
    with pytest.raises(PartError, match=r"config\.json: cannot be read"):
        Part(BertEncoder, {"weights": str(tmp_path)})(vocabulary=60, text_length=30)


@pytest.mark.parametrize(
    ("style", "name"), [("plain", "vit_tiny_patch16_224"), ("clip", "vit_base_patch32_clip_quickgelu_224")]
)
def test_vit_equals_timm(style, name, tmp_path):
    torch.manual_seed(0)
    extra = {"embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0, "img_size": 64, "patch_size": 16}
    original = timm.create_model(name, **extra).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    file = str(tmp_path / "vit.safetensors")
    save_file({k: v.contiguous() for k, v in original.state_dict().items()}, file)
    settings = {"dim": 48, "depth": 3, "heads": 3, "patch": 16, "style": style, "weights": file}
    own = Part(ViT, settings)(image_size=64).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = original.forward_features((images.float() - own.mean) / own.deviation)
        assert torch.allclose(own(images).x, expected, atol=1e-5)

    larger = Part(ViT, settings)(image_size=96)
    table = original.pos_embed[0, 1:].T.reshape(1, 48, 4, 4)
    resized = F.interpolate(table, size=(6, 6), mode="bicubic", antialias=True, align_corners=False)
    assert torch.allclose(larger.vit.pos_embed[0, 1:], resized.flatten(2)[0].T, atol=1e-5)
    assert torch.equal(larger.vit.pos_embed[0, 0], original.pos_embed[0, 0])


def test_vit_weights_that_do_not_fit_are_named(tmp_path):
    file = str(tmp_path / "no.safetensors")
    with pytest.raises(PartError, match=r"no\.safetensors: .*"):
        Part(ViT, {"weights": file})(image_size=224)
    with pytest.raises(PartError, match="3 heads do not divide dim 64"):
        Part(ViT, {"dim": 64, "heads": 3})(image_size=224)
    with pytest.raises(PartError, match="patch 16 does not divide the picture's side of 100"):
        Part(ViT)(image_size=100)
