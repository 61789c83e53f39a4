"""Splits on which a metric would be right by chance alone: one image, one class, boxes on no patch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from evaluations import evaluation
from tiny import TinyData, tiny_model

from core.types import Region
from plugins.metrics import guided_retrieval, matching, patches, retrieval, zero_shot


class Boxes(TinyData):
    """The first ``outside`` images have a box beyond the image's edge."""

    def __init__(self, outside: int):
        super().__init__()
        self.outside = outside

    def held_out(self, split, count):
        beyond = (40.0, 40.0, 48.0, 48.0)
        examples = super().held_out(split, count)
        return [
            dataclasses.replace(e, regions=(Region(beyond, e.caption, "star"),)) if i < self.outside else e
            for i, e in enumerate(examples)
        ]


class Labelled(TinyData):
    """Labelled images of some classes, in turn."""

    def __init__(self, *names: str):
        super().__init__()
        self.names = names

    def labelled_examples(self, split, count):
        examples = self.held_out(split, count)
        return [(e, self.names[i % len(self.names)]) for i, e in enumerate(examples)]


@pytest.mark.parametrize(("count", "sections"), [(1, 0), (2, 1)])
def test_retrieval_needs_two_images(count, sections):
    alone = evaluation(tiny_model(), TinyData(), candidates=count, rerank=2)
    assert bool(retrieval.evaluate(alone)) == sections
    without_fusion = evaluation(tiny_model(joined=False), TinyData(), candidates=count, rerank=2)
    assert bool(guided_retrieval.evaluate(without_fusion)) == sections
    assert matching.evaluate(evaluation(tiny_model(), TinyData(), examples=1)) is None


@pytest.mark.parametrize(("names", "sections"), [((), 0), (("red",), 0), (("red", "blue"), 1)])
def test_zero_shot_needs_two_classes(names, sections, monkeypatch):
    monkeypatch.setattr(zero_shot, "ENSEMBLE", ("{labels}",))  # the toy vocabulary has no prompts
    data = Labelled(*names) if names else TinyData()
    section = zero_shot.evaluate(evaluation(tiny_model(), data, examples=4))
    assert bool(section) == sections


@torch.no_grad()
def test_an_image_whose_box_is_on_no_patch_is_left_out():
    measured = patches.evaluate(evaluation(tiny_model(), Boxes(outside=3), examples=8))["patches"]
    assert measured["examples"] == 5
    assert all(value == value for value in measured.values()), "no NaN"
    assert patches.evaluate(evaluation(tiny_model(), Boxes(outside=8), examples=8)) is None
