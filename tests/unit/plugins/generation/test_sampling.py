"""From logits to the next token: penalties, masks, and the inverse of the cumulative distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.generation.sampling import NUCLEUS_TOKENS, apply_repetition_penalty, mask_token, sample_token


def sample(probabilities, noise, temperature=1.0, top_k=0, top_p=1.0):
    """Tokens for each number of ``noise``, all from one distribution."""
    logits = torch.tensor([probabilities], dtype=torch.float64).log().repeat(len(noise), 1)
    return sample_token(logits, torch.tensor(noise, dtype=torch.float64), temperature, top_k, top_p).tolist()


def test_repetition_penalty_by_sign():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0, 0.0]])
    ids = torch.tensor([[0, 1, 1, 4]])
    got = apply_repetition_penalty(logits, ids, torch.ones(1, 4, dtype=torch.bool), 4.0)
    assert got.tolist() == [[0.5, -8.0, 2.0, -2.0, 0.0]]  # once, however often the token is there
    assert logits.tolist() == [[2.0, -2.0, 2.0, -2.0, 0.0]]


def test_tokens_outside_the_mask_are_not_repeated():
    logits, ids = torch.ones(2, 3), torch.tensor([[0, 1], [2, 2]])
    got = apply_repetition_penalty(logits, ids, torch.tensor([[True, False], [False, False]]), 2.0)
    assert got.tolist() == [[0.5, 1, 1], [1, 1, 1]]


def test_a_penalty_of_one_and_an_empty_text_change_nothing():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1], [2, 3]])
    assert torch.equal(apply_repetition_penalty(logits, ids, torch.ones(2, 2, dtype=torch.bool), 1.0), logits)
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert torch.equal(apply_repetition_penalty(logits, none, none.bool(), 9.0), logits)


def test_a_masked_token_has_no_probability():
    logits = torch.randn(3, 4)
    masked = mask_token(logits, 2)
    assert masked.softmax(1)[:, 2].tolist() == [0, 0, 0]
    assert torch.equal(masked[:, [0, 1, 3]], logits[:, [0, 1, 3]])


def test_noise_is_mapped_by_the_cumulative_distribution_in_order_of_tokens():
    assert sample([0.1, 0.2, 0.3, 0.4], [0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.999]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_token_without_probability_is_never_drawn():
    assert set(sample([0.0, 0.5, 0.0, 0.5, 0.0], [i / 100 for i in range(100)])) == {1, 3}
    assert sample([0.0, 1.0, 0.0], [0.0, 1 - 2**-53]) == [1, 1]


def test_top_k_draws_from_the_likeliest_first():
    assert sample([0.1, 0.2, 0.3, 0.4], [0.0, 0.57, 0.58, 0.99], top_k=2) == [3, 3, 2, 2]  # 0.4 / 0.7 = 0.571
    assert sample([0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.99], top_k=1) == [3, 3, 3]
    assert set(sample([0.25] * 4, [0.1, 0.4, 0.6, 0.9], top_k=9)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("top_p", "tokens"), [(0.39, {3}), (0.41, {2, 3}), (0.71, {1, 2, 3}), (0.91, {0, 1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_a_nucleus_has_the_fewest_tokens_with_its_probability(top_p, tokens):
    assert set(sample([0.1, 0.2, 0.3, 0.4], [i / 200 for i in range(200)], top_p=top_p)) == tokens


def test_a_nucleus_after_top_k_is_of_the_remaining_probability():
    noise = [i / 200 for i in range(200)]
    assert set(sample([0.1, 0.2, 0.3, 0.4], noise, top_k=2, top_p=0.55)) == {3}  # 0.4 / 0.7 exceeds 0.55
    assert set(sample([0.1, 0.2, 0.3, 0.4], noise, top_k=2, top_p=0.6)) == {2, 3}


def test_temperature_sharpens_and_flattens():
    noise = [i / 1000 for i in range(1000)]
    share = {t: sample([0.2, 0.8], noise, temperature=t).count(1) / 1000 for t in (0.5, 1.0, 2.0)}
    assert share[1.0] == pytest.approx(0.8, abs=0.002)
    assert share[0.5] == pytest.approx(0.64 / 0.68, abs=0.002)
    assert share[2.0] == pytest.approx(0.8**0.5 / (0.8**0.5 + 0.2**0.5), abs=0.002)


@given(st.integers(0, 10**6), st.floats(0.01, 1), st.integers(0, 6), st.floats(0.2, 3))
@settings(max_examples=60, deadline=None)
def test_a_drawn_token_is_among_those_permitted(seed, top_p, top_k, temperature):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 5, generator=random, dtype=torch.float64)
    tokens = sample_token(logits, torch.rand(8, generator=random, dtype=torch.float64), temperature, top_k, top_p)
    for row, token in zip((logits / temperature).softmax(1).tolist(), tokens.tolist(), strict=True):
        order = sorted(range(5), key=lambda i: -row[i])[: top_k or 5]
        total = sum(row[i] for i in order)
        rank = order.index(token)  # ValueError: not one of the k
        assert sum(row[i] for i in order[:rank]) / total < top_p + 1e-9


def test_a_row_depends_on_its_own_noise():
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for options in ((1.0, 0, 1.0), (0.7, 4, 1.0), (1.3, 0, 0.8), (1.0, 3, 0.5)):
        together = sample_token(logits, noise, *options)
        alone = [sample_token(logits[i : i + 1], noise[i : i + 1], *options) for i in range(6)]
        assert together.tolist() == torch.cat(alone).tolist()


def test_a_flat_distribution_has_a_nucleus_wider_than_the_first_search():
    vocabulary = 4 * NUCLEUS_TOKENS
    flat, peaked = torch.zeros(vocabulary), torch.zeros(vocabulary)
    peaked[7] = 50.0
    logits = torch.stack([flat, peaked, flat])
    tokens = sample_token(logits, torch.tensor([0.999, 0.999, 0.0]), 1.0, 0, 0.5)
    assert tokens[1] == 7
    assert tokens[0] != tokens[2]
    reached = sample_token(flat.expand(2000, -1), torch.arange(2000) / 2000, 1.0, 0, 0.5).unique()
    assert len(reached) == pytest.approx(vocabulary / 2, abs=2)
