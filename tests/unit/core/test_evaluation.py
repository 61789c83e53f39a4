"""Evaluation: examples are drawn once, sections are merged, and the report is written before it is drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from tiny import TinyData, tiny_model

from core.evaluation import Evaluation, measure, report_on
from core.settings import EvaluateSettings
from registry.sections import PluginSettings


@dataclass(frozen=True)
class Limits:
    count: int = 3


class CountingData(TinyData):
    draws = 0

    def held_out(self, split, count):
        self.draws += 1
        return super().held_out(split, count)


class Hooks:
    """Records each call, with what was true of the evaluation then."""

    def __init__(self, *sections):
        self.sections, self.calls, self.hook = sections, [], self

    def evaluate(self, evaluation):
        assert not torch.is_grad_enabled()
        assert not evaluation.model.training
        self.calls.append("evaluate")
        return list(self.sections)

    def draw(self, evaluation, report, folder):
        assert not torch.is_grad_enabled()
        self.calls.append(("draw", json.loads((folder / "report.json").read_text())))

    def report_written(self, hooks, report, folder):
        assert hooks is self
        self.calls.append(("report_written", report))


@pytest.fixture
def evaluation() -> Evaluation:
    settings = PluginSettings({"evaluate": [Limits(5)]})
    return Evaluation(tiny_model(), CountingData(), EvaluateSettings(), torch.device("cpu"), "fp32", settings)


def test_examples_are_drawn_once_for_each_split_and_count(evaluation):
    first = evaluation.examples("test", 3)
    assert evaluation.examples("test", 3) is first
    assert evaluation.data.draws == 1
    assert [e.key for e in evaluation.examples("validation", 2)] == ["validation 0", "validation 1"]
    assert len(evaluation.examples("test", 4)) == 4
    assert evaluation.data.draws == 3


def test_images_are_stacked(evaluation):
    examples = evaluation.examples("test", 3)
    images = evaluation.images(examples)
    assert (images.shape, images.dtype) == ((3, 3, 32, 32), torch.uint8)
    assert torch.equal(images[2], examples[2].image)


def test_settings_of_plugins(evaluation):
    assert evaluation.settings_for(Limits).count == 5
    with pytest.raises(LookupError, match="SimpleNamespace has no values"):
        evaluation.settings_for(SimpleNamespace)


def test_sections_are_merged_in_eval_mode_without_gradients(evaluation):
    evaluation.model.train()
    hooks = Hooks({"a": 1, "b": {"c": 2}}, None, {}, {"d": 3})
    assert measure(hooks, evaluation) == {"a": 1, "b": {"c": 2}, "d": 3}
    assert torch.is_grad_enabled()


def test_the_report_is_written_before_it_is_drawn(evaluation, tmp_path):
    hooks = Hooks({"recall": 0.5})
    assert report_on(hooks, evaluation, tmp_path) == {"recall": 0.5}
    assert hooks.calls == ["evaluate", ("draw", {"recall": 0.5}), ("report_written", {"recall": 0.5})]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(evaluation, precision, dtype):
    evaluation.precision = precision
    with evaluation.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
