"""Comparison with the original's outputs: the largest difference, its tolerance, the same inputs at every call."""

from __future__ import annotations

import pytest
import torch

from plugins.importing.comparison import TOLERANCE, compare, random_ids, random_image


def test_inputs_are_the_same_at_every_call():
    torch.manual_seed(3)
    image, ids = random_image(5, 7), random_ids(11, 9)
    state = torch.random.get_rng_state()
    assert torch.equal(image, random_image(5, 7))
    assert torch.equal(ids, random_ids(11, 9))
    assert torch.equal(state, torch.random.get_rng_state())
    assert image.shape == (1, 3, 5, 7)
    assert image.dtype == torch.uint8
    assert 1 <= int(ids.min()) <= int(ids.max()) < 11


def test_the_largest_difference_is_stated():
    one, other = torch.zeros(2, 3), torch.ones(4)
    line = compare("lib 1.0", {"a": one, "b": other}, {"a": one + 5e-6, "b": other - 2e-5}, "a text")
    assert line == "compared with lib 1.0 on a text: largest difference 2.0e-05 (relative 2.0e-05) in a and b"


def test_differences_of_large_values_are_relative():
    large = torch.tensor([1000.0, 1.0])
    compare("lib", {"a": large}, {"a": large + 0.9 * 1000 * TOLERANCE}, "x")
    with pytest.raises(
        ValueError, match=r"^refused: compared with lib on x: largest difference 1\.1e-01 .* in a; at most"
    ):
        compare("lib", {"a": large}, {"a": large + 1.1 * 1000 * TOLERANCE}, "x")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.01])
def test_small_values_that_differ_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^refused: .* in b; at most 0\.0001 is accepted"):
        compare(
            "lib", {"a": torch.ones(1), "b": torch.zeros(2)}, {"a": torch.ones(1), "b": torch.tensor([wrong, 0])}, "x"
        )


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"^refused: a differ from lib's: \(2,\) here, \(3,\) there$"):
        compare("lib", {"a": torch.zeros(3)}, {"a": torch.zeros(2)}, "x")
