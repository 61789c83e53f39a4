"""The step's features, and the weighted sum of losses."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyData, tiny_model

from core.objectives import Objective, Objectives, Step, once
from core.types import Tokens
from registry.part import Part, PartError


class Constant(Objective):
    """A loss whose value is a parameter."""

    def __init__(self, *, value: float = 1.0, slots: tuple[str, ...] = ()):
        super().__init__()
        self.value, self.slots = torch.nn.Parameter(torch.tensor(value)), slots
        self.models = []

    def needs(self):
        return self.slots

    def on_model_built(self, model):
        self.models.append(model)

    def forward(self, step):
        return self.value * 1


class Masked(Constant):
    batch_fields = ("masked", "labels")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def batch():
    return TinyData().batch(0, size=4, seed=0, reads=frozenset())


def objectives(model, **parts: tuple[Objective, float]) -> Objectives:
    return Objectives(
        model, {k: part for k, (part, _) in parts.items()}, {k: weight for k, (_, weight) in parts.items()}
    )


def test_a_value_is_computed_once():
    class Counter:
        calls = 0

        @once
        def value(self) -> int:
            """Count."""
            self.calls += 1
            return self.calls

    counter = Counter()
    assert [counter.value, counter.value] == [1, 1]
    assert Counter().value == 1
    assert Counter.value.__doc__ == "Count."


def test_the_weighted_sum(model, batch):
    total, losses = objectives(model, a=(Constant(value=2.0), 3.0), b=(Constant(value=5.0), -0.5))(batch)
    assert total.item() == 3.0 * 2.0 - 0.5 * 5.0
    assert {name: loss.item() for name, loss in losses.items()} == {"a": 2.0, "b": 5.0}
    assert total.requires_grad
    assert not any(loss.requires_grad for loss in losses.values())


def test_gradients_are_the_weights(model, batch):
    parts = {"a": Constant(), "b": Constant()}
    Objectives(model, parts, {"a": 3.0, "b": 0.25})(batch)[0].backward()
    assert [part.value.grad.item() for part in parts.values()] == [3.0, 0.25]


def test_an_objective_of_weight_zero_is_absent(model, batch):
    absent = Masked(slots=("decoder",))  # which this model lacks
    both = objectives(model, a=(Constant(), 1.0), b=(absent, 0.0))
    assert list(both.parts) == ["a"]
    assert both.batch_fields == frozenset()
    assert absent.models == []
    assert list(both(batch)[1]) == ["a"]


def test_scales_multiply_losses_and_leave_out_the_others(model, batch):
    both = objectives(model, a=(Constant(value=2.0), 3.0), b=(Constant(value=5.0), 1.0))
    total, losses = both(batch, {"a": 0.5})
    assert (total.item(), list(losses), losses["a"].item()) == (3.0, ["a"], 1.0)
    total, losses = both(batch, {})
    assert (total.item(), losses) == (0.0, {})


def test_every_missing_slot_is_named(model):
    parts = {
        "a": Part(Constant, {"slots": ("decoder", "heads.words", "text")}, name="a", kind="objective")(),
        "b": Part(Constant, {"slots": ("pooler",)}, name="b", kind="objective")(),
    }
    with pytest.raises(PartError) as caught:
        Objectives(model, parts, {"a": 1.0, "b": 1.0})
    assert str(caught.value).splitlines() == [
        "objectives.a: objective 'a' needs model.decoder, which this model lacks",
        "objectives.a: objective 'a' needs model.heads.words, which this model lacks",
        "objectives.b: objective 'b' needs model.pooler, which this model lacks",
    ]


def test_fields_of_the_batch_and_the_hook(model):
    masked = Masked()
    both = objectives(model, a=(Constant(), 1.0), b=(masked, 1.0))
    assert both.batch_fields == {"masked", "labels"}
    assert masked.models == [model]
    assert masked.loss_denominator(TinyData().batch(0, size=4, seed=0, reads=frozenset())) == 4


def test_target_tokens_are_counted_without_cls(model, batch):
    assert Step(model, batch).num_target_tokens == int(batch.text.mask.sum()) - 4
    assert Step(model, batch, num_target_tokens=7).num_target_tokens == 7


def test_features_computed_elsewhere_replace_those_of_the_step(model, batch):
    image, text = Tokens(torch.zeros(4, 2, 16)), Tokens(torch.zeros(4, 3, 16))
    step = Step(model, batch, image=image, text=text)
    assert step.image is image
    assert step.text is text


@pytest.mark.parametrize("guide", ["paper", "leak_free"])
def test_the_guide_of_the_images(batch, guide):
    step = Step(tiny_model(guide=guide), batch)
    words, rows = step.text.rows(torch.tensor([1, 0])), torch.tensor([0, 1])
    null = step.model.encode_image(step.trunk)
    captioned = step.model.encode_image(step.trunk, step.text.pooled)
    swapped = step.model.encode_image(step.trunk.rows(rows), words.pooled)
    assert torch.equal(step.image.x, captioned.x if guide == "paper" else null.x)
    assert torch.allclose(step.image_for(rows, words).x, captioned.x[:2] if guide == "paper" else swapped.x, atol=1e-6)
    before = step.model.fusion.pairs
    assert step.fuse(rows, words).text.x.shape == words.x.shape
    assert step.model.fusion.pairs == before + 2
