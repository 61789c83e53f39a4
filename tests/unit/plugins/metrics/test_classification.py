"""Classification: the loss by hand, rows without a label, and captioning over label names as the same task."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch
import torch.nn.functional as F
from evaluations import evaluation

from core import discovery
from core.cli import main
from core.kinds import Data
from core.loading import load_run
from core.model import Model
from core.objectives import Objectives
from core.recipe import read
from core.run import build, run
from core.types import Batch, Text
from plugins.backbones.vit import ViT
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.heads.classify import Classify
from plugins.heads.lm_head import LanguageModelHead
from plugins.metrics import classification as metric
from plugins.objectives.caption import Captioning
from plugins.objectives.classification import Classification, sigmoid_losses, softmax_losses
from plugins.poolers.query import QueryPooler
from registry.part import Part, PartError

PROJECTS = Path(__file__).parents[4] / "projects" / "coca"
SOURCE = small.data(labelled=0.5)
NAMES, SIDE, WIDTH = 6, 32, 32
ENCODER = {"embed_dim": WIDTH, "num_heads": 2, "depth": 2, "patch_size": 8, "cls": False}


def classifier(classes: int = len(SOURCE.classes), side: int = 64, **settings) -> Model:
    torch.manual_seed(0)
    return Model(
        backbone=Part(ViT, ENCODER),
        pooler=Part(QueryPooler, {"num_heads": 2}),
        heads={"classify": Part(Classify)},
        vocabulary=30,
        text_length=8,
        image_size=side,
        classes=classes,
        **settings,
    )


def objectives(model, **parts):
    return Objectives(model, parts, dict.fromkeys(parts, 1.0))


def test_softmax_by_hand():
    logits, labels = torch.randn(3, 4), torch.tensor([[0, 1, 0, 0], [1, 0, 1, 0], [0.0, 0, 0, 0]])
    losses = softmax_losses(logits, labels, 0.1)
    log = logits.log_softmax(1)
    assert losses[0] == pytest.approx(float(-0.9 * log[0, 1] - 0.1 * log[0].mean()), rel=1e-5)
    assert losses[1] == pytest.approx(float(-0.45 * (log[1, 0] + log[1, 2]) - 0.1 * log[1].mean()), rel=1e-5)
    assert losses.isfinite().all()
    assert torch.allclose(softmax_losses(logits[:1], labels[:1]), F.cross_entropy(logits[:1], torch.tensor([1])))


def test_sigmoid_by_hand():
    logits, labels = torch.randn(2, 3), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    chosen = torch.where(labels.bool(), logits, -logits).sigmoid().log().neg().sum(1)
    assert torch.allclose(sigmoid_losses(logits, labels), chosen)
    even = sigmoid_losses(logits, labels, smoothing=1.0)
    assert torch.allclose(even, F.binary_cross_entropy_with_logits(logits, labels * 0 + 0.5, reduction="none").sum(1))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_pictures_without_a_label_do_not_count(loss):
    model, part = classifier(), Classification(loss=loss)
    batch = SOURCE.batch(0, size=8, seed=0, reads=frozenset({"labels"}))
    known = batch.labels.any(1)
    assert 0 < known.sum() < 8
    assert (batch.labels.sum(1) == known).all(), "one-hot"
    assert part.loss_denominator(batch) == known.sum()
    both = objectives(model, own=part)
    with torch.no_grad():
        whole, some = both(batch)[0], both(batch.rows(known))[0]
    assert torch.allclose(whole, some, atol=1e-6)
    none = both(batch.rows(~known))[0]
    none.backward()
    assert float(none) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.heads.parameters()), "a zero that touches all"


def test_beside_every_objective_of_copa():
    model, names = small.copa(SOURCE), tuple(small.LOSSES)
    parts = {name: small.LOSSES[name]() for name in names} | {"classification": Classification()}
    together = Objectives(model, parts, dict.fromkeys(parts, 1.0))
    torch.manual_seed(1)
    total, losses = together(SOURCE.batch(0, size=6, seed=0, reads=together.batch_fields))
    assert set(losses) == set(parts)
    assert total.isfinite()


def test_data_without_classes_is_told():
    with pytest.raises(PartError, match="this data has no classes"):
        classifier(classes=0)


def same_task() -> tuple[Model, Model, Batch, Batch]:
    """A captioner over the names alone, whose decoder adds nothing of the words, and the classifier that it then is.

    Its one multimodal layer keeps its cross-attention; self-attention and MLP put out zero, and the words' embedding is
    one vector q, whatever the word. So what it says after the start is a pooler's whose query is q normalised.
    """
    torch.manual_seed(0)
    captioner = Model(
        backbone=Part(ViT, ENCODER),
        decoder=Part(
            DecoupledDecoder,
            {"unimodal": 0, "multimodal": 1, "layout": "paper", "embed_dim": WIDTH, "num_heads": 2, "dropout": 0.0},
        ),
        heads={"words": Part(LanguageModelHead)},
        vocabulary=NAMES,
        text_length=2,
        image_size=SIDE,
    )
    model = classifier(NAMES, SIDE)
    decoder, (layer,) = captioner.decoder, captioner.decoder.multimodal
    query, head = model.pooler.query, model.heads["classify"].linear
    with torch.no_grad():
        for silent in (decoder.words.weight, *layer.attention.out.parameters(), *layer.fc2.parameters(), head.bias):
            silent.zero_()
        start = torch.randn(WIDTH)
        decoder.positions.weight.copy_(start)
        model.backbone.load_state_dict(captioner.backbone.state_dict())
        query.queries.copy_(layer.cross_norm(start))
        query.attention.load_state_dict(layer.cross.state_dict())
        query.attention.out.bias += start  # the residual, by which the decoder carries q on
        query.norm.load_state_dict(decoder.final_norm.state_dict())
        head.weight.copy_(captioner.heads["words"].words.weight)
    images = torch.randint(0, 256, (5, 3, SIDE, SIDE), dtype=torch.uint8)
    names = torch.tensor([2, 0, 5, 2, 3])
    ids = torch.stack([torch.zeros_like(names), names], 1)  # the start, and the one word
    text = Text(ids, torch.ones_like(ids, dtype=torch.bool))
    return captioner, model, Batch(images, text), Batch(images, text, labels=F.one_hot(names, NAMES).float())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_captioning_over_label_names_is_classification(smoothing):
    """CoCa, section 3.1: equal losses and gradients, to 1e-6."""
    captioner, model, captions, labels = same_task()
    written, _ = objectives(captioner, caption=Captioning(smoothing=smoothing))(captions)
    named, _ = objectives(model, classification=Classification(smoothing=smoothing))(labels)
    assert float(written) == pytest.approx(float(named), abs=1e-6)
    written.backward()
    named.backward()
    (layer,), query = captioner.decoder.multimodal, model.pooler.query
    pairs = [
        (captioner.heads["words"].words.weight, model.heads["classify"].linear.weight),
        *zip(layer.cross.parameters(), query.attention.parameters(), strict=True),
        *zip(captioner.decoder.final_norm.parameters(), query.norm.parameters(), strict=True),
        *zip(captioner.backbone.parameters(), model.backbone.parameters(), strict=True),
    ]
    assert any(other.grad.abs().max() > 1e-3 for _, other in pairs)
    for one, other in pairs:
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_report_section():
    model = classifier().eval()
    examples = SOURCE.labelled_examples("test", 70)
    with torch.no_grad():
        images = torch.stack([example.image for example, _ in examples])
        best = model.heads["classify"](model.encode_image(model.trunk(images)).pooled).argmax(1)
        report = metric.evaluate(evaluation(model, SOURCE, examples=70, batch=32))
    right = [SOURCE.classes[int(i)] == name for i, (_, name) in zip(best, examples, strict=True)]
    assert report == {"classification": {"accuracy": sum(right) / 70, "chance": 1 / 70, "classes": 70, "pictures": 70}}
    (lines,) = metric.format_report(report).values()
    assert lines[0].startswith("Classification of 70 images in 70 classes")
    assert metric.evaluate(evaluation(model, SOURCE, split="withheld", examples=10)) is None


RECIPES = ["single_encoder", "frozen_feature", "finetune", "video"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_passes_check(name, capsys):
    assert main(["check", str(PROJECTS / f"{name}.yaml")]) == 0, capsys.readouterr().err


def test_a_frozen_encoder_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"train.init_from: RUN_FOLDER.*no such file"):
        run(str(PROJECTS / "frozen_feature.yaml"), [f"run.folder={tmp_path / 'run'}"])


def test_recipes_train_one_after_another(tmp_path):
    """Five steps of pretraining, then classifiers and the video's from its folder; one alone leaves the encoder."""
    few = ["train.steps=5", "train.batch=4", "train.workers=0", "train.warmup=1", "run.evaluate=false"]
    first = tmp_path / "pretrain"
    run(str(PROJECTS / "pretrain.yaml"), [*few, f"run.folder={first}"])
    catalog = discovery.load()
    for name in RECIPES[1:]:
        begun = build(read(str(PROJECTS / f"{name}.yaml"), [f"train.init_from={first}"], catalog)).model.backbone
        before = {key: tensor.clone() for key, tensor in begun.state_dict().items()}
        folder = tmp_path / name
        evaluate = ["run.evaluate=true", "evaluate.examples=8", "evaluate.rounds=0"]
        report = run(
            str(PROJECTS / f"{name}.yaml"), [*few, *evaluate, f"train.init_from={first}", f"run.folder={folder}"]
        )
        assert report["classification"]["pictures"] == 8
        after = load_run(str(folder))[2].backbone.state_dict()
        same = all(torch.equal(before[key], after[key]) for key in before)
        assert same == (name == "frozen_feature")


def test_every_data_says_its_classes():
    for name in discovery.load().registries[Data]:
        assert isinstance(discovery.load().registries[Data][name].cls.classes, tuple)
