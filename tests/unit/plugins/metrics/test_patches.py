"""Patch scores against boxes: invariances, labels of several boxes, chunks, and the printed section."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from evaluations import evaluation as evaluation_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import DIM, PATCH, SIDE, TinyData, tiny_model

from core.types import Region
from plugins.metrics import patches
from plugins.metrics.patches import average_precision, labels_of, pointing, recall_at, score, score_split
from plugins.pruners.tpd import TextAwarePatchDetector


def evaluation(model=None, data=None, **options):
    return evaluation_of(model or tiny_model(), data or TinyData(), **{"examples": 10, "batch": 5, **options})


def labelled(seed, images=4, count=9):
    """Scores without ties and labels with at least one positive in each row, (B, P) each."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(count, generator=random) for _ in range(images)]).double()
    labels = torch.rand(images, count, generator=random) < 0.3
    labels[:, 0] = True
    return scores, labels


# pure functions


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_only_the_order_of_scores_counts(seed):
    scores, labels = labelled(seed)
    for changed in (3 * scores - 7, scores.exp(), scores.sigmoid()):
        assert average_precision(changed, labels) == pytest.approx(average_precision(scores, labels))
        assert recall_at(changed, labels, 0.4) == recall_at(scores, labels, 0.4)
        assert pointing(changed, labels) == pointing(scores, labels)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_order_of_patches_does_not_count(seed):
    scores, labels = labelled(seed)
    scores = (scores / 3).floor()  # with ties
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    for metric in (average_precision, pointing, lambda s, y: recall_at(s, y, 0.3)):
        assert metric(scores[:, order], labels[:, order]) == pytest.approx(metric(scores, labels))


@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_recall_equals_a_count_by_hand(seed, count):
    scores, labels = labelled(seed)
    expected = 0.0
    for row, truth in zip(scores.tolist(), labels.tolist(), strict=True):
        best = sorted(range(9), key=lambda i: -row[i])[:count]
        expected += sum(truth[i] for i in best) / sum(truth) / len(scores)
    assert recall_at(scores, labels, count / 9) == pytest.approx(expected)


def test_recall_never_falls_with_the_share_and_ends_at_one():
    scores, labels = labelled(3)
    values = [recall_at(scores, labels, share / 20) for share in range(1, 21)]
    assert values == sorted(values)
    assert values[-1] == 1


def test_recall_with_ties_is_the_mean_over_random_orders():
    scores = torch.tensor([[2.0, 1, 1, 1, 0]])
    labels = torch.tensor([[False, True, True, False, True]])
    # the best 3: patch 0 and two of the three patches 1, 2, 3
    expected = (2 / 3 + 1 / 3 + 1 / 3) / 3
    assert recall_at(scores, labels, 0.6) == pytest.approx(expected)


@pytest.mark.parametrize("positives", [1, 2, 7])
def test_the_worst_order_has_the_least_average_precision(positives):
    count = 12
    labels = torch.arange(count) < positives
    expected = sum((i + 1) / (count - positives + i + 1) for i in range(positives)) / positives
    assert average_precision(torch.arange(count).float(), labels) == pytest.approx(expected)


def test_one_patch():
    label, value = torch.tensor([[True]]), torch.tensor([[0.3]])
    assert average_precision(value, label) == recall_at(value, label, 0.01) == pointing(value, label) == 1


def test_average_precision_has_one_threshold_for_all_images():
    scores = torch.tensor([[3.0, 2.0], [1.0, 0.0]])
    labels = torch.tensor([[True, False], [True, False]])
    assert pointing(scores, labels) == 1  # each image's best patch is right
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3) / 2)


# labels


def boxed(example, *boxes, phrase="red star"):
    return dataclasses.replace(example, regions=tuple(Region(box, phrase, "star") for box in boxes))


def patches_of(row):
    return {(index // 4, index % 4) for index in row.nonzero().flatten().tolist()}


def test_all_boxes_of_the_first_phrase_are_positive_and_no_others():
    asked = evaluation()
    example = asked.examples("test", 1)[0]
    two = boxed(example, (0, 0, PATCH, PATCH), (24, 24, 32, 32))
    other = Region((8.0, 0.0, 16.0, 8.0), "blue disc", "disc")
    mixed = dataclasses.replace(two, regions=(two.regions[0], other, two.regions[1]))
    one = boxed(example, (0, 8, 32, 16))  # a shorter list beside a longer one is padded
    rows = labels_of(asked, [mixed, one])
    assert rows.dtype == torch.bool
    assert patches_of(rows[0]) == {(0, 0), (3, 3)}
    assert patches_of(rows[1]) == {(1, column) for column in range(4)}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((7, 7, 9, 9), {(0, 0), (0, 1), (1, 0), (1, 1)}),
        ((8, 8, 16, 16), {(1, 1)}),
        ((8.5, 8.5, 9, 9), {(1, 1)}),
        ((0, 0, SIDE, SIDE), {(row, column) for row in range(4) for column in range(4)}),
        ((0, 31, 1, 32), {(3, 0)}),
    ],
)
def test_a_patch_that_a_box_overlaps_is_positive(box, expected):
    asked = evaluation()
    (row,) = labels_of(asked, [boxed(asked.examples("test", 1)[0], box)])
    assert patches_of(row) == expected


# scores of a model


@torch.no_grad()
def test_scores_are_the_pruners_logits_for_either_phrase():
    asked = evaluation()
    examples = asked.examples("test", 3)
    model = asked.model
    trunk = model.trunk(torch.stack([example.image for example in examples]))
    for got, phrases in zip(
        score(asked, examples),
        ([e.regions[0].phrase for e in examples], [e.absent for e in examples]),
        strict=True,
    ):
        words = model.encode_text(asked.data.tokenizer(phrases))
        assert torch.equal(got, model.pruners[0].score(trunk, words.pooled, None))


@torch.no_grad()
def test_chunks_do_not_change_the_section():
    model = tiny_model()
    one, other = (patches.evaluate(evaluation(model, batch=batch))["patches"] for batch in (3, 10))
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value == pytest.approx(other[key], abs=1e-6), key


@torch.no_grad()
def test_the_section_equals_the_functions_of_its_scores():
    asked = evaluation(tiny_model(TextAwarePatchDetector(dim=DIM, guide_dim=DIM, keep_rate=0.4)))
    section = patches.evaluate(asked)["patches"]
    scores = score_split(asked, "test")
    assert section["keep"] == 0.4
    assert section["recall_at_keep"] == recall_at(scores.right, scores.labels, 0.4)
    assert section["recall_at_quarter_wrong_text"] == recall_at(scores.wrong, scores.labels, 0.25)
    assert section["pointing"] == pointing(scores.right, scores.labels)
    withheld = score_split(asked, "withheld")
    assert section["average_precision_withheld"] == average_precision(withheld.right, withheld.labels)


@torch.no_grad()
@pytest.mark.parametrize("change", [{"regions": ()}, {"absent": ""}])
def test_data_without_regions_or_absent_objects_has_no_section(change):
    class Plain(TinyData):
        def held_out(self, split, count):
            return [dataclasses.replace(example, **change) for example in super().held_out(split, count)]

    assert patches.evaluate(evaluation(data=Plain())) is None


# the printed section


def test_lines():
    section = {
        "examples": 10,
        "average_precision": 0.5,
        "average_precision_wrong_text": 0.125,
        "average_precision_withheld": None,
        "positive_rate": 0.0625,
        "keep": 0.5,
        "recall_at_keep": 0.875,
        "recall_at_quarter": 0.75,
        "recall_at_quarter_wrong_text": 0.25,
        "pointing": 1.0,
    }
    assert patches.format_report(report={"patches": section})["patches"] == [
        "Patches found in 10 images, 6.2 % of them positive",
        "  %                       right text  wrong text  chance",
        "  average precision             50.0        12.5     6.2",
        "  recall in best quarter        75.0        25.0    25.0",
        "  recall at keep                87.5           -    50.0",
        "  pointing                     100.0           -     6.2",
    ]


def test_lines_of_a_withheld_split_have_its_own_chance():
    section = {"positive_rate": 0.1, "positive_rate_withheld": 0.2, "average_precision_withheld": 0.3}
    lines = patches.format_report(report={"patches": section})["patches"]
    assert lines[0] == "Patches found, 10.0 % of them positive"
    assert lines[2].split() == ["average", "precision,", "withheld", "30.0", "-", "20.0"]
    assert len(lines) == 3


def test_without_a_section_nothing_is_printed():
    assert not patches.format_report(report={})
    assert not patches.format_report(report={"patches": {}})
