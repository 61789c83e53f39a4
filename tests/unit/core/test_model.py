"""Model: slots, guides, pruning turned off, and sizes.json."""

from __future__ import annotations

import json

import pytest
import small
import torch
from tiny import DIM, LENGTH, SIDE, Match, TinyBackbone, TinyData, TinyFusion, TinyText, Unit, tiny_model

from core.kinds import Pooler, TokenPruner
from core.model import Model, ModelSpec
from core.types import Tokens
from plugins.pruners.tpd import TextAwarePatchDetector
from registry.part import Part, PartError

SIZES = {"vocabulary": 10, "text_length": LENGTH, "image_size": SIDE}


class Half(Pooler):
    """Keeps every second token; the pooled state is their mean."""

    def __init__(self, *, dim: int = DIM):
        super().__init__()
        self.dim = dim

    def forward(self, image):
        return Tokens(image.x[:, ::2], image.x[:, ::2].mean(1))  # (B, Q, D)


class EverySecond(TokenPruner):
    """Keeps every second patch, without scores."""

    def forward(self, tokens, guide, cues):
        return tokens.keep(torch.arange(0, 16, 2).expand(len(tokens.x), -1))  # (B, K, D)


class NoPooled(TinyBackbone):
    has_pooled = False


@pytest.fixture(scope="module")
def batch():
    return TinyData().batch(0, size=3, seed=0, reads=frozenset())


def test_slots_that_a_model_lacks():
    model = tiny_model(joined=False)
    assert [slot for slot in ("text", "fusion", "decoder", "pooler", "scores") if model.lacks(slot)] == [
        "fusion",
        "decoder",
        "pooler",
    ]
    assert not model.lacks("heads.image")
    assert model.lacks("heads.match")
    assert not tiny_model().lacks("heads.match")


class Norm(TokenPruner):
    """Has scores that nothing could train."""

    def score(self, tokens, guide, cues):
        return tokens.patch_states.norm(dim=-1)  # (B, P)

    def forward(self, tokens, guide, cues):
        return tokens.keep(self.score(tokens, guide, cues).topk(8).indices)  # (B, K, D)


def test_scores_are_trained_only_with_parameters():
    lacking = {
        pruner: [slot for slot in ("scores", "trained_scores") if tiny_model(pruner()).lacks(slot)]
        for pruner in (EverySecond, Norm)
    }
    assert lacking == {EverySecond: ["scores", "trained_scores"], Norm: ["trained_scores"]}
    assert not tiny_model().lacks("trained_scores")
    problem = "objectives.pta: objective 'pta' needs a first pruner that overrides score and has parameters, which"
    with pytest.raises(PartError, match=problem):
        small.objectives(tiny_model(Norm()), "pta")


def test_a_pruner_without_scores_or_guide(batch):
    model = tiny_model(EverySecond())
    assert model.lacks("scores")
    assert not model.guided
    assert model.null_guide is None
    assert len(model.pruners) == 1
    assert model.run_pruned_blocks(model.trunk(batch.images)).x.shape == (3, 1 + 8, DIM)


def test_the_null_guide_stands_for_a_missing_text(batch):
    model = tiny_model()
    trunk = model.trunk(batch.images)
    null = model.run_pruned_blocks(trunk)
    explicit = model.run_pruned_blocks(trunk, model.null_guide.expand(3, -1))
    assert torch.equal(null.x, explicit.x)
    assert null.x.shape == (3, 1 + 8 + 1, DIM)  # [CLS], half of 16 patches, and the fused token of the others
    words = model.encode_text(batch.text)
    assert torch.equal(model.kept_patches(trunk, None).x, null.x)
    assert torch.equal(model.kept_patches(trunk, words).x, model.run_pruned_blocks(trunk, words.pooled).x)


def test_blank_rows_are_scored_with_the_null_guide(batch):
    model = tiny_model()
    trunk, words = model.trunk(batch.images), model.encode_text(batch.text)
    with_text, without = model.score(trunk, words), model.score(trunk, None)
    mixed = model.score(trunk, words, torch.tensor([True, False, True]))
    assert torch.allclose(mixed[[0, 2]], without[[0, 2]])
    assert torch.allclose(mixed[1], with_text[1])
    assert not torch.allclose(with_text, without)


def test_pruning_is_turned_off_within_a_block_and_on_again_after_an_error(batch):
    model = tiny_model()
    trunk = model.trunk(batch.images)
    with model.unpruned():
        assert model.run_pruned_blocks(trunk).x.shape == (3, 17, DIM)
        assert not model.fusion.pruning
    with pytest.raises(ZeroDivisionError), model.unpruned():
        1 / 0  # noqa: B018
    assert model.run_pruned_blocks(trunk).x.shape == (3, 10, DIM)
    assert model.fusion.pruning


def test_the_pooler_comes_after_all_pruning(batch):
    torch.manual_seed(0)
    model = Model(
        backbone=Part(NoPooled, {"pruner": None}), pooler=Part(Half), heads={"image": Part(Unit)}, **SIZES
    ).eval()
    trunk = model.trunk(batch.images)
    image, blocks = model.encode_image(trunk), model.run_pruned_blocks(trunk)
    assert torch.equal(image.x, blocks.x[:, ::2])
    assert torch.equal(image.pooled, blocks.x[:, ::2].mean(1))


@pytest.mark.parametrize("head", ["image", "classify"])
def test_a_head_needs_a_pooled_state(head):
    backbone = Part(NoPooled, {"pruner": None}, name="plain", kind="backbone")
    with pytest.raises(
        PartError, match=rf"backbone 'plain': pools nothing .*model\.heads\.{head} needs the pooled state"
    ):
        Model(backbone=backbone, heads={"match": Part(Match), head: Part(Unit)}, **SIZES)
    Model(backbone=backbone, heads={"match": Part(Match)}, **SIZES)


def test_a_guided_pruner_needs_a_text_encoder():
    backbone = Part(
        TinyBackbone, {"pruner": TextAwarePatchDetector(dim=DIM, guide_dim=DIM)}, name="plain", kind="backbone"
    )
    with pytest.raises(PartError, match=r"backbone 'plain': a text-guided pruner needs model\.text for its guide"):
        Model(backbone=backbone, **SIZES)


def test_a_model_without_text_or_fusion():
    model = Model(backbone=Part(TinyBackbone), **SIZES)
    assert model.text_tower is None
    assert model.lacks("text")
    assert model.pruners == ()
    assert list(model.heads) == []
    model = Model(backbone=Part(TinyBackbone), text=Part(TinyText), fusion=Part(TinyFusion), frames=4, **SIZES)
    assert model.frame_embedding.shape == (4, DIM)
    assert model.text_tower is model.text


def test_sizes_are_written_and_read(tmp_path):
    spec = ModelSpec(224, 40, 30_522, ("cat", "dog"), crop=False)
    spec.write(str(tmp_path))
    assert ModelSpec.read(str(tmp_path)) == spec
    assert ModelSpec.of(TinyData()) == ModelSpec(SIDE, LENGTH, 10, (), crop=False)
    assert ModelSpec.of(TinyData.spec({}, frozenset())) == ModelSpec.of(TinyData())


def test_sizes_without_optional_keys_and_with_unknown_ones(tmp_path):
    numbers = {"image_size": 8, "text_length": 9, "vocabulary": 10}
    (tmp_path / "sizes.json").write_text(json.dumps({**numbers, "later": [1]}))
    assert ModelSpec.read(str(tmp_path)) == ModelSpec(8, 9, 10, (), crop=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not the sizes of a model"),
        ("[]", "not the sizes of a model"),
        ('{"image_size": 8}', "lacks 'text_length'"),
        ('{"image_size": 8, "text_length": 0, "vocabulary": 1}', r"expected whole numbers above 0, got \[8, 0, 1\]"),
        ('{"image_size": 8, "text_length": 2.5, "vocabulary": 1}', "expected whole numbers above 0"),
        ('{"image_size": 8, "text_length": 2, "vocabulary": 1, "classes": 3}', "not the sizes of a model"),
    ],
)
def test_damaged_sizes(tmp_path, content, message):
    (tmp_path / "sizes.json").write_text(content)
    with pytest.raises(ValueError, match=rf"sizes\.json: .*{message}"):
        ModelSpec.read(str(tmp_path))


def test_missing_sizes_have_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=rf"no such file. An older run gets it by: patchbay evaluate {tmp_path}"):
        ModelSpec.read(str(tmp_path))
