"""RandAugment's operations, against arithmetic on simple images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plugins.data.randaugment import FILL_COLOUR, OPERATIONS, affine, rand_augment


def blocky_image(size: int = 32) -> torch.Tensor:
    """Random blocks of 4 x 4 pixels, (3, S, S) uint8."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(40, 200, (3, size // 4, size // 4), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)  # (3, S, S)


def test_no_operation_changes_the_hue_of_grey():
    grey = blocky_image()[:1].expand(3, -1, -1).contiguous()
    for operation in OPERATIONS.values():
        for sign in (-1, 1):
            result = operation(grey, sign)
            assert (result[0] == result[1]).all()
            assert (result[0] == result[2]).all()


def test_brightness_is_a_product():
    image = blocky_image()
    expected = (image.double() * (0.1 + 1.8 * 0.7)).clamp(0, 255)
    assert (OPERATIONS["brightness"](image, 1) - expected).abs().max() <= 1


def test_autocontrast_uses_the_whole_range_of_each_channel():
    result = OPERATIONS["autocontrast"](blocky_image(), 1)
    assert result.amin((1, 2)).tolist() == [0, 0, 0]
    assert (result.amax((1, 2)) >= 254).all()  # rounded down


@pytest.mark.parametrize("name", ["identity", "autocontrast", "equalize", "brightness", "sharpness"])
def test_operations_without_direction_ignore_the_sign(name):
    assert torch.equal(OPERATIONS[name](blocky_image(), 1), OPERATIONS[name](blocky_image(), -1))


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_opposite_signs_mirror_each_other(name):
    image, axis = blocky_image(), 1 if name.endswith("_y") else 2
    mirrored = OPERATIONS[name](image.flip(axis), 1).flip(axis).int()
    assert (mirrored - OPERATIONS[name](image, -1).int()).abs().float().mean() < 1


def test_a_shift_by_whole_pixels_and_its_fill_colour():
    image = blocky_image()
    result = affine(image, shift=(4 / 32, -8 / 32))  # 4 pixels to the right, 8 up
    assert torch.equal(result[:, :24, 4:], image[:, 8:, :28])
    assert (result[:, 24:] == FILL_COLOUR[0]).all()
    assert (result[:, :, :4] == FILL_COLOUR[0]).all()


def test_a_quarter_turn():
    image = blocky_image()
    turned = [torch.rot90(image, k, (1, 2)) for k in (1, -1)]
    result = affine(image, angle=90)
    assert min((result.int() - other.int()).abs().max() for other in turned) <= 1


def test_draws_depend_on_the_generator_only():
    image = blocky_image()
    results = [rand_augment(image, np.random.default_rng(seed)) for seed in range(30)]
    assert all(torch.equal(r, rand_augment(image, np.random.default_rng(s))) for s, r in enumerate(results))
    assert all((r.shape, r.dtype) == (image.shape, image.dtype) for r in results)
    assert any(torch.equal(r, image) for r in results)  # each operation is skipped half the time
    assert sum(not torch.equal(r, image) for r in results) > 10
    assert torch.equal(rand_augment(image, np.random.default_rng(0), 0), image)
