"""Packed linear maps compute what the unpacked ones do, alone and in whole models."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import small
import torch
from small_coca import coca
from torch import nn

from plugins.generation.caption import caption
from plugins.generation.settings import Generation
from plugins.inference import packing
from plugins.inference.packing import PackedLinear, pack

SOURCE = small.data()
pytestmark = pytest.mark.cpu_choice


@pytest.fixture(autouse=True)
def _ask_again():
    packing.can_pack.cache_clear()
    yield
    packing.can_pack.cache_clear()


def refuse(monkeypatch):
    def operator(*_):
        raise RuntimeError("the processor lacks an instruction")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", operator)


def drop(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())


def leave_out(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


BREAKAGES = (refuse, drop, leave_out)  # private operators of torch may fail in each of these ways


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("break_onednn", [None, *BREAKAGES], ids=["as it is", "refuses", "dropped", "no oneDNN"])
def test_a_packed_map(monkeypatch, dtype, close, bias, break_onednn):
    if break_onednn:
        break_onednn(monkeypatch)
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias)
    packed = PackedLinear(linear, dtype)
    assert not (break_onednn and packed.by_onednn)
    states = torch.randn(3, 7, 48)
    for x in (states, states[:, 2], states.transpose(0, 1), states[:1, :1], states[0, 0], states[:0]):
        with torch.no_grad():
            found, expected = packed(x), linear(x)
        assert found.dtype == dtype and found.shape == expected.shape
        assert torch.allclose(found.float(), expected, rtol=close, atol=close)


@pytest.mark.parametrize("break_onednn", BREAKAGES[:2])
def test_what_is_not_packed_is_said_once(monkeypatch, caplog, break_onednn):
    break_onednn(monkeypatch)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    pack(model, torch.bfloat16)
    assert [record.name for record in caplog.records] == ["patchbay"]
    assert "Linear maps in bfloat16 are not packed" in caplog.text


@pytest.mark.parametrize("make", [coca, lambda: small.copa(SOURCE)], ids=["coca", "copa"])
@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_captions_of_a_packed_model(make, mode):
    model, images = make(), small.batch(SOURCE, 4).images
    packed = copy.deepcopy(model)
    pack(packed)
    assert not any(type(module) is nn.Linear for module in packed.modules())
    settings = Generation(mode=mode, max_length=6)
    texts = [[text for text, _ in caption(m, SOURCE.tokenizer, images, settings)] for m in (packed, model)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("autocast", [True, False])
def test_a_model_packed_in_bf16(autocast):
    """Its states differ from fp32's by rounding alone; under autocast, which asks for the same, as without."""
    model, images = coca(), small.batch(SOURCE, 4).images
    packed = copy.deepcopy(model)
    pack(packed, torch.bfloat16)
    with torch.no_grad():
        expected = model.encode_image(model.trunk(images)).x
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = packed.encode_image(packed.trunk(images)).x.float()
    assert (found - expected).norm() < 0.03 * expected.norm()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert len(caption(packed, SOURCE.tokenizer, images, Generation(mode="beam", max_length=6))) == 4
