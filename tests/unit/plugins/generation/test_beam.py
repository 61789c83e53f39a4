"""Beam search as bookkeeping: which rows continue, when texts end, and when a search stops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.generation.beam import Beams
from plugins.generation.settings import Generation

END = 0


def beams(images=1, width=2, max_length=4, penalty=1.0):
    chosen = Generation(mode="beam", beams=width, max_length=max_length, length_penalty=penalty)
    return Beams(images, chosen, END, torch.device("cpu"))


def logs(*rows):
    """Log-probabilities (R, V) from probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


def run(search, steps, images=1):
    """Apply steps (R, V) in turn; returns the texts of the rows after each."""
    width = search.totals.shape[1]
    written, history = torch.zeros(images * width, 0, dtype=torch.int64), []
    for scores in steps:
        origin, words = search.grow(scores, written)
        written = torch.cat([written[origin], words[:, None]], 1)
        history.append(written.tolist())
    return history


def test_the_first_step_continues_one_copy_of_the_prompt():
    search = beams(width=3)
    assert search.alive.tolist() == [[True, False, False]]
    (texts,) = run(search, [logs([0.1, 0.2, 0.3, 0.4]).repeat(3, 1)])
    assert texts == [[3], [2], [1]]
    assert search.totals[0].exp().tolist() == pytest.approx([0.4, 0.3, 0.2])


def test_rows_continue_the_likeliest_texts():
    search = beams(width=2)
    first = logs([0.0, 0.6, 0.4]).repeat(2, 1)
    second = logs([0.0, 0.5, 0.5], [0.0, 0.1, 0.9])  # 0.6 * 0.5 = 0.30, twice; 0.4 * 0.9 = 0.36
    texts = run(search, [first, second])[-1]
    assert texts[0] == [2, 2]
    assert texts[1] in ([1, 1], [1, 2])
    assert search.totals[0].exp().tolist() == pytest.approx([0.36, 0.30])


def test_a_finished_text_narrows_the_beam():
    search = beams(width=2, penalty=0.0)
    run(search, [logs([0.5, 0.3, 0.2]).repeat(2, 1)])
    assert search.widths.tolist() == [1]
    assert search.best()[0].ids == ()
    assert search.best_scores.exp().tolist() == pytest.approx([0.5])
    assert not search.alive.any()  # no continuation of 0.3 can reach 0.5


def test_a_longer_text_may_still_win_by_its_mean():
    search = beams(width=2, penalty=1.0)
    run(search, [logs([0.5, 0.4, 0.1]).repeat(2, 1)])
    assert search.alive.sum() == 1  # log 0.4 / 4 exceeds log 0.5
    scores = logs([0.9, 0.05, 0.05]).repeat(2, 1)
    search.grow(scores, torch.tensor([[END], [1]]))
    (best,) = search.best()
    assert best.ids == (1,)
    assert best.score == pytest.approx(math.log(0.4 * 0.9) / 2)  # above log 0.5: -0.51 against -0.69
    assert not search.alive.any()


@pytest.mark.parametrize(("second", "ids", "score"), [(0.35, (), 0.2), (0.45, (1, 1), 0.5 * 0.45)])
def test_the_best_finished_text_is_replaced_by_a_better_one_alone(second, ids, score):
    search = beams(width=3, penalty=0.0, max_length=2)
    run(search, [logs([0.2, 0.5, 0.3]).repeat(3, 1)])
    assert search.best_scores.exp().tolist() == pytest.approx([0.2])
    search.grow(logs([0.65 - second, second, 0.35]).repeat(3, 1), torch.tensor([[1], [2], [0]]))
    (best,) = search.best()
    assert best.ids == ids
    assert best.score == pytest.approx(math.log(score))


def test_the_greatest_length_ends_all_texts():
    search = beams(width=2, max_length=1)
    run(search, [logs([0.1, 0.7, 0.2]).repeat(2, 1)])
    assert not search.alive.any()
    assert search.best()[0].ids == (1,)
    assert search.best()[0].score == pytest.approx(math.log(0.7))


def test_images_are_independent():
    torch.manual_seed(0)
    steps = [torch.randn(3 * 2, 5).log_softmax(1) for _ in range(3)]
    together = beams(images=3, max_length=3)
    run(together, steps, images=3)
    for image in range(3):
        alone = beams(max_length=3)
        run(alone, [scores[2 * image : 2 * image + 2] for scores in steps])
        assert alone.best() == together.best()[image : image + 1]


def test_a_beam_wider_than_the_vocabulary():
    search = beams(width=5, max_length=2, penalty=0.0)
    steps = [logs([0.0, 0.7, 0.3]).repeat(5, 1), logs([0.1, 0.2, 0.7]).repeat(5, 1)]
    run(search, steps)
    (best,) = search.best()
    assert best.ids == (1, 2)
    assert best.score == pytest.approx(math.log(0.49))


def test_a_search_that_nothing_ended_has_no_text():
    (best,) = beams().best()
    assert best.ids == ()
    assert best.score == -math.inf


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_full_beam_finds_the_best_of_a_markov_chain(seed, penalty, max_length):
    """Scores depend on the last token alone; all texts are enumerated."""
    vocabulary = 3
    table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)).double().log_softmax(1)
    search = beams(width=vocabulary**max_length, max_length=max_length, penalty=penalty)
    written = torch.zeros(vocabulary**max_length, 0, dtype=torch.int64)
    for _ in range(max_length):
        last = written[:, -1] if written.shape[1] else torch.zeros(len(written), dtype=torch.int64)
        origin, words = search.grow(table[last], written)
        written = torch.cat([written[origin], words[:, None]], 1)
    finished, unfinished = [], [((), 0.0, 0)]
    for length in range(1, max_length + 1):
        longer = [((*text, w), total + float(table[last, w]), w) for text, total, last in unfinished for w in range(3)]
        ends = [(text, total) for text, total, w in longer if w == END or length == max_length]
        finished += [(total / length**penalty, text) for text, total in ends]
        unfinished = [entry for entry in longer if entry[2] != END]
    (best,) = search.best()
    assert best.score == pytest.approx(max(finished)[0])
