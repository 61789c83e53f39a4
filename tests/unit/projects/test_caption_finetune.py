"""caption_finetune.yaml at toy size: what a CoCa run reports, and what stays of it without the contrast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core import discovery
from core.recipe import read
from core.run import run

COCA = Path(__file__).parents[3] / "projects" / "coca"
TOY = [
    *(f"model.backbone.{setting}" for setting in ("embed_dim=32", "depth=2", "num_heads=2", "patch_size=16")),
    *(f"model.decoder.{setting}" for setting in ("embed_dim=32", "unimodal=1", "multimodal=1", "num_heads=2")),
    *(
        "model.pooler.queries=4",
        "model.pooler.num_heads=2",
        "data.train_size=60",
        "run.device=cpu",
        "run.tensorboard=false",
    ),
    *("train.batch=6", "train.warmup=0", "train.workers=0", "train.precision=fp32", "train.save_every=0"),
    *("evaluate.candidates=8", "evaluate.examples=8", "evaluate.rounds=0", "evaluate.pictures=0"),
]
RETRIEVAL = {f"{way}_r{cut}" for way in ("i2t", "t2i") for cut in (1, 5, 10)}


def trained(recipe, folder, *overrides):
    """The report and the weights of a few steps."""
    report = run(str(COCA / f"{recipe}.yaml"), [*TOY, f"run.folder={folder}", *overrides])
    assert json.loads((folder / "report.json").read_text()) == report
    return report, load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coca") / "run"
    return folder, *trained("pretrain", folder, "train.steps=2")


@pytest.fixture
def finetuned(pretrained, tmp_path):
    return lambda *more: trained(
        "caption_finetune", tmp_path / "run", f"train.init_from={pretrained[0]}", "train.steps=5", *more
    )


def check(report):
    """The sections of every report with their keys, and those of CoCa."""
    assert set(report) == {
        *("zero_shot", "retrieval", "captions", "macs", "images_per_second", "images_per_second_spread")
    }
    assert set(report["zero_shot"]) >= {"accuracy", "chance", "classes"}
    assert set(report["captions"]) >= {"bleu4", "rouge_l", "cider", "cider_constant"}
    assert set(report["retrieval"]) == {"candidates", "ceiling", "rerank_weight", "reranked", "several"} | RETRIEVAL
    assert set(report["retrieval"]["several"]) == {"captions", "chance"} | RETRIEVAL
    assert report["retrieval"]["several"]["captions"] == 40
    assert report["retrieval"]["reranked"] is None
    assert set(report["macs"]["parts"]) >= {"backbone", "decoder", "poolers", "heads"}


def test_a_coca_run_reports_its_four_uses(pretrained):
    _, report, _ = pretrained
    check(report)
    assert 0 <= report["zero_shot"]["accuracy"] <= 1
    assert report["zero_shot"]["chance"] == 1 / report["zero_shot"]["classes"]


def test_with_the_contrast_on_all_of_it_is_trained(pretrained, finetuned):
    report, weights = finetuned()
    check(report)
    before = pretrained[2]
    assert weights.keys() == before.keys()
    same = {name for name in weights if torch.equal(weights[name], before[name])}
    assert "decoder.cls" not in same
    assert not {name for name in same if name.startswith(("pooler.contrast.", "heads.", "backbone."))}


@pytest.mark.parametrize("off", ["objectives.itc=null", "objectives.itc.weight=0"])
def test_without_it_retrieval_is_still_measured_and_what_only_it_trains_stays(pretrained, finetuned, off):
    report, weights = finetuned(off)
    check(report)
    before = pretrained[2]
    assert weights.keys() == before.keys()
    same = {name for name in weights if torch.equal(weights[name], before[name])}
    assert "decoder.cls" in same
    assert {name for name in weights if name.startswith(("pooler.contrast.", "heads.temperature."))} <= same
    maps = {name for name, tensor in weights.items() if tensor.ndim > 1}  # a norm's gradient may be too small to see
    assert not {name for name in same & maps if name.startswith(("backbone.", "decoder.multimodal.", "heads.words."))}


def test_it_is_the_pretraining_recipe_on_other_captioned_pictures():
    catalog = discovery.load()
    first, second = (read(str(COCA / f"{name}.yaml"), [], catalog) for name in ("pretrain", "caption_finetune"))
    assert second.model == first.model
    assert {name: slot.weight for name, slot in second.objectives.items()} == {"itc": 1, "caption": 2}
    assert second.data.settings["labelled"] == 0
    assert second.data.settings["seed"] != first.data.settings["seed"]
    assert second.train.init_from == ""
