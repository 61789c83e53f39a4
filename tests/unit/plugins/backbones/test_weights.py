"""Weights of BERT and of timm's and CLIP's ViTs in COPA's parts give the originals' outputs."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

from core.types import Text, Tokens
from plugins.backbones.vit import ViT
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.fusion.skip_connected import SkipConnectedFusion
from plugins.pruners.prune_list import Prune
from plugins.pruners.tpd import TextAwarePatchDetector
from plugins.text.bert import BertEncoder
from registry.part import Part, PartError

LAYERS, WIDTH = 12, 32
STYLES = [("plain", "vit_base_patch16_224"), ("clip", "vit_base_patch16_clip_quickgelu_224")]
NARROW = {"embed_dim": 48, "depth": 3, "num_heads": 3}
CLOSE = {"rtol": 0.0, "atol": 1e-5}


@torch.no_grad()
def shift(model, deviation=0.05):
    """Move every parameter off its start, so that no bias or norm is without effect."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * deviation)
    return model.eval()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=4 * WIDTH
    )
    model = shift(BertModel(config, add_pooling_layer=False), 0.1)
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return model, str(folder)


def words(vocabulary=60):
    text = Text(torch.randint(0, vocabulary, (2, 9)), torch.arange(9).expand(2, -1) < torch.tensor([[9], [6]]))
    return text, text.mask


def test_text_encoder_is_layers_1_to_6(bert):
    model, folder = bert
    settings = {"layers": 6, "embed_dim": WIDTH, "num_heads": 2, "weights": folder}
    encoder = Part(BertEncoder, settings)(vocabulary=60, text_length=30).eval()
    text, mask = words()
    with torch.no_grad():
        own = encoder(text).x
        hidden = model(text.ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[6]
    assert torch.allclose(own[mask], hidden[mask], atol=1e-5)


def test_fusion_starts_from_layers_7_to_12(bert):
    """With cross-attention silenced and unit norms, co-attention layers are BERT's layers on the words."""
    model, folder = bert
    settings = {"layers": 3, "stride": 9, "num_heads": 2, "weights": folder}
    fusion = Part(SkipConnectedFusion, settings)(dim=WIDTH, image_dim=WIDTH).eval()
    text, mask = words()
    with torch.no_grad():
        hidden = model(text.ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        for layer, index in zip(fusion.layers, (6, 7, 8), strict=True):
            layer.cross = layer.cross_norm = None
            own = layer(hidden[index], mask[:, None, None])
            assert torch.allclose(own[mask], hidden[index + 1][mask], atol=1e-5)


def test_bert_base_split_6_and_6(tmp_path):
    """Text encoder, then the whole fusion with cross-attention silenced and no picture to see, are BERT-base."""
    torch.manual_seed(0)
    model = shift(BertModel(BertConfig(), add_pooling_layer=False))
    model.save_pretrained(tmp_path)
    weights = {"weights": str(tmp_path)}
    encoder = Part(BertEncoder, weights)(vocabulary=30522, text_length=40).eval()
    fusion = Part(SkipConnectedFusion, weights)(dim=768, image_dim=768).eval()
    shutil.rmtree(tmp_path)  # 438 MB
    for layer in fusion.layers:
        layer.cross = layer.cross_norm = None
    text, mask = words(30522)
    nothing = Tokens(torch.randn(2, 4, 768), mask=torch.zeros(2, 4, dtype=torch.bool))
    with torch.no_grad():
        own = fusion(encoder(text), nothing).text.x
        theirs = model(text.ids, attention_mask=mask.long()).last_hidden_state
    assert len(encoder.bert.encoder.layer) == len(fusion.layers) == 6
    assert theirs[mask].std() > 0.5
    torch.testing.assert_close(own[mask], theirs[mask], **CLOSE)


def test_decoder_starts_from_bert(bert):
    """A causal decoder with cross-attention silenced is BERT under a causal mask."""
    model, folder = bert
    settings = {"multimodal": LAYERS, "embed_dim": WIDTH, "num_heads": 2, "weights": folder}
    decoder = Part(DecoupledDecoder, settings)(memory_dim=WIDTH, vocabulary=60, text_length=30).eval()
    for layer in decoder.multimodal:
        layer.cross = layer.cross_norm = None
    ids = torch.randint(0, 60, (2, 9))
    causal = torch.full((9, 9), torch.finfo(torch.float32).min).triu(1).expand(2, 1, 9, 9)
    with torch.no_grad():
        own = decoder(
            decoder.encode_text(Text(ids, torch.ones_like(ids, dtype=torch.bool))), Tokens(torch.zeros(2, 1, WIDTH))
        ).x
        theirs = model(ids, attention_mask=causal).last_hidden_state
    assert torch.allclose(own, theirs, atol=1e-5)


def test_bert_weights_that_do_not_fit_are_named(bert, tmp_path):
    _, folder = bert
    with pytest.raises(PartError, match=r"config\.json says .*'hidden_size': 32.* this recipe has"):
        Part(BertEncoder, {"layers": 6, "embed_dim": 64, "num_heads": 2, "weights": folder})(
            vocabulary=60, text_length=30
        )
    with pytest.raises(PartError, match=r"no tensor 'encoder\.layer\.12"):
        Part(SkipConnectedFusion, {"num_heads": 2, "weights": folder, "first_layer": 10})(dim=WIDTH, image_dim=WIDTH)
    with pytest.raises(PartError, match=r"config\.json: cannot be read"):
        Part(BertEncoder, {"weights": str(tmp_path)})(vocabulary=60, text_length=30)


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "relu"), ("layer_norm_eps", 1e-5), ("position_embedding_type", "relative_key")]
)
def test_a_bert_of_another_kind_is_refused(bert, tmp_path, key, value):
    folder = Path(shutil.copytree(bert[1], tmp_path / "bert"))
    config = BertConfig.from_pretrained(folder)
    config.update({key: value})
    config.save_pretrained(folder)
    with pytest.raises(PartError, match=rf"config\.json says {key} {value!r}; only"):
        Part(BertEncoder, {"embed_dim": WIDTH, "num_heads": 2, "weights": str(folder)})(vocabulary=60, text_length=30)


def keys_cubic(new, old):
    """(new, old) weights of bicubic resampling with a = -0.5, widened where it shrinks (Keys 1981; as PIL resizes)."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    x = np.abs(np.arange(old) + 0.5 - centres[:, None]) / max(scale, 1.0)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


def resized(positions, new):
    """(1, 1 + old * old, D) -> (1, 1 + new * new, D), [CLS] as it is."""
    table = positions.detach()[0].double().numpy()
    old = int((len(table) - 1) ** 0.5)
    grid = table[1:].reshape(old, old, -1)
    grid = np.einsum("yi,xj,ijd->yxd", keys_cubic(new, old), keys_cubic(new, old), grid)
    return torch.from_numpy(np.concatenate([table[:1], grid.reshape(new * new, -1)])[None]).float()


def saved(model, tmp_path):
    file = tmp_path / "vit.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return str(file)


def expected(original, own, images):
    return original.forward_features((images.float() - own.mean) / own.deviation)


@pytest.mark.parametrize(("style", "name"), STYLES)
def test_vit_equals_timm(style, name, tmp_path):
    torch.manual_seed(0)
    size = {"embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0, "img_size": 64}
    original = shift(timm.create_model(name, **size))
    settings = {**NARROW, "style": style, "weights": saved(original, tmp_path)}
    own = Part(ViT, settings)(image_size=64).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(own(images).x, expected(original, own, images), **CLOSE)
    for side in (48, 80, 96):  # from 4 x 4 patches
        other = Part(ViT, settings)(image_size=side).vit.pos_embed
        torch.testing.assert_close(other.detach(), resized(original.pos_embed, side // 16), **CLOSE)


@pytest.mark.parametrize(("style", "name"), STYLES)
def test_vit_b_16_split_6_and_6(style, name, tmp_path):
    """With COPA's detector in place and switched off; at the weights' own size and, resized, at COPA's."""
    torch.manual_seed(0)
    original = shift(timm.create_model(name, num_classes=0))
    prune = [Prune(6, Part(TextAwarePatchDetector))]
    settings = {"style": style, "prune": prune, "weights": saved(original, tmp_path)}
    for side in (224, 256):
        own = Part(ViT, settings)(image_size=side, guide_dim=768).eval()
        own.pruning = False
        images = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
        if side == 256:
            positions = resized(original.pos_embed, 16)
            original.set_input_size(256)
            original.pos_embed = nn.Parameter(positions)
        with torch.no_grad():
            trunk, theirs = own.trunk(images), expected(original, own, images)
            hidden = original.forward_intermediates(
                (images.float() - own.mean) / own.deviation, indices=[5], output_fmt="NLC", intermediates_only=True
            )
            finished = own.finish(trunk, torch.randn(1, 768))
        torch.testing.assert_close(trunk.patch_states, hidden[0], rtol=1e-5, atol=1e-4)  # before any norm
        assert theirs.std() > 0.5
        torch.testing.assert_close(finished.x, theirs, **CLOSE)
    Path(settings["weights"]).unlink()  # 343 MB


class ClipTower(nn.Module):
    """The picture half of OpenAI's CLIP, with its names, from torch's own attention."""

    def __init__(self, dim, depth, heads, patches):
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, 16, 16, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(dim))
        self.positional_embedding = nn.Parameter(torch.randn(patches + 1, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(self.block(dim, heads) for _ in range(depth))
        self.proj = nn.Parameter(torch.randn(dim, 20))

    def block(self, dim, heads):
        block = nn.Module()
        block.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        block.ln_1, block.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        block.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(dim, 4 * dim), c_proj=nn.Linear(4 * dim, dim)))
        return block

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).transpose(1, 2)  # (B, P, D)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            normed = block.ln_1(x)
            x = x + block.attn(normed, normed, normed, need_weights=False)[0]
            up = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(up * torch.sigmoid(1.702 * up))
        return self.ln_post(x)


@pytest.fixture
def clip():
    """A CLIP's picture half for 64 px, and the state dict of the whole CLIP."""
    torch.manual_seed(0)
    tower = shift(ClipTower(48, 3, 3, 16))
    text = {
        "token_embedding.weight": torch.randn(9, 48),
        "positional_embedding": torch.randn(9, 48),
        "transformer.resblocks.0.attn.in_proj_weight": torch.randn(144, 48),
        "logit_scale": torch.tensor(4.6),
    }
    state = {f"visual.{name}": tensor.contiguous() for name, tensor in tower.state_dict().items()} | text
    return tower, state


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_openai_clip(clip, precision, tmp_path):
    tower, state = clip
    file = str(tmp_path / "clip.safetensors")
    save_file({name: tensor.to(precision) for name, tensor in state.items()}, file)
    tower.load_state_dict({name: tensor.to(precision).float() for name, tensor in tower.state_dict().items()})
    settings = {**NARROW, "style": "clip", "weights": file}
    own = Part(ViT, settings)(image_size=64).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(own(images).x, tower((images.float() - own.mean) / own.deviation), **CLOSE)
    larger = Part(ViT, settings)(image_size=96).vit.pos_embed
    torch.testing.assert_close(larger.detach(), resized(tower.positional_embedding[None], 6), **CLOSE)


def test_the_first_blocks_alone(clip, tmp_path):
    file = str(tmp_path / "clip.safetensors")
    save_file(clip[1], file)
    own = Part(ViT, {**NARROW, "depth": 2, "style": "clip", "weights": file})(image_size=64)
    assert torch.equal(own.vit.blocks[1].mlp.fc1.weight, clip[0].transformer.resblocks[1].mlp.c_fc.weight)


BLOCK = "visual.transformer.resblocks.0."


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {BLOCK + "mlp.c_fc.weight": torch.zeros(48, 192)},
            {},
            r"has blocks\.0\.mlp\.fc1\.weight \(48, 192\) for \(192, 48\)",
        ),
        ({BLOCK + "ls_1.gamma": torch.ones(48)}, {}, r"does not compute, blocks\.0\.ls_1\.gamma"),
        ({BLOCK + "attn.in_proj_bias": None}, {}, r"lacks blocks\.0\.attn\.qkv\.bias"),
        ({"visual.conv1.weight": torch.zeros(16, 16, 3, 48)}, {}, r"has patch_embed\.proj\.weight"),
        ({"visual.conv1.weight": torch.zeros(48, 700)}, {}, "cannot be resized to this ViT's patch"),
        ({"visual.positional_embedding": torch.zeros(19, 48)}, {}, r"has pos_embed \(1, 19, 48\)"),
        ({}, {"embed_dim": 96}, r"has cls_token \(1, 1, 48\) for \(1, 1, 96\)"),
        ({}, {"depth": 4}, r"lacks blocks\.3\.norm1\.weight"),
        ({}, {"style": "plain"}, r"lacks patch_embed\.proj\.bias; has what .* norm_pre\.weight"),
        ({}, {"stem": "conv"}, r"does not fit stem 'conv': lacks patch_embed\.backbone"),
    ],
    ids=[
        "transposed",
        "layer_scale",
        "absent",
        "channels_last",
        "flat",
        "not_square",
        "width",
        "depth",
        "style",
        "stem",
    ],
)
def test_a_vit_of_another_kind_is_refused(clip, tmp_path, change, settings, message):
    file = str(tmp_path / "clip.safetensors")
    save_file({name: tensor for name, tensor in {**clip[1], **change}.items() if tensor is not None}, file)
    with pytest.raises(PartError, match=r"clip\.safetensors: .*" + message):
        Part(ViT, {**NARROW, "style": "clip", "weights": file, **settings})(image_size=64)


def test_files_that_are_no_vit_are_named(bert, tmp_path):
    with pytest.raises(PartError, match=r"no\.safetensors: cannot be read as safetensors: .*"):
        Part(ViT, {"weights": str(tmp_path / "no.safetensors")})(image_size=224)
    (tmp_path / "bad.safetensors").write_bytes(b"PK not this format")
    with pytest.raises(PartError, match=r"bad\.safetensors: cannot be read as safetensors"):
        Part(ViT, {"weights": str(tmp_path / "bad.safetensors")})(image_size=224)
    with pytest.raises(PartError, match=r"model\.safetensors: does not fit this ViT: lacks cls_token"):
        Part(ViT, {**NARROW, "weights": f"{bert[1]}/model.safetensors"})(image_size=64)


def test_sizes_that_do_not_divide():
    with pytest.raises(PartError, match="3 heads do not divide dim 64"):
        Part(ViT, {"embed_dim": 64, "num_heads": 3})(image_size=224)
    with pytest.raises(PartError, match="patch_size 16 does not divide the image's side of 100"):
        Part(ViT)(image_size=100)
