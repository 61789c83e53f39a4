"""Every objective on batches with nothing to learn from: no label, no masked word, equal captions, one row."""

from __future__ import annotations

import dataclasses

import pytest
import small
import torch
from small_coca import coca
from torch import Tensor

from core.objectives import Objective, Objectives, Step
from core.training.gradients import BackwardPass
from core.types import Batch, Regions, Text
from plugins.objectives.caption import Captioning
from plugins.objectives.classification import Classification
from plugins.objectives.itc import ImageTextContrast
from plugins.objectives.itc_momentum import MomentumContrast
from plugins.objectives.itm import ImageTextMatching
from plugins.objectives.mlm import MaskedLanguageModelling
from plugins.objectives.prefix_lm import PrefixLanguageModelling
from plugins.objectives.pta import PatchTextAlignment
from plugins.objectives.siglip import PairwiseSigmoid

SOURCE = small.data(labelled=0.5)
READS = small.READS | {"labels"}


def batch_of(size: int = 4) -> Batch:
    return SOURCE.batch(0, size=size, seed=0, reads=READS)


def without_words(batch: Batch) -> Batch:
    return dataclasses.replace(batch, text=batch.text.map(lambda t: t[:, :1]))  # (B, 1): [CLS] alone


def without_masked(batch: Batch) -> Batch:
    assert batch.masked is not None
    return dataclasses.replace(batch, masked=batch.masked.map(lambda t: t if t.dtype != torch.float else 0 * t))


def without_suffix(batch: Batch) -> Batch:
    assert batch.prefixed is not None
    suffix = batch.prefixed.suffix
    nothing = Text(suffix.ids, torch.zeros_like(suffix.mask))
    return dataclasses.replace(batch, prefixed=dataclasses.replace(batch.prefixed, suffix=nothing))


def without_labels(batch: Batch) -> Batch:
    assert batch.labels is not None
    return dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))


def equal_captions(batch: Batch) -> Batch:
    return dataclasses.replace(batch, text=batch.text.rows(torch.zeros(len(batch.images), dtype=torch.long)))


EMPTY = {
    "itm": (ImageTextMatching, equal_captions),
    "mlm": (MaskedLanguageModelling, without_masked),
    "prefix_lm": (PrefixLanguageModelling, without_suffix),
    "classification": (Classification, without_labels),
}


def value_of(objective: Objective, batch: Batch) -> Tensor:
    """The loss on a small COPA, a scalar."""
    model = small.copa(SOURCE)
    objective.on_model_built(model)
    return objective.eval()(Step(model, batch))


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_learn_is_a_zero_that_weighs_nothing(name):
    cls, change = EMPTY[name]
    batch = change(batch_of())
    objectives = Objectives(small.copa(SOURCE), {name: cls()}, {name: 1.0})
    assert objectives.parts[name].loss_denominator(batch) == 0
    losses = BackwardPass(objectives, torch.device("cpu"), "fp32")(batch)
    assert losses[name].item() == 0
    grads = [p.grad for p in objectives.parameters() if p.grad is not None]
    assert grads and not any(grad.any() for grad in grads)


@pytest.mark.parametrize("name", EMPTY)
def test_half_of_the_rows_give_the_loss_of_these_rows(name):
    """Chunks: the second has nothing to learn, so the loss is the first one's."""
    cls, change = EMPTY[name]
    first = dataclasses.replace(batch_of(8).rows(slice(0, 4)), regions=None)
    results = []
    for batch, chunks in ((first, 1), (_join(first, change(first)), 2)):
        torch.manual_seed(1)
        objectives = Objectives(small.copa(SOURCE), {name: cls()}, {name: 1.0})
        results.append(BackwardPass(objectives, torch.device("cpu"), "fp32", chunks)(batch)[name].item())
    assert results[0] > 0
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def _join(one, other):
    """Concatenate two batches, or fields of them, along their rows."""
    if one is None:
        return None
    if isinstance(one, Tensor):
        return torch.cat([one, other])
    return type(one)(*(_join(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)))


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_sum"])
def test_captions_without_a_word_to_predict(reduction):
    model = coca()
    batch = without_words(dataclasses.replace(batch_of(), masked=None, prefixed=None))
    loss = Captioning(reduction=reduction)(Step(model, batch))
    loss.backward()
    assert loss.item() == 0
    assert model.heads["words"].words.weight.grad is not None


@pytest.mark.parametrize("objective", [ImageTextContrast(), ImageTextContrast(smoothing=0.1, reduction="sum")])
def test_a_contrast_of_one_pair_is_0_so_a_batch_of_one_is_refused(objective):
    assert value_of(objective, batch_of(1)).item() == pytest.approx(0, abs=1e-6)
    assert objective.min_batch(1, 1) == 2


def test_the_sigmoid_of_one_pair_has_no_wrong_pair():
    assert PairwiseSigmoid().min_batch(1, 1) == 2
    assert PairwiseSigmoid(gather=False).min_batch(4, 8) == ImageTextContrast(gather=False).min_batch(4, 8) == 8


def test_the_queue_contrasts_a_single_pair():
    objective = MomentumContrast(queue=8)
    assert objective.min_batch(1, 1) == 1
    assert value_of(objective, batch_of(1)) > 0


@pytest.mark.parametrize("name", ["itc", "siglip"])
def test_equal_captions_are_negatives_of_a_contrast_as_in_the_papers(name):
    cls = {"itc": ImageTextContrast, "siglip": PairwiseSigmoid}[name]
    loss = value_of(cls(), equal_captions(batch_of()))
    assert loss > 0 and loss.isfinite()


@pytest.mark.parametrize("boxes", [[0.0, 0, 0, 0], [0.0, 0, 1, 1]])
def test_no_box_and_a_box_of_the_whole_image_are_labels(boxes):
    batch = batch_of()
    regions = dataclasses.replace(batch.regions, boxes=torch.tensor(boxes).expand(len(batch.regions.boxes), 1, 4))
    loss = value_of(PatchTextAlignment(), dataclasses.replace(batch, regions=regions))
    assert loss > 0 and loss.isfinite()


def test_regions_without_a_row_are_an_error_and_not_nan():
    batch = batch_of()
    none: Regions = batch.regions.rows(slice(0, 0))
    with pytest.raises(ValueError, match="pta: the data has no boxes"):
        value_of(PatchTextAlignment(), dataclasses.replace(batch, regions=none))


def test_softmax_over_one_class_is_refused():
    model = small.copa(SOURCE)
    model.heads["classify"] = torch.nn.Linear(32, 1)
    batch = dataclasses.replace(batch_of(), labels=torch.ones(4, 1))
    with pytest.raises(ValueError, match="softmax over one class is always 0"):
        Classification()(Step(model, batch))
    assert Classification(loss="sigmoid")(Step(model, batch)) > 0
