"""Draws of the next word: the cumulative distribution, bans, penalties, and the numbers behind the draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from plugins.generation.generate import sampling_noise
from plugins.generation.sampling import apply_repetition_penalty, mask_token, sample_token
from properties.drawing import PROFILE

SEEDS = st.integers(0, 2**31)


@st.composite
def distributions(draw: st.DrawFn) -> Tensor:
    """Logits (R, V), some of them impossible, no two equal."""
    torch.manual_seed(draw(SEEDS))
    rows, words = draw(st.integers(1, 4)), draw(st.integers(2, 30))
    logits = torch.randn(rows, words, dtype=torch.float64) * draw(st.floats(0.1, 5))
    gone = torch.rand(rows, words) < draw(st.floats(0, 0.9))
    gone[:, draw(st.integers(0, words - 1))] = False
    return logits.masked_fill(gone, -torch.inf)


def possible(row: list[float], number: float, top_k: int, top_p: float) -> set[int]:
    """The words that a number may draw by the definition, both where rounding leaves it between two."""
    order, total = list(range(len(row))), sum(math.exp(logit) for logit in row)
    if top_k or top_p < 1:
        order = sorted(order, key=lambda word: -row[word])[: top_k or None]
        total = sum(math.exp(row[word]) for word in order)
    spans, reached = [], 0.0
    for word in order:
        share = math.exp(row[word]) / total
        if share > 0 and (top_p == 1 or reached < top_p + 1e-9):
            spans.append((word, reached, reached + share))
        reached += share
    clear = [span for span in spans if top_p == 1 or span[1] < top_p - 1e-9]  # not by rounding in the nucleus
    ends = {spans[-1][2], clear[-1][2]}
    return {word for word, low, high in spans for end in ends if low - 1e-9 <= number * end <= high + 1e-9}


@settings(PROFILE, max_examples=150)
@given(
    logits=distributions(),
    number=st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2**-53]),
    temperature=st.floats(0.1, 10),
    top_k=st.integers(0, 32) | st.just(0),
    top_p=st.floats(0.01, 1) | st.just(1.0),
)
@example(logits=torch.tensor([[-math.inf, 0.0]]), number=0.0, temperature=1.0, top_k=0, top_p=1.0)
def test_a_word_is_drawn_by_the_cumulative_distribution(logits, number, temperature, top_k, top_p):
    words = sample_token(logits, torch.full((len(logits),), number, dtype=torch.float64), temperature, top_k, top_p)
    for row, word in zip((logits / temperature).tolist(), words.tolist(), strict=True):
        assert row[word] > -math.inf
        assert word in possible([logit - max(row) for logit in row], number, top_k, top_p)


@settings(PROFILE, max_examples=100)
@given(logits=distributions(), numbers=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2), top_k=st.integers(1, 9))
def test_a_larger_number_draws_no_likelier_word(logits, numbers, top_k):
    low, high = (sample_token(logits, torch.full((len(logits),), n), 1.0, top_k, 1.0) for n in sorted(numbers))
    one, other = (logits.gather(1, words[:, None]) for words in (low, high))
    assert (one >= other).all()


@settings(PROFILE, max_examples=100)
@given(logits=distributions(), data=st.data(), penalty=st.floats(0.1, 10))
def test_repetition_is_penalised_by_its_formula(logits, data, penalty):
    rows, words = logits.shape
    length = data.draw(st.integers(0, 6))
    texts = torch.randint(words, (rows, length))
    mask = torch.rand(rows, length) < 0.6
    penalised = apply_repetition_penalty(logits, texts, mask, penalty)
    for row in range(rows):
        present = set(texts[row][mask[row]].tolist())
        for word in range(words):
            logit = float(logits[row, word])
            changed = (logit / penalty if logit > 0 else logit * penalty) if word in present else logit
            assert float(penalised[row, word]) == pytest.approx(changed)
    assert torch.equal(apply_repetition_penalty(logits, texts, mask, 1.0), logits)


@PROFILE
@given(logits=distributions(), data=st.data())
def test_a_ban_leaves_the_other_words(logits, data):
    word = data.draw(st.integers(0, logits.shape[1] - 1))
    without = mask_token(logits, word)
    assert (without[:, word] == -torch.inf).all()
    rest = torch.arange(logits.shape[1]) != word
    assert torch.equal(without[:, rest], logits[:, rest])


@PROFILE
@given(seed=SEEDS, rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=5), length=st.integers(1, 9))
def test_numbers_belong_to_seed_and_row(seed, rows, length):
    numbers = sampling_noise(seed, rows, length)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert all(torch.equal(sampling_noise(seed, [row], length)[0], numbers[i]) for i, row in enumerate(rows))
    assert torch.equal(sampling_noise(seed, rows, length + 3)[:, :length], numbers)
    assert not torch.equal(sampling_noise(seed + 1, rows, length), numbers)
