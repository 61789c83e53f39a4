"""patches.png: which pruner's scores are drawn, the texts of a sheet, and the patches that are kept."""

from __future__ import annotations

import pytest
import small
import torch
from evaluations import evaluation
from matplotlib.text import Text
from tiny import tiny_model

from core.model import Model
from plugins.fusion.single_stream import SingleStreamFusion
from plugins.metrics import patch_maps
from plugins.pruners.evit import AttentivePruner
from plugins.pruners.prune_list import Prune
from plugins.pruners.tpd import TextAwarePatchDetector
from registry.part import Part

SOURCE = small.data()
TPD = Part(TextAwarePatchDetector, {"keep_rate": 0.5}, "tpd", "token pruner")
EVIT = Part(AttentivePruner, {"keep_rate": 0.5}, "evit", "token pruner")


def copa(*prune: Prune) -> Model:
    return small.copa(SOURCE, prune=list(prune))


def single_stream() -> Model:
    model = copa()
    settings = {"dim": 32, "image_dim": 32, "num_heads": 2, "layers": 3, "prune": [Prune(1, TPD)]}
    model.fusion = SingleStreamFusion(**settings)
    return model.eval()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda: copa(Prune(2, TPD)), "tpd after block 2"),
        (lambda: copa(Prune(2, EVIT), Prune(1, TPD)), "tpd after block 1, the first of 2 pruners"),
        (lambda: copa(Prune(2, EVIT)), "evit in block 2, which uses no text"),
        (single_stream, "tpd after block 1 of the fusion"),
        (tiny_model, "TextAwarePatchDetector"),
    ],
)
def test_the_pruner_of_the_scores_is_named(model, text):
    assert patch_maps.describe_pruner(model()) == text


def texts_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("prune", [[Prune(1, TPD)], [Prune(1, TPD), Prune(2, EVIT)]])
def test_a_sheet_has_titles_phrases_and_the_name_of_the_pruner(prune):
    model = copa(*prune)
    measured = evaluation(model, SOURCE, examples=4)
    examples = [e for e in measured.examples("test", 4) if e.regions and e.absent][:2]
    rows = patch_maps.rows(measured, examples)
    texts = texts_of(patch_maps.sheet(rows, "test image", model))
    last = "input of the later blocks" if len(prune) == 1 else "kept after all 2 pruners"
    for title in ("test image", "scores for this phrase", last, "scores for a wrong text"):
        assert texts.count(title) == 1
    assert f"score of a patch (sigmoid) by {patch_maps.describe_pruner(model)}" in texts
    for row in rows:
        assert f'"{row.example.regions[0].phrase}"' in texts and f'"{row.example.absent}"' in texts
        assert f"kept: {int(row.kept.sum())} of {row.kept.numel()} patches" in texts


def test_kept_patches_are_those_with_the_best_scores():
    measured = evaluation(copa(Prune(1, TPD)), SOURCE, examples=4)
    examples = [e for e in measured.examples("test", 4) if e.regions and e.absent]
    for row in patch_maps.rows(measured, examples):
        assert row.kept.shape == row.right.shape == row.wrong.shape
        assert int(row.kept.sum()) == row.kept.numel() // 2
        assert row.right[row.kept].min() >= row.right[~row.kept].max()


def test_dropped_patches_are_dark_and_kept_ones_unchanged():
    image = torch.full((4, 4, 3), 200, dtype=torch.uint8)
    dimmed = patch_maps._dimmed(image, torch.tensor([[True, False], [False, True]]))
    assert torch.equal(dimmed[:2, :2], image[:2, :2]) and torch.equal(dimmed[2:, 2:], image[2:, 2:])
    assert (dimmed[:2, 2:] == int(200 * patch_maps.DROPPED_BRIGHTNESS)).all()


def test_no_sheet_without_scores_or_pictures(tmp_path):
    for model, pictures in ((copa(), 2), (copa(Prune(1, TPD)), 0)):
        measured = evaluation(model, SOURCE, examples=4, pictures=pictures)
        assert patch_maps.draw(evaluation=measured, report={}, folder=str(tmp_path)) is None
    assert not list(tmp_path.iterdir())
