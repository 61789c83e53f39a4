"""Image-text matching without negatives: equal captions, single rows, chunks, and recipes that must fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import small
import torch

from core.objectives import Objectives, Step
from core.run import run
from core.settings import TrainSettings
from core.training.gradients import BackwardPass, loss_scales
from core.training.loader import split_batch
from core.training.trainer import check_batch
from core.types import Batch, Text
from plugins.commands.check import check
from plugins.objectives.itc import ImageTextContrast
from plugins.objectives.itm import ImageTextMatching, sample_negatives
from plugins.objectives.siglip import PairwiseSigmoid

ROOT = Path(__file__).parents[4]
SOURCE = small.data()
CPU = torch.device("cpu")
LITTLE = ["train.steps=1", "train.workers=0", "data.train_size=40", "data.region_batch_size=8", "run.device=cpu"]


def captioned(*captions: str) -> Batch:
    """A batch with these captions."""
    return dataclasses.replace(small.batch(SOURCE, len(captions)), text=SOURCE.tokenizer(captions))


def equal_captions(ids: torch.Tensor) -> torch.Tensor:
    """(B, B) bool, by the objective, of captions (B, L)."""
    batch = dataclasses.replace(small.batch(SOURCE, len(ids)), text=Text(ids, torch.ones_like(ids, dtype=torch.bool)))
    return ImageTextMatching()._no_negatives(batch)[0]


def truths(*pairs: tuple[int, int], size: int = 4) -> torch.Tensor:
    """(B, 2, B) uint8: of each pair (i, j), text j is true of image i."""
    table = torch.eye(size, dtype=torch.uint8) * 2
    for image, text in pairs:
        table[image, text] = 1
    return torch.stack([table, table.T], 1)


def matching(**settings) -> Objectives:
    return Objectives(small.copa(SOURCE), {"itm": ImageTextMatching(**settings)}, {"itm": 1.0})


def gradients(objectives: Objectives, batch: Batch, chunks: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    objectives.zero_grad()
    torch.manual_seed(1)
    losses = BackwardPass(objectives, CPU, "fp32", chunks)(batch)
    return float(losses["itm"]), {n: p.grad.clone() for n, p in objectives.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("captions", [["a red star"], ["a red star"] * 4, ["rot"] * 3])
def test_a_row_whose_caption_all_others_share_has_no_negative(captions):
    ids = SOURCE.tokenizer(captions).ids
    assert sample_negatives(torch.randn(len(ids), len(ids)), equal_captions(ids)).tolist() == [-1] * len(ids)


def test_one_other_caption_is_a_negative_of_each_row_that_it_differs_from():
    ids = SOURCE.tokenizer(["a red star", "a red star", "a blue disc", "a red star"]).ids
    for seed in range(20):
        torch.manual_seed(seed)
        negatives = sample_negatives(torch.randn(4, 4) * 50, equal_captions(ids)).tolist()
        assert [negatives[0], negatives[1], negatives[3]] == [2, 2, 2]
        assert negatives[2] in (0, 1, 3)


def test_captions_that_differ_only_in_padding_are_equal():
    """The mask belongs to the ids: padding has an id of its own."""
    short, long = (SOURCE.tokenizer(texts) for texts in (["a red star"] * 2, ["a red star", "a big blue disc"]))
    width = long.ids.shape[1]
    padded = torch.nn.functional.pad(short.ids, (0, width - short.ids.shape[1]), value=SOURCE.tokenizer.pad)
    ids = torch.stack([padded[0], long.ids[0]])
    assert sample_negatives(torch.zeros(2, 2), equal_captions(ids)).tolist() == [-1, -1]


@pytest.mark.parametrize("settings", [{}, {"negatives": "random"}, {"fraction": 0.5}])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_without_negatives_the_loss_is_a_zero_that_reaches_the_parameters(settings, size):
    objectives = matching(**settings)
    batch = captioned(*["a red star"] * size)
    assert objectives.parts["itm"].loss_denominator(batch) == 0
    loss = objectives.parts["itm"](Step(objectives.model, batch))
    assert loss.shape == () and loss.item() == 0
    loss.backward()
    head = objectives.model.heads["match"].linear.weight
    assert head.grad is not None and not head.grad.any(), "other ranks wait for every parameter's gradient"


def test_one_pair_takes_its_negatives_from_all_rows():
    """A fraction that leaves one row: the other captions of the batch are still there."""
    objective = ImageTextMatching(fraction=0.01)
    batch = captioned("a red star", "a blue disc", "a blue disc")
    assert objective.loss_denominator(batch) == 1
    assert objective(Step(small.copa(SOURCE), batch)) > 0
    assert objective.loss_denominator(captioned("a red star", "a red star", "a blue disc")) == 1


def test_a_chunk_without_negatives_is_left_out():
    """Loss and gradients are those of the other chunk alone, not half of them."""
    batch = captioned("a red star", "a blue disc", "a red star", "a red star")
    loss, grads = gradients(matching(), batch, chunks=2)
    alone, expected = gradients(matching(), split_batch(batch, 0, 2))
    assert loss == pytest.approx(alone, rel=1e-6) and loss > 0
    torch.testing.assert_close(grads, expected, rtol=1e-5, atol=1e-7)
    none, zeros = gradients(matching(), captioned(*["a red star"] * 4), chunks=2)
    assert none == 0 and not any(gradient.any() for gradient in zeros.values())


def test_chunks_with_negatives_weigh_equally():
    batch = captioned("a red star", "a blue disc", "a red star", "a red ring", "a green disc", "a green disc")
    scales = [scale["itm"] for scale in loss_scales(matching(), [split_batch(batch, i, 3) for i in range(3)])]
    assert scales == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("batch", "chunks", "ranks", "names"),
    [
        (1, 1, 1, ["itc", "itm", "siglip"]),
        (4, 4, 1, ["itm"]),
        (2, 1, 2, ["itm", "local"]),
        (8, 2, 4, ["itm"]),
        (2, 1, 1, []),
        (8, 4, 1, []),
        (16, 2, 4, []),
    ],
)
def test_a_batch_too_small_to_compare_rows_is_refused(batch, chunks, ranks, names, monkeypatch):
    """ITC compares all chunks, and all ranks unless ``gather`` is off; ITM compares within a chunk of a rank."""
    monkeypatch.setattr("core.runtime.world_size", lambda: ranks)
    parts = {"itc": ImageTextContrast(), "itm": ImageTextMatching(), "siglip": PairwiseSigmoid()}
    parts |= {"local": ImageTextContrast(gather=False)} if ranks > 1 else {}
    objectives = Objectives(small.copa(SOURCE), parts, dict.fromkeys(parts, 1.0))
    settings = TrainSettings(batch=batch, gradcache_chunks=chunks)
    if not names:
        check_batch(settings, objectives)
        return
    with pytest.raises(ValueError, match="without negatives") as caught:
        check_batch(settings, objectives)
    lines = str(caught.value).splitlines()
    assert [line.split("leave objectives.")[1].split()[0] for line in lines] == names
    for line in lines:
        assert line.startswith(f"train.batch: {batch} rows shared by {ranks} ranks of train.gradcache_chunks {chunks} ")


@pytest.mark.parametrize("settings", [["train.batch=4", "train.gradcache_chunks=4"], ["train.batch=1"]])
def test_check_and_run_refuse_a_recipe_without_negatives(settings, tmp_path):
    recipe = str(ROOT / "projects/copa/pretrain.yaml")
    report = check(recipe, [*LITTLE, *settings])
    least = {"train.batch=4": "8", "train.batch=1": "2"}[settings[0]]
    expected = f"leave objectives.itm without negatives; expected at least {least}"
    assert not report["ok"] and any(expected in problem for problem in report["problems"])
    with pytest.raises(ValueError, match=expected):
        run(recipe, [*LITTLE, *settings, f"run.folder={tmp_path / 'run'}"])


def test_a_recipe_without_contrast_trains_on_one_row(tmp_path):
    recipe = str(ROOT / "projects/coca/pretrain.yaml")
    assert check(recipe, [*LITTLE[:3], "train.batch=1", "objectives.itc=null"])["ok"]


def test_empty_texts_are_equal_texts():
    """Captions without a word: [CLS] [SEP] in each row."""
    ids = torch.tensor([[1, 2], [1, 2]])
    batch = dataclasses.replace(small.batch(SOURCE, 2), text=Text(ids, torch.ones_like(ids, dtype=torch.bool)))
    assert ImageTextMatching().loss_denominator(batch) == 0


DIFFERENT = ("a red star", "a blue disc", "a green ring", "a red ring")


def sample_rows(objective: ImageTextMatching, batch: Batch, monkeypatch) -> list[list[int]]:
    """The wrong image of each caption, and the wrong caption of each image; -1: none."""
    results = []
    spy = lambda *args: results.append(sample_negatives(*args)) or results[-1]  # noqa: E731
    monkeypatch.setattr("plugins.objectives.itm.sample_negatives", spy)
    objective(Step(small.copa(SOURCE), batch))
    return [rows.tolist() for rows in results]


def test_a_true_caption_of_another_row_is_never_a_negative(monkeypatch):
    """Text 1 is true of image 0, and texts 0, 2 and 3 are true of image 1, which then has no wrong caption."""
    batch = dataclasses.replace(captioned(*DIFFERENT), truths=truths((0, 1), (1, 0), (1, 2), (1, 3)))
    objective = ImageTextMatching(exclude_true=True)
    assert objective.batch_fields == ("truths",) and ImageTextMatching().batch_fields == ()
    for seed in range(10):
        torch.manual_seed(seed)
        images, texts = sample_rows(objective, batch, monkeypatch)
        pairs = {*zip(images, range(4), strict=True), *zip(range(4), texts, strict=True)}
        assert not pairs & {(0, 1), (1, 0), (1, 2), (1, 3), *((i, i) for i in range(4))}
        assert texts[1] == -1 and images.count(-1) == 0
    # 4 pairs, 4 captions each with a wrong image, 3 images with a wrong caption
    assert objective.loss_denominator(batch) == pytest.approx(11 / 3)


def test_rows_without_negative_leave_the_mean_over_the_others():
    """The head is constant, so that the loss is known: 4 of 11 rows are pairs."""
    batch = dataclasses.replace(captioned(*DIFFERENT), truths=truths((1, 0), (1, 2), (1, 3)))
    model = small.copa(SOURCE)
    for parameter in model.heads["match"].parameters():
        torch.nn.init.zeros_(parameter)
    model.heads["match"].linear.bias.data[:] = torch.tensor([0.2, 0.8]).log()
    loss = ImageTextMatching(exclude_true=True)(Step(model, batch))
    expected = -(4 * torch.tensor(0.8).log() + 7 * torch.tensor(0.2).log()) / 11
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_if_every_text_is_true_of_every_image_the_loss_is_zero():
    every = [(i, j) for i in range(4) for j in range(4) if i != j]
    objectives = matching(exclude_true=True)
    batch = dataclasses.replace(captioned(*DIFFERENT), truths=truths(*every))
    assert objectives.parts["itm"].loss_denominator(batch) == 0
    loss = objectives.parts["itm"](Step(objectives.model, batch))
    assert loss.item() == 0
    loss.backward()
    assert objectives.model.heads["match"].linear.weight.grad is not None


def test_chunks_take_their_own_columns_of_the_truths(monkeypatch):
    """Rows 2 and 3 as a chunk: text 3 is true of image 2, so image 2 has no wrong caption in the chunk."""
    batch = dataclasses.replace(captioned(*DIFFERENT), truths=truths((2, 3)))
    objective = ImageTextMatching(exclude_true=True)
    first, second = (split_batch(batch, index, 2) for index in range(2))
    assert objective.loss_denominator(first) == 2
    assert objective.loss_denominator(second) == pytest.approx(4 / 3)  # 2 pairs, text 2 with image 3, text 3 without
    assert sample_rows(objective, second, monkeypatch) == [[1, -1], [-1, 0]]


def test_excluding_needs_data_that_knows_truths():
    with pytest.raises(ValueError, match=r"exclude_true: the data part does not fill .* truths"):
        ImageTextMatching(exclude_true=True)(Step(small.copa(SOURCE), captioned(*DIFFERENT)))


def test_negatives_become_hard_over_the_ramp(monkeypatch):
    """Similarities count nothing at step 0, half at half of the ramp, then fully; the checkpoint has the steps."""
    model, scales = small.copa(SOURCE), []
    extreme = torch.full((4, 4), -50.0).fill_diagonal_(0)
    extreme[:, 0] = 50.0  # the hardest caption of every image
    monkeypatch.setattr("plugins.objectives.itm.pair_logits", lambda *_, **__: (extreme, extreme.T, None))
    sample = sample_negatives
    monkeypatch.setattr(
        "plugins.objectives.itm.sample_negatives",
        lambda logits, exclusions: scales.append(float(logits[1, 0] / extreme[1, 0])) or sample(logits, exclusions),
    )
    objective, step = ImageTextMatching(ramp=4), Step(model, captioned(*DIFFERENT))
    for _ in range(6):
        objective(step)
        objective.after_step(model)
    assert scales[1::2] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]  # wrong captions; wrong images come before them
    assert int(objective.state_dict()["steps"]) == 6
    assert "steps" not in ImageTextMatching().state_dict(), "checkpoints of earlier releases have no such tensor"
