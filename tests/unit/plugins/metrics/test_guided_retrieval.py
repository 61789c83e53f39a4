"""Retrieval by the pruner's guide: three tables against pairs computed one by one."""

from __future__ import annotations

import pytest
import torch
from evaluations import evaluation as evaluation_of
from tiny import TinyData, tiny_model

from plugins.metrics import guided_retrieval
from plugins.metrics.features import features
from plugins.metrics.guided_retrieval import under_text


def evaluation(model=None, **options):
    options = {"batch": 4, "candidates": 7, "rerank": 7, **options}
    return evaluation_of(model or tiny_model(joined=False), TinyData(), **options)


def brute_recalls(scores):
    """R@k in both directions from (n, n) scores; ties count against the right answer."""
    n = len(scores)
    section = {}
    for way, table in (("i2t", scores.tolist()), ("t2i", scores.T.tolist())):
        ranks = [sum(table[i][j] >= table[i][i] for j in range(n) if j != i) for i in range(n)]
        section |= {f"{way}_r{cut}": sum(rank < cut for rank in ranks) / n for cut in (1, 5, 10)}
    return section


@torch.no_grad()
def pair_scores(asked, guided):
    """Cosines (n, n), each image alone with each text: pruned under it, or under the null guide."""
    model = asked.model
    examples = asked.examples("test", 7)
    words = [model.encode_text(asked.data.tokenizer([example.caption])) for example in examples]
    rows = []
    for example in examples:
        trunk = model.trunk(example.image[None])
        rows.append(
            [
                float(
                    features(model, "image", model.encode_image(trunk, word.pooled if guided else None))[0]
                    @ features(model, "text", word)[0]
                )
                for word in words
            ]
        )
    return torch.tensor(rows).double().round(decimals=5)


@torch.no_grad()
def test_tables_equal_pairs_computed_alone():
    asked = evaluation()
    section = guided_retrieval.evaluate(asked)["guided"]
    assert section["candidates"] == 7
    assert section["null_guide"] == pytest.approx(brute_recalls(pair_scores(asked, guided=False)))
    assert section["own_text"] == pytest.approx(brute_recalls(pair_scores(asked, guided=True)))
    with asked.model.unpruned():
        assert section["unpruned"] == pytest.approx(brute_recalls(pair_scores(asked, guided=True)))
    assert asked.model.backbone.pruning


@torch.no_grad()
def test_one_candidate_reranked_changes_no_rank():
    section = guided_retrieval.evaluate(evaluation(rerank=1))["guided"]
    assert section["own_text"] == section["null_guide"]


@torch.no_grad()
def test_more_candidates_than_examples_are_all_of_them():
    model = tiny_model(joined=False)
    assert guided_retrieval.evaluate(evaluation(model, rerank=99)) == guided_retrieval.evaluate(evaluation(model))


@torch.no_grad()
def test_cosines_under_the_text_are_between_minus_one_and_one_and_row_by_row():
    asked = evaluation()
    model, examples = asked.model, asked.examples("test", 5)
    trunk = model.trunk(asked.images(examples))
    words = model.encode_text(asked.data.tokenizer([example.caption for example in examples]))
    together = under_text(model, trunk, words)
    assert together.shape == (5,)
    assert together.abs().max() <= 1 + 1e-6
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(under_text(model, trunk.rows(order), words.rows(order)), together[order], atol=1e-6)


def test_models_without_a_section():
    assert guided_retrieval.evaluate(evaluation(tiny_model())) is None  # a fusion matches the pairs
    model = tiny_model(joined=False)
    del model.heads["text"]
    assert guided_retrieval.evaluate(evaluation(model)) is None


def test_lines():
    ways = {"null_guide": 0.25, "own_text": 0.5, "unpruned": 0.75}
    section = {"candidates": 8, **{way: {"i2t_r1": value, "t2i_r1": value / 2} for way, value in ways.items()}}
    assert guided_retrieval.format_report(report={"guided": section})["guided"] == [
        "Retrieval among 8, by the pruner's guide",
        "  % R@1                            image to text  text to image",
        "  null guide                                25.0           12.5",
        "  best re-ranked under their text           50.0           25.0",
        "  unpruned                                  75.0           37.5",
    ]
    assert guided_retrieval.format_report(report={}) is None
