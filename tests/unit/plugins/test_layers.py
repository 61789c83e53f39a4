"""Shared transformer layers against torch's own modules, and the reading of BERT's files."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from core import runtime
from plugins import layers
from plugins.layers import (
    Attention,
    OpenClipLayer,
    PostNormLayer,
    PreNormLayer,
    attend,
    causal_mask,
    fused_attention,
    initialise,
    initialise_tower,
    key_mask,
)
from plugins.text.weights import load_bert_layer, read_bert, take

B, L, N, D, HEADS = 2, 5, 7, 16, 4
CONFIG = {
    "hidden_size": D,
    "num_attention_heads": HEADS,
    "vocab_size": 40,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}


def shaken(module):
    """Every parameter away from its start, so that no bias or norm can be missed."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    return module.eval()


def some_keys():
    return torch.arange(N) < torch.tensor([[N], [4]])  # (B, N)


@pytest.mark.parametrize("fused", [True, False])
def test_attend_is_a_weighted_mean_of_the_values(fused):
    torch.manual_seed(0)
    query, key, value = (torch.randn(B, HEADS, n, 4) for n in (L, N, N))
    out = attend(query, key, value, key_mask(some_keys()), fused)
    for row, visible in ((0, N), (1, 4)):
        for head in range(HEADS):
            for word in range(L):
                logits = [float(query[row, head, word] @ key[row, head, i]) / 2 for i in range(visible)]  # sqrt(4) = 2
                shares = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
                expected = sum(share * value[row, head, i] for i, share in enumerate(shares))
                assert torch.allclose(out[row, head, word], expected, atol=1e-5)


def test_both_ways_of_attending_have_equal_gradients():
    torch.manual_seed(0)
    inputs = [torch.randn(B, HEADS, n, 4, requires_grad=True) for n in (L, N, N)]
    grads = [torch.autograd.grad(attend(*inputs, key_mask(some_keys()), way).square().sum(), inputs) for way in (1, 0)]
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_drops_attention_weights(fused):
    torch.manual_seed(0)
    query, value = torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 1000, 4)
    off = (attend(query, torch.zeros_like(value), value, None, fused, dropout=0.3) - 1).abs()
    assert off.max() > 1e-3, "nothing is dropped"
    assert off.max() < 0.1, "what stays is scaled by 1 / (1 - dropout)"


@pytest.mark.cpu_choice
@pytest.mark.parametrize("native", [True, False])
def test_the_kernel_is_chosen_by_device_and_precision(monkeypatch, native):
    monkeypatch.setattr(runtime, "CPU_HAS_BF16", native)
    cpu = torch.device("cpu")
    assert fused_attention(cpu, True)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_attention(cpu, True) != native
        assert fused_attention(cpu, False)
        assert fused_attention(torch.device("cuda"), True)


@pytest.mark.cpu_choice
@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.bfloat16), (False, torch.float32)])
def test_few_queries_attend_in_separate_products_unless_bf16_is_emulated(monkeypatch, native, dtype):
    monkeypatch.setattr(runtime, "CPU_HAS_BF16", native)
    layer, calls = shaken(Attention(D, HEADS, 0.0)).eval().to(dtype), []
    monkeypatch.setattr(layers, "attend", lambda *args: calls.append(args[4]) or attend(*args))
    x = torch.randn(B, 3, D, dtype=dtype)
    layer(x, x, None)
    assert calls == [not native and dtype == torch.bfloat16]


@pytest.mark.cpu_choice
@pytest.mark.parametrize("native", [True, False])
def test_bf16_training_agrees_with_fp32(monkeypatch, native):
    monkeypatch.setattr(runtime, "CPU_HAS_BF16", native)
    layer = shaken(PostNormLayer(D, HEADS, 0.0)).train()
    x = torch.randn(B, N, D)
    whole = layer(x, key_mask(some_keys()))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, key_mask(some_keys()))
    assert torch.allclose(whole, half.float(), atol=0.1)


def test_causal_mask_looks_back_only():
    mask = causal_mask(3, torch.device("cpu"))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [True, True, True]]]]
    assert key_mask(None) is None
    assert key_mask(some_keys()).shape == (B, 1, 1, N)


def test_attention_equals_torchs_own():
    ours = shaken(Attention(D, HEADS, 0.0, source_dim=24))
    original = nn.MultiheadAttention(D, HEADS, kdim=24, vdim=24, batch_first=True).eval()
    linears = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        for name, linear in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), linears, strict=True):
            getattr(original, name).copy_(linear.weight)
        original.in_proj_bias.copy_(torch.cat([linear.bias for linear in linears]))
        original.out_proj.load_state_dict(ours.out.state_dict())
    x, source = torch.randn(B, L, D), torch.randn(B, N, 24)
    expected = original(x, source, source, key_padding_mask=~some_keys())[0]
    assert torch.allclose(ours(x, source, key_mask(some_keys())), expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "norm_first"), [(PostNormLayer, False), (PreNormLayer, True)])
@pytest.mark.parametrize("cross", [True, False])
def test_layers_equal_torchs_own(kind, norm_first, cross):
    """The order self-attention, cross-attention, one MLP, with LayerNorm after (post) or before (pre) each."""
    ours = shaken(kind(D, HEADS, 0.0, D if cross else None))
    torch_layer = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    eps = ours.norm.eps
    original = torch_layer(D, HEADS, 4 * D, 0.0, "gelu", eps, batch_first=True, norm_first=norm_first).eval()

    def pack(attention):
        parts = (attention.query, attention.key, attention.value)
        return {
            "in_proj_weight": torch.cat([p.weight for p in parts]),
            "in_proj_bias": torch.cat([p.bias for p in parts]),
            "out_proj.weight": attention.out.weight,
            "out_proj.bias": attention.out.bias,
        }

    original.self_attn.load_state_dict(pack(ours.attention))
    norms = [ours.attention_norm, ours.cross_norm, ours.norm] if cross else [ours.attention_norm, ours.norm]
    for i, norm in enumerate(norms, 1):
        getattr(original, f"norm{i}").load_state_dict(norm.state_dict())
    original.linear1.load_state_dict(ours.fc1.state_dict())
    original.linear2.load_state_dict(ours.fc2.state_dict())
    x, memory = torch.randn(B, L, D), torch.randn(B, N, D)
    words = torch.arange(L) < torch.tensor([[L], [3]])
    with torch.no_grad():
        if cross:
            original.multihead_attn.load_state_dict(pack(ours.cross))
            hidden = {"tgt_key_padding_mask": ~words, "memory_key_padding_mask": ~some_keys()}
            expected = original(x, memory, **hidden)
            out = ours(x, key_mask(words), memory, key_mask(some_keys()))
        else:
            expected = original(x, src_key_padding_mask=~words)
            out = ours(x, key_mask(words))
    assert torch.allclose(out[words], expected[words], atol=1e-4)


def test_berts_layernorm_epsilon_reaches_every_norm():
    norms = [m for m in PostNormLayer(D, HEADS, 0.0, D).modules() if isinstance(m, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-12] * 3


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads do not divide dim 16"):
        Attention(D, 3, 0.0)


@pytest.mark.parametrize("dim", [64, 768, 1024])
def test_initial_weights(dim):
    """BERT's 0.02, and in towers narrower than BERT-base 1 / sqrt(dim)."""
    for start, deviation in (
        (initialise, 0.02),
        (lambda part: initialise_tower(part, dim), 0.02 if dim >= 768 else dim**-0.5),
    ):
        torch.manual_seed(0)
        part = nn.ModuleList([nn.Linear(dim, 500), nn.Embedding(500, dim), nn.LayerNorm(dim)])
        start(part)
        linear, embedding, norm = part
        assert abs(float(linear.weight.detach().std()) / deviation - 1) < 0.05
        assert abs(float(embedding.weight.detach().std()) / deviation - 1) < 0.05
        assert not linear.bias.any()
        assert (norm.weight == 1).all()


@pytest.mark.parametrize("kind", [PostNormLayer, PreNormLayer])
def test_layers_run_on_meta_and_under_tracing(kind):
    layer, x, memory = shaken(kind(D, HEADS, 0.0, D)), torch.randn(B, L, D), torch.randn(B, N, D)
    traced = torch.jit.trace(layer, (x, causal_mask(L, x.device), memory, key_mask(some_keys())))
    other = (torch.randn_like(x), causal_mask(L, x.device), memory, key_mask(some_keys()))
    assert torch.allclose(traced(*other), layer(*other), atol=1e-5)
    assert layer.to("meta")(x.to("meta"), None, memory.to("meta")).shape == (B, L, D)


def folder(path, tensors=None, **config):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    if tensors is not None:
        save_file(tensors, str(path / "model.safetensors"))
    return str(path)


def test_names_of_early_checkpoints_are_understood(tmp_path):
    norm = "bert.encoder.layer.0.output.LayerNorm"
    place = folder(tmp_path, {f"{norm}.gamma": torch.full((D,), 2.0), f"{norm}.beta": torch.full((D,), 3.0)})
    sizes, tensors = read_bert(place, {"hidden_size": D})
    assert sizes == CONFIG
    assert set(tensors) == {"encoder.layer.0.output.LayerNorm.weight", "encoder.layer.0.output.LayerNorm.bias"}
    assert tensors["encoder.layer.0.output.LayerNorm.weight"][0] == 2


@pytest.mark.parametrize(
    ("config", "expected", "length", "message"),
    [
        ({}, {"num_attention_heads": 2}, 0, r"config\.json says \{'num_attention_heads': 4\}, this recipe has .*2\}"),
        ({}, {"vocab_size": 41}, 0, r"config\.json says \{'vocab_size': 40\}, this recipe has \{'vocab_size': 41\}"),
        ({}, {}, 13, r"config\.json says 12 positions, texts are up to 13 long"),
        ({"hidden_act": "relu"}, {}, 0, r"config\.json says hidden_act 'relu'; only 'gelu' is known here"),
        ({"hidden_size": "wide"}, {}, 0, r"config\.json: not the config of a BERT: ValueError"),
        ({}, {}, 0, r"model\.safetensors: cannot be read as safetensors"),
    ],
)
def test_unfit_berts_are_refused_by_name(tmp_path, config, expected, length, message):
    with pytest.raises(ValueError, match=message):
        read_bert(folder(tmp_path, **config), expected, length)


def test_a_config_that_is_no_config(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config\.json: not the config of a BERT"):
        read_bert(str(tmp_path), {})


def test_absent_and_misshapen_tensors_are_named():
    tensors = {"encoder.layer.0.attention.self.query.weight": torch.zeros(D, 8)}
    with pytest.raises(ValueError, match=r"some/bert: .*query\.weight' of shape \(16, 8\), this part needs \(16, 16\)"):
        load_bert_layer(PostNormLayer(D, HEADS, 0.0), tensors, 0, "some/bert")
    with pytest.raises(ValueError, match=r"some/bert: model\.safetensors has no tensor 'x'"):
        take(tensors, "x", torch.Size([1]), "some/bert")


def test_attending_by_products_is_softmax_in_the_values_precision():
    query = torch.randn(B, HEADS, L, 4).bfloat16()
    assert attend(query, query, query, None, fused=False).dtype == torch.bfloat16
    expected = F.scaled_dot_product_attention(query.float(), query.float(), query.float())
    assert torch.allclose(attend(query, query, query, None, fused=False).float(), expected, atol=0.05)


@torch.no_grad()
def test_attention_maps_are_the_weights_of_attention():
    attention, x = shaken(Attention(D, HEADS, 0.0)), torch.randn(B, N, D)
    keys, weights = attention.attention_maps(x, key_mask(some_keys()))
    _, values = attention.keys_values(x)
    assert not weights[1, :, :, 4:].any(), "masked keys have weight 0"
    out = attention.out((weights @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(out, attention(x, x, key_mask(some_keys())), atol=1e-5)
    assert torch.equal(keys, attention.keys_values(x)[0])


@torch.no_grad()
def test_the_halves_of_a_layer_make_the_layer():
    layer, x = shaken(PreNormLayer(D, HEADS, 0.0)), torch.randn(B, N, D)
    mask = key_mask(some_keys())
    assert torch.allclose(layer.mlp(layer.attend(x, mask)), layer(x, mask), atol=1e-6)


@torch.no_grad()
def test_open_clips_layer_is_two_layers():
    """Self-attention and MLP, then cross-attention to the normalised source and a second MLP."""
    layer, x, source = shaken(OpenClipLayer(D, HEADS, 0.0, 24)), torch.randn(B, L, D), torch.randn(B, N, 24)
    first = layer.self_layer(x, causal_mask(L, x.device))
    normed = layer.cross.source_norm(source)
    keys, values = layer.cross.split_heads(layer.cross.key(normed)), layer.cross.split_heads(layer.cross.value(normed))
    query = layer.cross.split_heads(layer.cross.query(layer.cross_norm(first)))
    weights = (query @ keys.transpose(-2, -1) / (D // HEADS) ** 0.5).masked_fill(~key_mask(some_keys()), -torch.inf)
    second = first + layer.cross.out((weights.softmax(-1) @ values).transpose(1, 2).flatten(2))
    expected = second + layer.fc2(F.gelu(layer.fc1(layer.norm(second))))
    out = layer(x, causal_mask(L, x.device), source, key_mask(some_keys()))
    assert torch.allclose(out, expected, atol=1e-4)
    assert layer.attention is layer.self_layer.attention


@pytest.mark.parametrize("layer", [PostNormLayer(D, HEADS, 0.5), PreNormLayer(D, HEADS, 0.5)])
def test_dropout_is_for_training_alone(layer):
    x = torch.randn(B, N, D)
    assert not torch.equal(layer.train()(x, None), layer(x, None))
    assert torch.equal(layer.eval()(x, None), layer(x, None))
