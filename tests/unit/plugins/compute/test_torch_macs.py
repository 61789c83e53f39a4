"""Multiply-adds by torch's counter: parts, nested parts, the state of the module afterwards, formatting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plugins.compute.torch_macs import amount, count, counter, macs, ratio


class Branches(nn.Module):
    """A map to 6, one of 6 x 6 inside a wrapper, and a product of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.unused = nn.Linear(4, 6), nn.Linear(9, 9)
        self.outer = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 2)))

    def forward(self, x):
        x = self.first(x)
        return self.outer(x), x @ x.T


FIRST, MIDDLE, LAST, OWN = 5 * 4 * 6, 5 * 6 * 6, 5 * 6 * 2, 5 * 6 * 5  # for a batch of 5


def test_parts_and_the_rest():
    module = Branches()
    counted = count(module, (torch.randn(5, 4),), {"first": [module.first], "outer": [module.outer]})
    assert counted.parts == {"first": FIRST, "outer": MIDDLE + LAST, "other": OWN}
    assert counted.total == FIRST + MIDDLE + LAST + OWN


def test_an_inner_part_is_not_counted_in_the_outer_one():
    module = Branches()
    inner, outer = [module.outer[1]], [module.outer]
    for parts in ({"inner": inner, "outer": outer}, {"outer": outer, "inner": inner}):
        counted = count(module, (torch.randn(5, 4),), parts)
        assert {name: counted.parts[name] for name in parts} == {"inner": LAST, "outer": MIDDLE}


def test_a_part_of_several_modules_and_one_that_does_not_run():
    module = Branches()
    parts = {"ends": [module.first, module.outer[1]], "unused": [module.unused], "none": []}
    counted = count(module, (torch.randn(5, 4),), parts)
    assert counted.parts == {"ends": FIRST + LAST, "unused": 0, "none": 0, "other": MIDDLE + OWN}


def test_without_a_rest_there_is_no_other():
    module = nn.Linear(3, 2)
    assert count(module, (torch.randn(7, 3),), {"all": [module]}).parts == {"all": 7 * 3 * 2}


def test_a_module_that_runs_twice_counts_twice():
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, layer)
    assert count(module, (torch.randn(2, 3),), {"layer": [layer]}).parts == {"layer": 2 * 2 * 9}


def test_the_module_is_as_before():
    module = Branches().train()
    module.first.bias.requires_grad_(False)
    before = [p.requires_grad for p in module.parameters()]
    count(module, (torch.randn(5, 4),), {"first": [module.first]})
    assert [p.requires_grad for p in module.parameters()] == before
    assert module.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_hooks_are_removed_after_an_error():
    module = Branches()
    with pytest.raises(RuntimeError, match="shapes"):
        count(module, (torch.randn(5, 3),), {"first": [module.first]})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(("queries", "keys", "width", "value_width"), [(3, 5, 4, 4), (1, 7, 2, 2), (6, 6, 8, 8)])
def test_fused_attention_forward_and_backward(queries, keys, width, value_width):
    sizes = ((2, 3, queries, width), (2, 3, keys, width), (2, 3, keys, value_width))
    query, key, value = (torch.randn(size, requires_grad=True) for size in sizes)
    pairs = 2 * 3 * queries * keys
    running = counter()
    with running:
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        assert macs(running) == pairs * (width + value_width)
        attended.sum().backward()
    assert macs(running) == pairs * (4 * width + 3 * value_width)


def test_a_loss_that_calls_grad_itself_is_counted():
    module, batch = nn.Linear(4, 3, bias=False), torch.randn(5, 4, requires_grad=True)
    running = counter()
    with running:
        (grad,) = torch.autograd.grad(module(batch).sum(), batch, create_graph=True)
        grad.square().sum().backward()
    assert macs(running) >= 3 * 5 * 4 * 3  # forward, gradient of the batch, gradient of that


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000 k"),
        (12_345, "12.35 k"),
        (124_000_000, "124.0 M"),
        (17_563_000_000, "17.56 G"),
        (1_000_000_000_000, "1.000 T"),
        (5_678_000_000_000_000, "5678. T"),
    ],
)
def test_amounts_have_four_digits(number, text):
    assert amount(number) == text


def test_ratio():
    assert [ratio(3, 2), ratio(1, 3), ratio(0, 2), ratio(2, 0)] == ["1.50x", "0.33x", "0.00x", "-"]
