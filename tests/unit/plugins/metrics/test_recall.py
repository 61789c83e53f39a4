"""Retrieval with several captions a picture: its ranks against loops, its block beside the one-caption figures."""

from __future__ import annotations

import random

import pytest
import torch
from evaluations import evaluation
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyData, tiny_model

from plugins.metrics import recall, retrieval

KEYS = {f"{way}_r{cut}" for way in ("i2t", "t2i") for cut in (1, 5, 10)}


class Told(TinyData):
    """Tiny data with ``more`` captions beside each picture's own; those of different pictures may be the same."""

    def __init__(self, more: int):
        super().__init__()
        self.more, self.asked, plain = more, [], self.tokenizer
        self.tokenizer = lambda texts: self.asked.append(list(texts)) or plain(texts)

    def references(self, example):
        number = int(example.key.split()[-1])
        words = ("red", "blue", "green", "star", "disc", "ring")
        return [example.caption, *(f"{words[(number + k) % 6]} {words[number % 4]}" for k in range(self.more))]


def section(data, *, candidates=12, batch=5, joined=False):
    model = tiny_model(joined=joined).eval()
    with torch.no_grad():
        found = retrieval.evaluate(evaluation(model, data, candidates=candidates, rerank=4, batch=batch))
    return model, found["retrieval"]


# ranks


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.integers(0, 10**6), st.sampled_from([1, 7, 10**6]))
@settings(max_examples=40, deadline=None)
def test_ranks_are_those_of_a_loop_however_few_cosines_are_held(counts, seed, room):
    owner = [picture for picture, count in enumerate(counts) for _ in range(count)]
    random.Random(seed).shuffle(owner)
    draw = torch.Generator().manual_seed(seed)
    pictures, texts = (torch.randint(-2, 3, (size, 2), generator=draw).float() for size in (len(counts), len(owner)))
    scores = (pictures @ texts.T).tolist()  # whole numbers: many ties, and no rounding
    i2t, t2i = recall.ranks(pictures, texts, torch.tensor(owner), room)
    for picture, row in enumerate(scores):
        best = max(score for score, own in zip(row, owner, strict=True) if own == picture)
        wrong = [score for score, own in zip(row, owner, strict=True) if own != picture]
        assert i2t[picture] == sum(score >= best for score in wrong)
    for text, own in enumerate(owner):
        column = [row[text] for row in scores]
        assert t2i[text] == sum(score >= column[own] for score in column) - 1


def test_with_one_caption_each_they_are_the_ordinary_ranks():
    draw = torch.Generator().manual_seed(0)
    pictures, texts = torch.randn(9, 4, generator=draw), torch.randn(9, 4, generator=draw)
    i2t, t2i = recall.ranks(pictures, texts, torch.arange(9))
    assert torch.equal(i2t, retrieval.ranks(pictures @ texts.T))
    assert torch.equal(t2i, retrieval.ranks(texts @ pictures.T))


def test_what_is_not_a_number_finds_nothing():
    bad = torch.full((6, 3), torch.nan)
    i2t, t2i = recall.ranks(bad, bad, torch.arange(6))
    assert recall.recalls(i2t, t2i) == {
        f"{way}_r{cut}": float(cut == 10) for way in ("i2t", "t2i") for cut in (1, 5, 10)
    }
    assert retrieval.ranks(bad @ bad.T).tolist() == [5] * 6


def test_any_own_caption_will_do():
    pictures = torch.eye(3)
    texts = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])  # the first is of picture 0 and fits 1
    i2t, t2i = recall.ranks(pictures, texts, torch.tensor([0, 0, 1, 2]))
    assert i2t.tolist() == [0, 1, 0]  # picture 1 is as near to picture 0's caption as to its own
    assert t2i.tolist() == [2, 0, 0, 0]


# the block


def test_the_block_is_that_of_every_caption_read_alone():
    data = Told(4)
    model, found = section(data)
    block = found["several"]
    assert set(block) == {"captions", "chance"} | KEYS
    assert block["captions"] == 60
    examples = data.held_out("test", 12)
    with torch.no_grad():
        images = torch.cat(
            [model.heads["image"](model.encode_image(model.backbone.trunk(e.image[None])).pooled) for e in examples]
        )
        read = {}
        for example in examples:
            for text in data.references(example):
                read[text] = model.heads["text"](model.encode_text(data.tokenizer([text])).pooled)[0]
    owner = [row for row in range(12) for _ in range(5)]
    texts = torch.stack([read[text] for example in examples for text in data.references(example)])
    similar = (images @ texts.T).tolist()
    hits = dict.fromkeys(KEYS, 0)
    for row in range(12):
        best = max(similar[row][5 * row : 5 * row + 5])
        rank = sum(score >= best - 1e-6 for score, own in zip(similar[row], owner, strict=True) if own != row)
        for cut in (1, 5, 10):
            hits[f"i2t_r{cut}"] += rank < cut
    for column, own in enumerate(owner):
        rank = sum(similar[row][column] >= similar[own][column] - 1e-6 for row in range(12)) - 1
        for cut in (1, 5, 10):
            hits[f"t2i_r{cut}"] += rank < cut
    assert {key: block[key] for key in KEYS} == pytest.approx(
        {key: count / (12 if key.startswith("i2t") else 60) for key, count in hits.items()}
    )


@pytest.mark.parametrize("joined", [False, True])
def test_the_one_caption_figures_stay_as_they_are(joined):
    _, alone = section(TinyData(), joined=joined)
    _, beside = section(Told(4), joined=joined)
    assert alone["several"] is None
    assert beside["several"] is not None
    assert {**beside, "several": None} == alone


def test_no_caption_is_read_twice():
    data = Told(4)
    section(data)
    asked = [text for texts in data.asked for text in texts]
    own = [example.caption for example in data.held_out("test", 12)]
    assert data.asked[0] == own
    others = asked[len(own) :]
    assert len(others) == len(set(others))
    assert not set(others) & set(own)


def test_chance_is_what_random_features_reach():
    data = Told(2)
    _, found = section(data, candidates=30)
    chance, draw = found["several"]["chance"], torch.Generator().manual_seed(0)
    owner = torch.arange(30).repeat_interleave(3)
    tries = [
        recall.recalls(*recall.ranks(*(torch.randn(size, 60, generator=draw) for size in (30, 90)), owner))
        for _ in range(300)
    ]
    for key in KEYS:
        assert sum(tried[key] for tried in tries) / 300 == pytest.approx(chance[key], abs=0.01)
    assert chance["t2i_r1"] == pytest.approx(1 / 30)
    assert chance["i2t_r1"] == pytest.approx(3 / 90)


def test_it_is_told_below_the_one_caption_figures():
    _, found = section(Told(4))
    lines = retrieval.format_report({"retrieval": found})["retrieval"]
    (row,) = [line for line in lines if "image to any of its captions" in line]
    assert row.split()[-3:] == [f"{100 * found['several'][f'i2t_r{cut}']:.1f}" for cut in (1, 5, 10)]
    assert any("all 60 captions" in line for line in lines)
    assert max(map(len, lines)) <= 100
