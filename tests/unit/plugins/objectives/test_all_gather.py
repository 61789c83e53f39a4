"""Two ranks of four pairs train as one process of eight: losses and gradients, temperature and bias included."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from core.objectives import Objectives
from plugins.heads.scale_bias import ScaleBias
from plugins.objectives.itc import ImageTextContrast
from plugins.objectives.siglip import PairwiseSigmoid
from registry.part import Part

RANKS, ROWS = 2, 4
LOSSES = {
    "itc": {"itc": ImageTextContrast()},
    "itc_sum_smoothed": {"itc": ImageTextContrast(reduction="sum", smoothing=0.1)},
    "siglip": {"siglip": PairwiseSigmoid()},
    "both": {"itc": ImageTextContrast(), "siglip": PairwiseSigmoid()},
    "itc_local": {"itc": ImageTextContrast(gather=False)},
    "siglip_local": {"siglip": PairwiseSigmoid(gather=False)},
}


def objectives(name: str) -> Objectives:
    model = tiny.tiny_model(joined=False)
    model.heads["sigmoid"] = Part(ScaleBias, {"bias": -1.0})()  # so that every pair counts
    return Objectives(model, copy.deepcopy(LOSSES[name]), dict.fromkeys(LOSSES[name], 1.0)).train()


def gradients(trained: Objectives) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in trained.named_parameters() if p.grad is not None and p.grad.any()}


def on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    whole = tiny.TinyData().batch(0, size=RANKS * ROWS, seed=0, reads=frozenset())
    for name in LOSSES:
        trained = objectives(name)
        wrapped = DistributedDataParallel(trained, find_unused_parameters=True)
        loss, _ = wrapped(whole.rows(slice(rank * ROWS, (rank + 1) * ROWS)))
        loss.backward()
        save_file({**gradients(trained), "loss": loss.detach()}, f"{folder}/{name}-{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(on_a_rank, (str(folder),), nprocs=RANKS)
    return folder


def one_process_and_ranks(name: str, folder: Path):
    trained = objectives(name)
    loss, _ = trained(tiny.TinyData().batch(0, size=RANKS * ROWS, seed=0, reads=frozenset()))
    loss.backward()
    first, second = (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(RANKS))
    mean = (first.pop("loss") + second.pop("loss")) / 2
    for key, gradient in first.items():
        assert torch.equal(gradient, second[key])  # DDP has averaged them
    return (gradients(trained), loss.detach()), (first, mean)


@pytest.mark.parametrize("name", ["itc", "itc_sum_smoothed", "siglip", "both"])
def test_two_ranks_are_one_batch(ranks, name):
    (alone, loss), (together, mean) = one_process_and_ranks(name, ranks)
    torch.testing.assert_close(mean, loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)
    parameter = {"itc": "heads.temperature.log", "siglip": "heads.sigmoid.bias"}
    assert {f"model.{parameter[loss]}" for loss in LOSSES[name]} <= set(alone)


@pytest.mark.parametrize("name", ["itc_local", "siglip_local"])
def test_without_gathering_they_are_not(ranks, name):
    (alone, loss), (together, mean) = one_process_and_ranks(name, ranks)
    assert float(loss - mean) > 0.1  # fewer negatives
    assert any(not torch.allclose(together[key], alone[key], rtol=1e-3, atol=1e-4) for key in alone)
