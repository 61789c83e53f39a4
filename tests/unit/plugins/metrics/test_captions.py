"""The captions section: who has one, what a perfect and a blind writer reach, the sheet."""

from __future__ import annotations

import textwrap

import pytest
import small
from evaluations import evaluation as evaluation_of
from small_coca import coca

from plugins.metrics import captions

SOURCE = small.data()


@pytest.fixture(autouse=True)
def without_java(monkeypatch):
    """METEOR starts a Java for many seconds: tests/unit/plugins/metrics/test_java_scores.py has it."""
    monkeypatch.setattr(captions, "java_scores", lambda *_: {})


def evaluation(model, **settings):
    return evaluation_of(model, SOURCE, **{"split": "validation", "examples": 8, "batch": 3, "pictures": 4, **settings})


def test_a_writer_of_the_references_is_perfect_and_a_constant_one_is_the_constant(monkeypatch):
    made = evaluation(coca())
    examples = made.examples("validation", 8)
    monkeypatch.setattr(SOURCE, "references", lambda example: [example.caption])
    monkeypatch.setattr(captions, "write", lambda _, given: [example.caption for example in given])
    perfect = captions.evaluate(made)["captions"]
    assert perfect["pictures"] == 8
    assert perfect["bleu4"] == pytest.approx(1)
    assert perfect["rouge_l"] == pytest.approx(1)
    assert perfect["cider"] == pytest.approx(10, rel=0.01)
    monkeypatch.setattr(captions, "write", lambda _, given: [examples[0].caption] * len(given))
    constant = captions.evaluate(made)["captions"]
    assert constant["cider"] <= constant["cider_constant"] == perfect["cider_constant"] < perfect["cider"]


def test_an_untrained_model_writes_something_for_every_picture_whatever_the_chunks(tmp_path):
    made = evaluation(coca())
    examples = made.examples("validation", 8)
    texts = captions.write(made, examples)
    assert len(texts) == 8
    assert captions.write(made, examples[4:5]) == texts[4:5]
    section = captions.evaluate(made)
    assert 0 <= section["captions"]["bleu4"] < 0.5
    assert "best constant caption" in "\n".join(captions.format_report(section)["captions"])
    dollars = captions.sheet(examples[:2], ["costs $5 or $_6", "a $ b_{"])
    assert [panel.get_title() for panel in dollars.axes] == [
        textwrap.fill(f"reference: {example.caption}", 44) for example in examples[:2]
    ]
    assert [panel.get_xlabel() for panel in dollars.axes] == ["generated: costs $5 or $_6", "generated: a $ b_{"]
    assert captions.sheet(examples[:1], [""]).axes[0].get_xlabel() == "generated: (nothing)"
    dollars.savefig(tmp_path / "dollars.png")
    (path,) = captions.draw(made, section, str(tmp_path))
    assert (tmp_path / "captions.png").stat().st_size > 10_000
    assert path.endswith("captions.png")


def test_mplug_and_models_without_a_decoder_have_no_section():
    copa = small.copa(SOURCE)
    assert captions.evaluate(evaluation(copa)) is None
    model = coca()
    model.decoder = None
    assert captions.evaluate(evaluation(model)) is None
