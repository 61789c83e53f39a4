"""Memory of a training step: bytes of parameters, optimizer states and saved tensors, by independent formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import DIM, tiny_model
from torch import nn

from plugins.compute.memory import SavedTensors, num_bytes, parameters, training_memory

WEIGHTS = (40 * 20, 20 * 40)  # of two linear layers without bias


def network(**options) -> nn.Module:
    return nn.Sequential(nn.Linear(20, 40, bias=False), nn.Tanh(), nn.Linear(40, 20, bias=False), **options)


def test_adam_has_two_moments_of_each_parameter():
    assert training_memory(network(), 1000) == {
        "parameters": 4 * 1600,
        "gradients": 4 * 1600,
        "optimizer": 8 * 1600,
        "teacher": 0,
        "activations": 1000,
        "total": 16 * 1600 + 1000,
    }


def test_frozen_parameters_and_buffers_have_no_gradient_and_no_moment():
    module = network()
    module[0].weight.requires_grad_(False)
    module.register_buffer("queue", torch.zeros(7, dtype=torch.float64))
    parts = training_memory(module, 0)
    assert parts["teacher"] == 4 * 800 + 8 * 7
    assert parts["parameters"] == parts["gradients"] == 4 * 800
    assert parts["optimizer"] == 8 * 800
    assert num_bytes(module) == parts["parameters"] + parts["teacher"]


def test_adafactor_factors_large_matrices_alone():
    module = nn.ParameterList(
        [
            nn.Parameter(torch.zeros(size))
            for size in ((40, 20), (16, 17), (15, 400), (30,), (), (3, 20, 40), (20, 3, 40), (64, 3, 8, 8))
        ]
    )
    second = [40 + 20, 16 + 17, 15 * 400, 30, 1, 3 * (20 + 40), 3 * (20 + 40), 64 * 3 * 8 * 8]
    first = sum(parameter.numel() for parameter in module)
    assert training_memory(module, 0, "adafactor")["optimizer"] == 4 * (first + sum(second))


@given(st.lists(st.integers(1, 40), max_size=4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_adafactor_is_never_larger_than_adam(shape, dtype):
    module = nn.ParameterList([nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))])
    adam, adafactor = (training_memory(module, 0, name)["optimizer"] for name in ("adamw", "adafactor"))
    assert adam == 2 * math.prod(shape) * dtype.itemsize
    assert adam / 2 < adafactor <= adam


def test_muon_has_one_moment_of_hidden_linear_layers():
    module = network()
    module.append(nn.Linear(20, 1))  # a map to one number is no hidden layer
    module.append(nn.LayerNorm(20))
    parts = training_memory(module, 0, "muon")
    assert parts["optimizer"] == 4 * (1600 + 2 * (20 + 1) + 2 * 2 * 20)


def test_shapes_are_enough():
    with torch.device("meta"):
        fake = network()
    assert training_memory(fake, 5) == training_memory(network(), 5)


def test_parameters_by_slot_sum_to_the_model():
    model = tiny_model()
    parts = parameters(model)
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert parts["pruner"] == sum(p.numel() for p in model.pruners[0].parameters())
    assert parts["fusion"] == DIM * DIM + DIM
    assert parts["text"] == 10 * DIM + DIM * DIM + DIM
    assert parts["backbone"] + parts["pruner"] == sum(p.numel() for p in model.backbone.parameters())
    assert parts["heads"] == 2 * (DIM * 8 + 8) + 2 * DIM + 2 + 1  # image, text, match, temperature


def test_tied_parameters_count_once():
    module = nn.Module()
    module.first, module.second = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
    module.second.weight = module.first.weight
    assert parameters(module) == {"first": 12}
    assert num_bytes(module) == 48


def test_poolers_and_frame_embeddings_have_keys_of_their_own():
    module = nn.Module()
    module.pooler, module.frame_embedding, module.text = nn.Linear(2, 3), nn.Embedding(4, 5), nn.Module()
    module.text.pooler = nn.Linear(1, 1)
    assert parameters(module) == {"poolers": 9 + 2, "moments": 20}


def test_saved_activations_of_a_chain():
    module, batch = network(), torch.randn(6, 20)
    saved = SavedTensors(module)
    with saved.hooks():
        module(batch).sum()
    # the first map saves its input, tanh its output, which the second map saves again; weights are the module's
    assert saved.bytes == 4 * (6 * 20 + 6 * 40)


def test_views_of_one_storage_count_once_and_as_a_whole():
    module = nn.Linear(1, 1)
    saved, batch = SavedTensors(module), torch.randn(10, 10, requires_grad=True)
    with saved.hooks():
        (batch[:2] * batch[1:3] + batch[0].square().sum()).sum()
    assert saved.bytes == 4 * 100


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_nothing_is_saved_without_gradients(context):
    module = network()
    saved = SavedTensors(module)
    with saved.hooks(), context():
        module(torch.randn(6, 20))
    assert saved.bytes == 0


def test_gradients_are_the_same_while_recording():
    module, batch = network(), torch.randn(6, 20)
    module(batch).square().sum().backward()
    want = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    with SavedTensors(module).hooks():
        loss = module(batch).square().sum()
    loss.backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(module.parameters(), want, strict=True))
