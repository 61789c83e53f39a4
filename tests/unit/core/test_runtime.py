"""Device, precision and what follows from what the processor computes natively, each way forced on every machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from timm.optim import Muon
from timm.optim.muon import zeropower_via_newtonschulz

from core import runtime
from core.runtime import has_native_bf16, pick_device, pick_precision
from core.training.optimizer import Fp32Muon, make_optimizer
from core.training.trainer import TrainSettings
from plugins.inference.packing import can_pack

pytestmark = pytest.mark.cpu_choice
QUINTIC = [  # timm's preset of this name
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
CPU = torch.device("cpu")
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@pytest.fixture(autouse=True)
def _ask_again():
    caches = (can_pack, runtime._warn_of_emulation)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_device():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="'warp' is no device"):
        pick_device("warp")


@pytest.mark.parametrize(("native", "auto"), [(True, "bf16"), (False, "fp32")])
def test_precision_by_the_processor(monkeypatch, caplog, native, auto):
    monkeypatch.setattr(runtime, "CPU_HAS_BF16", native)
    assert pick_precision("fp32", CPU) == "fp32"
    assert pick_precision("auto", CPU) == auto
    assert not caplog.records
    for _ in range(2):
        assert pick_precision("bf16", CPU) == "bf16"
    assert [(record.name, "emulated" in record.message) for record in caplog.records] == [("patchbay", True)][native:]


@pytest.mark.parametrize("native", [True, False])
def test_precision_on_a_gpu(monkeypatch, caplog, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    monkeypatch.setattr(runtime, "CPU_HAS_BF16", not native)
    assert pick_precision("auto", torch.device("cuda")) == ("bf16" if native else "fp32")
    assert pick_precision("bf16", torch.device("cuda")) == "bf16"
    assert not caplog.records
    assert not has_native_bf16(torch.device("meta"))


@pytest.mark.parametrize("cpuid", [True, False])
@pytest.mark.parametrize("onednn", [True, False, None])
def test_native_bf16_needs_the_instructions_and_onednn(monkeypatch, cpuid, onednn):
    """None: a torch without the operator."""
    operators = SimpleNamespace() if onednn is None else SimpleNamespace(_is_mkldnn_bf16_supported=lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpuid)
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    assert runtime._cpu_has_bf16() == bool(cpuid and onednn)


def test_a_torch_that_cannot_ask_the_processor(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not runtime._cpu_has_bf16()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variables act on x86 alone")
def test_an_emulated_avx2_is_recognised():
    """The variables, which CI sets, act on what is asked and not only on cpuid's answer."""
    code = (
        "import torch; from core.runtime import *; cpu = torch.device('cpu');"
        "from plugins.inference.packing import can_pack;"
        "print(has_native_bf16(cpu), can_pack(torch.bfloat16), pick_precision('auto', cpu))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **AVX2},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False", "fp32"]
    assert done.stderr.count("Linear maps in bfloat16 are not packed") == torch.backends.mkldnn.is_available()


def step_of_muon(weight, grad):
    """(M, N) after one step of the optimizer chosen for this processor, with the optimizer."""
    model = torch.nn.Module()
    model.map = torch.nn.Linear(*weight.shape[::-1], bias=False)
    model.map.weight.data.copy_(weight)
    model.map.weight.grad = grad.clone()
    optimizer = make_optimizer(model, TrainSettings(optimizer="muon", weight_decay=0.0, lr=0.1), CPU)
    optimizer.step()
    return model.map.weight.detach(), optimizer


def test_muon_orthogonalises_in_fp32_where_bf16_is_emulated(monkeypatch):
    torch.manual_seed(0)
    weight, grad = torch.randn(12, 20), torch.randn(12, 20)
    steps, optimizers = {}, {}
    for native in (True, False):
        monkeypatch.setattr(runtime, "CPU_HAS_BF16", native)
        after, optimizers[native] = step_of_muon(weight, grad)
        steps[native] = after - weight
    assert [type(optimizers[native]) for native in (True, False)] == [Muon, Fp32Muon]
    group = optimizers[False].param_groups[0]
    update = grad.lerp(grad * (1 - group["momentum"]), group["momentum"])
    turned = zeropower_via_newtonschulz(update, 5, QUINTIC, dtype=torch.float32)
    expected = -0.1 * 0.2 * 20**0.5 * turned
    assert torch.allclose(steps[False], expected, atol=1e-6)
    assert not torch.allclose(steps[True], expected, atol=1e-6), "bf16 rounds"
    assert torch.allclose(steps[True], expected, atol=5e-3)


def test_muons_state_moves_between_processors(monkeypatch):
    torch.manual_seed(0)
    weight, grad = torch.randn(12, 20), torch.randn(12, 20)
    states = []
    for native in (True, False):
        monkeypatch.setattr(runtime, "CPU_HAS_BF16", native)
        states.append(step_of_muon(weight, grad)[1].state_dict())
    first, second = (state["state"][0] for state in states)
    assert first.keys() == second.keys()
    assert torch.equal(first["momentum_buffer"], second["momentum_buffer"])
    assert states[0]["param_groups"] == states[1]["param_groups"]
