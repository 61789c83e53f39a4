"""What makes COPA COPA: pruning that equals no pruning at keep 1, guides that leak nothing, work done once."""

from __future__ import annotations

import dataclasses

import pytest
import small
import torch

from core.objectives import Step
from core.types import Batch, Masked, Prefixed, Text
from plugins.pruners.prune_list import Prune
from plugins.pruners.random import RandomPruner
from plugins.pruners.tpd import TextAwarePatchDetector
from registry.part import Part, PartError

SOURCE = small.data()


def rows_through(model, batch, *names):
    """How many pictures went through each block while the named losses were computed."""
    counts = [0] * len(model.backbone.vit.blocks)
    handles = [
        block.register_forward_hook(lambda _, x, y, i=i: counts.__setitem__(i, counts[i] + len(y)))
        for i, block in enumerate(model.backbone.vit.blocks)
    ]
    small.objectives(model, *names)(batch)
    for handle in handles:
        handle.remove()
    return counts


def detector(**settings):
    return [Prune(1, Part(TextAwarePatchDetector, settings, "tpd", "token pruner"))]


def test_keep_one_without_fusing_equals_no_pruner():
    batch = small.batch(SOURCE)
    pruned, plain = small.copa(SOURCE, prune=detector(keep_rate=1.0, fuse="none")), small.copa(SOURCE, prune=[])
    plain.load_state_dict(pruned.state_dict(), strict=False)
    for policy in ("leak_free", "paper"):
        pruned.policy = policy
        a, b = Step(pruned, batch), Step(plain, batch)
        assert torch.allclose(a.image.x, b.image.x, atol=1e-5)
        fused = [step.fuse(slice(0, 6), step.text).memory.x for step in (a, b)]
        assert torch.allclose(*fused, atol=1e-5)


def test_sequence_is_cls_kept_patches_and_one_fused_token():
    model = small.copa(SOURCE, prune=detector(keep_rate=0.3))
    image = Step(model, small.batch(SOURCE)).image
    kept = 5  # ceil(0.3 * 16)
    assert image.x.shape[1] == 1 + kept + 1
    assert image.source.shape == (6, kept + 1)
    assert (image.source[:, -1] == -1).all()
    assert (image.source[:, :-1].diff(dim=1) > 0).all(), "kept patches stay in their order"
    best = image.scores.topk(kept).indices.sort().values
    assert torch.equal(best, image.source[:, :-1])


@pytest.mark.parametrize("fuse", ["sum", "mean"])
def test_fused_token_is_the_score_weighted_sum_of_the_dropped(fuse):
    model = small.copa(SOURCE, prune=detector(keep_rate=0.5, fuse=fuse))
    trunk = model.backbone.trunk(small.batch(SOURCE).images)
    pruner, guide = model.pruners[0], torch.randn(6, 32)
    out = pruner(trunk, guide, None)
    for row in range(6):
        dropped = [i for i in range(16) if i not in out.source[row].tolist()]
        weight = out.scores[row, dropped].sigmoid()
        expected = (weight[:, None] * trunk.patch_states[row, dropped]).sum(0)
        if fuse == "mean":
            expected = expected / weight.sum()
        assert torch.allclose(out.x[row, -1], expected, atol=1e-5)


def change(text: Text, places: torch.Tensor) -> Text:
    """Another word at each row's place."""
    ids = text.ids.clone()
    rows = torch.arange(len(ids))
    ids[rows, places] = torch.where(ids[rows, places] == 10, 11, 10)
    return Text(ids, text.mask)


def hidden_word_pair(batch: Batch) -> tuple[Batch, Batch]:
    """The batch, and the batch with another word where the caption's last word stands, which every objective hides."""
    last = batch.text.mask.sum(1) - 2  # before [SEP]
    masked_ids = batch.text.ids.scatter(1, last[:, None], SOURCE.tokenizer.mask)
    hidden = Masked(Text(masked_ids, batch.text.mask), last[:, None], batch.masked.targets[:, :1], torch.ones(6, 1))
    first = dataclasses.replace(batch, masked=hidden)
    return first, dataclasses.replace(first, text=change(batch.text, last))


def test_a_hidden_word_changes_nothing_when_leak_free():
    one, other = hidden_word_pair(small.batch(SOURCE))
    model = small.copa(SOURCE)
    a, b = Step(model, one), Step(model, other)
    assert torch.equal(a.image.x, b.image.x), "ITC: the picture's feature has seen its caption"
    for name in ("mlm", "prefix_lm"):
        losses = [small.objectives(model, name)(batch)[0] for batch in (one, other)]
        assert torch.equal(*losses), f"{name}: the hidden word was seen"


def test_the_paper_policy_sees_the_whole_caption():
    """The exception that docs state: a pass guided by the whole caption tells MLM and prefix LM hidden words."""
    one, other = hidden_word_pair(small.batch(SOURCE))
    model = small.copa(SOURCE, guide="paper", prune=detector(keep_rate=0.5))
    assert not torch.equal(Step(model, one).image.x, Step(model, other).image.x)
    for words in (one.masked.text, one.prefixed.prefix):  # what MLM and prefix LM read, the same in both
        memories = [Step(model, b).fuse(slice(0, 6), model.encode_text(words)).memory.x for b in (one, other)]
        assert not torch.equal(*memories)


def test_a_later_word_changes_no_earlier_prediction():
    batch, model = small.batch(SOURCE), small.copa(SOURCE)
    suffix = batch.prefixed.suffix
    states = []
    for text in (suffix, change(suffix, torch.full((6,), 2))):
        given = dataclasses.replace(batch, prefixed=Prefixed(batch.prefixed.prefix, text))
        step = Step(model, given)
        memory = step.fuse(slice(0, 6), model.encode_text(batch.prefixed.prefix)).memory
        states.append(model.decoder(model.decoder.encode_text(text), memory).x)
    assert torch.allclose(states[0][:, :2], states[1][:, :2], atol=1e-6)
    assert not torch.allclose(states[0][:, 2:], states[1][:, 2:], atol=1e-4)


def test_passes_of_the_later_blocks():
    """Of B pictures with all shares 1: leak_free B + 3 B + B + B = 6 B, paper B; block 1 runs B and R in both."""
    batch = small.batch(SOURCE)
    regions = len(batch.regions.images)
    for policy, later in (("leak_free", 6 * 6), ("paper", 6)):
        model = small.copa(SOURCE, guide=policy)
        first, *rest = rows_through(model, batch)
        assert first == 6 + regions, "text-independent blocks run once per picture, however many guides there are"
        assert rest == [later, later], policy
    plain = small.copa(SOURCE, prune=[])
    assert rows_through(plain, batch, "itc", "itm", "mlm", "prefix_lm") == [6, 6, 6]


def test_pta_runs_no_block_after_the_detector():
    model = small.copa(SOURCE, depth=4)
    batch = small.batch(SOURCE)
    assert rows_through(model, batch, "pta") == [len(batch.regions.images), 0, 0, 0]
    small.objectives(model, "pta")(batch)[0].backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"backbone", "text", "null_guide"}
    later = [p for block in model.backbone.vit.blocks[1:] for p in block.parameters()]
    assert all(p.grad is None for p in later)


def test_the_null_guide_is_trained_by_blank_regions_alone():
    model = small.copa(SOURCE)
    for blank, wanted in ((True, True), (False, False)):
        batch = small.batch(SOURCE)
        rows = torch.full_like(batch.regions.blank, blank)
        batch = dataclasses.replace(batch, regions=dataclasses.replace(batch.regions, blank=rows))
        model.zero_grad()
        small.objectives(model, "pta")(batch)[0].backward()
        assert bool(model.null_guide.grad.abs().sum() > 0) is wanted


def test_weight_zero_equals_objective_absent():
    batch = small.batch(SOURCE)
    model = small.copa(SOURCE)
    absent, losses = small.objectives(model, "itc", "mlm")(batch)
    silent, _ = small.objectives(model, "itc", "mlm", "pta", pta=0.0)(batch)
    assert torch.equal(absent, silent)
    assert set(losses) == {"itc", "mlm"}


def test_missing_slots_are_named_all_at_once():
    model = small.copa(SOURCE, prune=[])
    model.fusion = None
    with pytest.raises(PartError) as err:
        small.objectives(model, "itc", "itm", "pta")
    assert "objectives.itm: objective 'itm' needs model.fusion" in str(err.value)
    assert "objectives.pta: objective 'pta' needs a first pruner that overrides score and" in str(err.value)


def test_random_pruner_sees_nothing_of_the_text():
    prune = [Prune(1, Part(RandomPruner, {"keep_rate": 0.5}, "random", "token pruner"))]
    model = small.copa(SOURCE, prune=prune)
    assert not model.guided
    assert model.null_guide is None
    assert rows_through(model, small.batch(SOURCE), "itc", "itm", "mlm") == [6, 6, 6]
