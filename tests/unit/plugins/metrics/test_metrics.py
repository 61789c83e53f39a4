"""Retrieval, patch figures and cost against independent formulas, on a tiny model."""

import random

import pytest
import torch
from evaluations import evaluation as evaluation_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyData, tiny_model

from core.kinds import TokenPruner
from plugins.metrics import efficiency, patches, recall, rerank, retrieval
from plugins.pruners.random import RandomPruner


def evaluation(model=None, data=None, precision="fp32", **settings):
    model = tiny_model() if model is None else model
    settings = {"candidates": 12, "rerank": 4, "examples": 10, "batch": 5, "rounds": 1, **settings}
    return evaluation_of(model, data or TinyData(), precision, **settings)


def measured(hook, *args, **kwargs):
    with torch.no_grad():
        return hook(evaluation(*args, **kwargs))


# retrieval: pure functions


@given(st.integers(2, 9), st.integers(0, 10**6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_ranks_count_the_wrong_ones_that_are_not_below(n, seed, coarse):
    scores = torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    scores = scores.round() if coarse else scores
    expected = [sum(float(scores[i, j]) >= float(scores[i, i]) for j in range(n) if j != i) for i in range(n)]
    assert rerank.ranks(scores).tolist() == expected


def test_recall_of_a_constant_score_is_zero():
    ranks = rerank.ranks(torch.zeros(8, 8))
    assert recall.recall(ranks, 1) == recall.recall(ranks, 5) == 0
    assert recall.recall(torch.tensor([0, 1, 4, 5]), 5) == 0.75


def test_reranking_orders_the_best_only():
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]])
    top = scores.topk(2).indices  # [[0, 1], [0, 1], [0, 1], [3, 2]]
    margins = torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 9.0], [1.0, 1.0]])
    # demoted; promoted; not among the best, keeps its place; a tie counts against it
    assert rerank.reranks(scores, top, margins).tolist() == [1, 0, 2, 1]


@given(st.integers(1, 7), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_ceiling_is_what_guessing_among_true_ones_gives(n, seed):
    draw = random.Random(seed)
    truth = [[i == j or draw.random() < 0.3 for j in range(n)] for i in range(n)]
    rows = [1 / sum(row) for row in truth]
    columns = [1 / sum(row[j] for row in truth) for j in range(n)]
    assert retrieval.ceiling(torch.tensor(truth)) == pytest.approx(sum(rows + columns) / (2 * n))


# retrieval: the section

KEYS = {f"{way}_r{cut}" for way in ("i2t", "t2i") for cut in (1, 5, 10)}


def test_section_has_the_promised_keys():
    section = measured(retrieval.evaluate)["retrieval"]
    assert set(section) == {"candidates", "ceiling", "rerank_weight", "reranked", "several"} | KEYS
    assert section["several"] is None  # one caption a picture
    assert section["candidates"] == 12
    assert set(section["reranked"]) == KEYS
    assert 0 < section["ceiling"] < 1  # twelve pictures, nine captions


@pytest.mark.parametrize("guide", ["leak_free", "paper"])
def test_reranking_equals_every_pair_computed_alone(guide):
    model = tiny_model(guide=guide)
    asked = evaluation(model, candidates=9, rerank=4)
    examples = asked.examples("test", 9)
    with torch.no_grad():
        section = retrieval.evaluate(asked)["retrieval"]
        weight = section["rerank_weight"]
        images = asked.images(examples)
        text = asked.data.tokenizer([e.caption for e in examples])
        words, trunk = model.encode_text(text), model.backbone.trunk(images)
        similar = model.heads["image"](model.encode_image(trunk).pooled) @ model.heads["text"](words.pooled).T
        match = torch.zeros(9, 9)
        for i in range(9):
            for j in range(9):
                row = text.rows(slice(j, j + 1))
                seen = model.encode_image(model.backbone.trunk(images[i : i + 1]), model.encode_text(row).pooled)
                fused = model.fusion(model.encode_text(row), seen)
                logits = model.heads["match"](fused.text.x[:, 0]).log_softmax(-1)[0]
                match[i, j] = similar[i, j] / model.heads["temperature"].value + weight * (logits[1] - logits[0])
    for way, first, second in (("i2t", similar, match), ("t2i", similar.T, match.T)):
        for cut in (1, 5, 10):
            hits = 0
            for i in range(9):
                rank = sum(bool(first[i, j] >= first[i, i]) for j in range(9) if j != i)
                if rank < 4:
                    best = first[i].topk(4).indices.tolist()
                    rank = sum(bool(second[i, j] >= second[i, i] - 1e-5) for j in best if j != i)
                hits += rank < cut
            assert section["reranked"][f"{way}_r{cut}"] == pytest.approx(hits / 9)


def test_each_pair_is_fused_once_and_an_unguided_picture_seen_once():
    model = tiny_model(RandomPruner())
    measured(retrieval.evaluate, model, candidates=6, rerank=6)  # both directions ask for all 36 pairs
    assert model.fusion.pairs == 2 * 36  # of the split, and of the validation split, on which the weight is fitted
    assert model.backbone.passes == 2 * 6
    model = tiny_model()
    measured(retrieval.evaluate, model, candidates=6, rerank=6)
    assert model.backbone.passes == 2 * (6 + 36)


def test_without_fusion_there_is_no_reranking_and_without_heads_no_section():
    model = tiny_model(joined=False)
    assert measured(retrieval.evaluate, model)["retrieval"]["reranked"] is None
    del model.heads["image"]
    assert measured(retrieval.evaluate, model) is None


# patches: pure functions


def brute_average_precision(scores, labels):
    """Precision at each threshold, weighted by the recall that it adds."""
    total, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        shown = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        total += sum(shown) / len(shown) * (sum(shown) - before)
        before = sum(shown)
    return total / sum(labels)


@given(st.lists(st.tuples(st.integers(-3, 3) | st.floats(-2, 2), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_average_precision_equals_brute_force(pairs):
    scores, labels = [float(s) for s, _ in pairs], [label for _, label in pairs]
    labels[0] = True
    got = patches.average_precision(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels))
    assert got == pytest.approx(brute_average_precision(scores, labels))


def test_average_precision_of_known_cases():
    labels = torch.rand(50, 64, generator=torch.Generator().manual_seed(0)) < 0.14
    assert patches.average_precision(torch.zeros(50, 64), labels) == pytest.approx(float(labels.double().mean()))
    assert patches.average_precision(labels.float(), labels) == 1
    assert patches.average_precision(torch.tensor([3.0, 2, 1]), torch.tensor([False, True, True])) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


def test_recall_and_pointing_share_out_ties():
    labels = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0, 0, 0]]).bool()
    assert patches.recall_at(torch.zeros(2, 8), labels, 0.25) == pytest.approx(0.25)
    assert patches.pointing(torch.zeros(2, 8), labels) == pytest.approx(0.25)
    scores = torch.tensor([[9, 8, 7, 6, 5, 4, 3, 2], [9, 8, 7, 6, 5, 4, 3, 2]]).float()
    assert patches.recall_at(scores, labels, 0.25) == pytest.approx((0.5 + 1) / 2)
    assert patches.recall_at(scores, labels, 0.2) == patches.recall_at(scores, labels, 0.25)  # rounded up to 2 of 8
    assert patches.pointing(scores, labels) == 1
    assert patches.pointing(-scores, labels) == 0.5


# patches: the section


class Oracle(RandomPruner):
    """Gives the scores that a test hands it."""

    def score(self, tokens, guide, cues):
        return self.given(tokens)


def test_patch_section():
    section = measured(patches.evaluate)["patches"]
    assert section["examples"] == 10
    assert section["positive_rate"] == pytest.approx(1 / 16)  # one whole patch of sixteen
    assert section["keep"] == 0.5
    assert section["average_precision"] != section["average_precision_wrong_text"]  # the text is read
    figures = [v for k, v in section.items() if k not in ("examples",)]
    assert all(0 <= figure <= 1 for figure in figures)
    data = TinyData(withheld=False)
    section = measured(patches.evaluate, data=data)["patches"]
    assert section["average_precision_withheld"] is section["recall_at_quarter_withheld"] is None


def test_labels_follow_boxes_in_pixels():
    asked = evaluation()
    examples = asked.examples("test", 10)
    labels = patches.labels_of(asked, examples)  # (10, 16)
    for example, row in zip(examples, labels, strict=True):
        x0, y0, _, _ = example.regions[0].box
        assert row.nonzero().flatten().tolist() == [int(y0 // 8 * 4 + x0 // 8)]


def test_scores_that_know_the_answer_are_perfect():
    asked = evaluation()
    known = patches.labels_of(asked, asked.examples("test", 10)).float()
    pruner = Oracle(keep_rate=0.25)
    asked = evaluation(tiny_model(pruner), TinyData(withheld=False), batch=5)
    rows = iter([known[:5], known[:5], known[5:], known[5:]])  # right and wrong text for each chunk
    pruner.given = lambda tokens: next(rows)
    with torch.no_grad():
        section = patches.evaluate(asked)["patches"]
    for key in ("average_precision", "recall_at_quarter", "recall_at_keep", "pointing"):
        assert section[key] == 1


def test_random_scores_are_worth_the_positive_rate():
    torch.manual_seed(0)
    section = measured(patches.evaluate, tiny_model(RandomPruner()), examples=400, batch=100)["patches"]
    assert section["average_precision"] == pytest.approx(section["positive_rate"], abs=0.02)
    assert section["recall_at_quarter"] == pytest.approx(0.25, abs=0.08)


def test_no_section_without_a_scoring_pruner():
    class Mute(TokenPruner):
        def forward(self, tokens, guide, cues):
            return tokens

    assert measured(patches.evaluate, tiny_model(Mute())) is None


# cost


def test_cost_sections():
    report = measured(efficiency.evaluate, rounds=2)
    macs, rates, spread = report["macs"], report["images_per_second"], report["images_per_second_spread"]
    assert set(macs) == {"total", "unpruned", "parts"}
    assert sum(macs["parts"].values()) == macs["total"]
    assert macs["parts"]["pruner"] > 0
    for name in ("pruned", "unpruned"):
        assert 0 < spread[name][0] <= rates[name] <= spread[name][1]


def test_no_rounds_no_times():
    model = tiny_model()
    report = measured(efficiency.evaluate, model, rounds=0)
    assert report["images_per_second"] == {"pruned": None, "unpruned": None}
    assert model.backbone.pruning


def test_measures_take_turns():
    order = []
    taken = efficiency.time_interleaved({n: lambda n=n: order.append(n) for n in "ab"}, 2, torch.device("cpu"))
    assert order == list("ababab")  # the first pair warms up
    assert {name: len(times) for name, times in taken.items()} == {"a": 2, "b": 2}


def test_bf16_measures_too():
    asked = evaluation(precision="bf16")
    with torch.no_grad(), asked.autocast():
        for hook in (retrieval.evaluate, patches.evaluate, efficiency.evaluate):
            assert hook(asked)
