"""Tensors between parts: pruned sequences, fused sequences, nested structs, and a block's cues."""

from __future__ import annotations

import pytest
import torch

from core.types import Batch, BlockCues, Fused, Masked, Text, Tokens


def sequence(**fields) -> Tokens:
    """One sequence of [CLS], five patches and a last token, whose states are 0 to 6."""
    return Tokens(torch.arange(7.0).view(1, 7, 1), patches=(1, 6), **fields)


def words(length: int, rows: int = 1) -> Text:
    ids = torch.arange(rows * length).view(rows, length)
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def test_keep_selects_patches_in_the_order_of_the_index():
    kept = sequence().keep(torch.tensor([[4, 0]]))
    assert kept.x.flatten().tolist() == [0, 5, 1, 6]
    assert kept.patches == (1, 3)
    assert kept.source.tolist() == [[4, 0]]
    assert kept.patch_states.flatten().tolist() == [5, 1]


def test_source_names_patches_of_the_image_after_two_prunings():
    kept = sequence().keep(torch.tensor([[4, 2, 0]])).keep(torch.tensor([[2, 0]]))
    assert kept.source.tolist() == [[0, 4]]
    assert kept.x.flatten().tolist() == [0, 1, 5, 6]


def test_fused_tokens_follow_the_kept_patches():
    kept = sequence().keep(torch.tensor([[1]]), fused=torch.full((1, 2, 1), 9.0))
    assert kept.x.flatten().tolist() == [0, 2, 9, 9, 6]
    assert kept.patches == (1, 4)
    assert kept.source.tolist() == [[1, -1, -1]]


def test_a_fused_token_may_be_kept_by_the_next_pruner():
    once = sequence().keep(torch.tensor([[1, 3]]), fused=torch.full((1, 1, 1), 9.0))
    assert once.keep(torch.tensor([[2, 0]])).source.tolist() == [[-1, 1]]


def test_fused_tokens_take_the_dtype_of_the_states():
    states = Tokens(torch.zeros(1, 3, 2, dtype=torch.bfloat16), patches=(1, 3))
    assert states.keep(torch.tensor([[0]]), fused=torch.ones(1, 1, 2)).x.dtype == torch.bfloat16


def test_keep_leaves_its_input_and_replaces_the_scores():
    before = sequence(scores=torch.zeros(1, 5))
    after = before.keep(torch.tensor([[0, 1]]), scores=torch.ones(1, 5))
    assert before.x.shape == (1, 7, 1)
    assert before.scores.sum() == 0
    assert after.scores.sum() == 5
    assert before.keep(torch.tensor([[0]])).scores is None, "scores of an earlier pruner do not fit the patches"


def test_each_row_keeps_patches_of_its_own():
    x = torch.arange(8.0).view(2, 4, 1)
    kept = Tokens(x, patches=(1, 4)).keep(torch.tensor([[0], [2]]))
    assert kept.x.flatten().tolist() == [0, 1, 4, 7]


def test_gradients_of_dropped_patches_are_zero():
    x = torch.zeros(1, 4, 1, requires_grad=True)
    Tokens(x, patches=(1, 4)).keep(torch.tensor([[1]])).x.sum().backward()
    assert x.grad.flatten().tolist() == [1, 0, 1, 0]


def test_map_reaches_nested_structs_and_leaves_none():
    positions = torch.zeros(2, 1, dtype=torch.long)
    masked = Masked(words(3, 2), positions, positions, torch.ones(2, 1))
    batch = Batch(torch.zeros(2, 3, 4, 4), words(3, 2), masked).map(lambda t: t + 1)
    assert batch.images.min() == 1
    assert batch.masked.text.ids.min() == 1
    assert batch.masked.weights.min() == 2
    assert batch.regions is None


def test_map_leaves_what_is_no_tensor():
    assert sequence().map(lambda t: t * 2).patches == (1, 6)


@pytest.mark.parametrize("index", [torch.tensor([1, 1, 0]), slice(0, 1)])
def test_rows_selects_and_repeats(index):
    text = words(3, 2)
    assert torch.equal(text.rows(index).ids, text.ids[index])
    assert torch.equal(text.rows(index).mask, text.mask[index])


def test_to_moves_every_tensor():
    moved = sequence(mask=torch.ones(1, 7, dtype=torch.bool)).to("meta")
    assert moved.x.is_meta
    assert moved.mask.is_meta
    assert moved.pooled is None


def test_memory_has_the_image_first():
    fused = Fused(text=Tokens(torch.ones(2, 3, 4)), image=Tokens(torch.zeros(2, 5, 4)))
    assert fused.memory.x[:, :, 0].tolist() == [[0] * 5 + [1] * 3] * 2
    assert fused.mask is None
    assert fused.memory.mask is None


def test_a_missing_mask_is_all_true_beside_the_other():
    mask = torch.tensor([[True, False, True]])
    fused = Fused(text=Tokens(torch.ones(1, 3, 4), mask=mask), image=Tokens(torch.zeros(1, 2, 4)))
    assert fused.mask.tolist() == [[True, True, True, False, True]]
    other = Fused(text=Tokens(torch.ones(1, 2, 4)), image=Tokens(torch.zeros(1, 3, 4), mask=mask))
    assert other.memory.mask.tolist() == [[True, False, True, True, True]]


def test_cues_are_computed_once_and_at_the_first_access():
    calls = []

    def attention_maps():
        calls.append(1)
        return torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 3)

    cues = BlockCues(attention_maps)
    assert not calls
    assert cues.keys.shape == (1, 2, 3, 4)
    assert cues.attention.shape == (1, 2, 3, 3)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["keys", "attention"])
def test_cues_after_a_block_name_the_place_that_has_them(name):
    with pytest.raises(ValueError, match="only to a pruner with place = 'in_block'"):
        getattr(BlockCues(), name)
