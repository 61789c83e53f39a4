"""One stream of words and patches: the same guarantees as COPA in two streams."""

from __future__ import annotations

import dataclasses

import pytest
import small
import timm
import torch
from safetensors.torch import save_file

from core.blocks import run_blocks
from core.discovery import load
from core.kinds import TokenPruner
from core.model import Model
from core.objectives import Objectives, Step
from core.types import Masked, Text, Tokens
from plugins.backbones.vit import ViT
from plugins.fusion.single_stream import SingleStreamFusion
from plugins.heads.match import Match
from plugins.heads.vocabulary import Vocabulary
from plugins.objectives.itm import ImageTextMatching
from plugins.objectives.mlm import MaskedLanguageModelling
from plugins.objectives.pta import PatchTextAlignment
from plugins.pruners.prune_list import Prune
from plugins.text.bert import BertEncoder
from registry.part import Part, PartError

SOURCE = small.data()
PRUNERS = load().registries[TokenPruner]
LOSSES = {"itm": ImageTextMatching, "mlm": MaskedLanguageModelling, "pta": PatchTextAlignment}
WIDTH = {"embed_dim": 32, "num_heads": 2}


def prune(name="tpd", block=2, **settings):
    return [Prune(block, Part(PRUNERS[name].cls, settings, name, "token pruner"))]


def stream(entries=None) -> Model:
    """Four blocks with a detector after the second; seeded, in eval mode."""
    torch.manual_seed(0)
    entries = prune() if entries is None else entries
    return Model(
        backbone=Part(ViT, {**WIDTH, "depth": 0, "patch_size": 16}),
        text=Part(BertEncoder, {**WIDTH, "layers": 0, "dropout": 0.0}),
        fusion=Part(SingleStreamFusion, {"layers": 4, "num_heads": 2, "prune": entries}),
        heads={"match": Part(Match), "words": Part(Vocabulary)},
        vocabulary=SOURCE.tokenizer.vocabulary,
        text_length=SOURCE.text_length,
        image_size=SOURCE.image_size,
    ).eval()


def objectives(model, *names):
    settings = {"itm": {"negatives": "random"}}
    parts = {name: Part(LOSSES[name], settings.get(name, {}), name, "objective")() for name in names or LOSSES}
    return Objectives(model, parts, dict.fromkeys(parts, 1.0))


def fused(model, batch):
    step = Step(model, batch)
    return step.fuse(slice(0, len(batch.images)), step.text)


def rows_through(model, batch, *names):
    counts = [0] * len(model.fusion.layers)
    handles = [
        layer.attention.register_forward_hook(lambda _, x, y, i=i: counts.__setitem__(i, counts[i] + len(y)))
        for i, layer in enumerate(model.fusion.layers)
    ]
    objectives(model, *names)(batch)
    for handle in handles:
        handle.remove()
    return counts


def test_keep_one_without_fusing_equals_no_pruner():
    batch = small.batch(SOURCE)
    pruned, plain = stream(prune(keep_rate=1.0, fuse="none")), stream([])
    plain.load_state_dict(pruned.state_dict(), strict=False)
    a, b = fused(pruned, batch), fused(plain, batch)
    assert torch.allclose(a.memory.x, b.memory.x, atol=1e-5)
    halved = stream()
    plain.load_state_dict(halved.state_dict(), strict=False)
    with halved.unpruned():
        assert torch.allclose(fused(halved, batch).memory.x, fused(plain, batch).memory.x, atol=1e-5)
    assert fused(halved, batch).image.x.shape[1] == 1 + 8 + 1


@pytest.mark.parametrize("name", list(PRUNERS))
def test_words_are_never_pruned(name):
    """Whatever the pruner, the tokens of the words and of the picture's [CLS] leave it as they came."""
    model = stream(prune(name, keep_rate=0.3))
    calls = []
    model.pruners[0].register_forward_hook(lambda _, given, output: calls.append((given[0], output)))
    batch = small.batch(SOURCE)
    out = fused(model, batch)
    ((before, after),) = calls
    length = batch.text.ids.shape[1]
    assert before.patches == (length + 1, length + 17)
    assert torch.equal(before.x[:, : length + 1], after.x[:, : length + 1])
    assert torch.equal(after.mask[:, :length], batch.text.mask)
    assert after.mask[:, length:].all()
    assert after.x.shape[1] < before.x.shape[1]
    assert out.text.x.shape == (6, length, 32)
    start, stop = out.image.patches
    assert (start, stop) == (1, out.image.x.shape[1])
    assert out.image.source.shape == (6, stop - start)


def test_the_detector_reads_the_cls_of_its_own_depth():
    model, batch = stream(), small.batch(SOURCE)
    step = Step(model, batch)
    fusion = model.fusion
    joined = run_blocks(fusion.blocks, {}, fusion._concatenate(step.text, step.image), last=2)
    expected = model.pruners[0].score(joined, joined.x[:, 0], None)
    assert torch.allclose(model.score(step.trunk, step.text), expected, atol=1e-6)
    assert torch.allclose(fused(model, batch).image.scores, expected, atol=1e-6)
    other = dataclasses.replace(batch, text=batch.text.rows(torch.arange(6).roll(1)))
    changed = Step(model, other)
    assert not torch.allclose(model.score(changed.trunk, changed.text), expected, atol=1e-4), "the text is not read"
    turned = dataclasses.replace(batch, images=batch.images.roll(1, 0))
    turned_step = Step(model, turned)
    cls = run_blocks(fusion.blocks, {}, fusion._concatenate(turned_step.text, turned_step.image), last=2).x[:, 0]
    assert not torch.allclose(cls, joined.x[:, 0], atol=1e-4), "[CLS] has not seen the picture"


def test_padding_changes_nothing():
    model, batch = stream(), small.batch(SOURCE)
    extra = torch.zeros(6, 3, dtype=torch.long)
    longer = Text(torch.cat([batch.text.ids, extra], 1), torch.cat([batch.text.mask, extra.bool()], 1))
    padded = dataclasses.replace(batch, text=longer)
    a, b = fused(model, batch), fused(model, padded)
    length = batch.text.ids.shape[1]
    real = batch.text.mask
    assert torch.allclose(a.text.x[real], b.text.x[:, :length][real], atol=1e-5)
    assert torch.equal(a.image.source, b.image.source)
    assert torch.allclose(a.image.x, b.image.x, atol=1e-5)


def test_a_masked_word_stays_hidden():
    """MLM reads the masked caption alone: neither the words nor what is pruned by them knows the hidden word."""
    batch, model = small.batch(SOURCE), stream()
    last = batch.text.mask.sum(1) - 2  # before [SEP]
    ids = batch.text.ids.scatter(1, last[:, None], SOURCE.tokenizer.mask)
    masked = Masked(Text(ids, batch.text.mask), last[:, None], batch.masked.targets[:, :1], torch.ones(6, 1))
    one = dataclasses.replace(batch, masked=masked)
    changed = batch.text.ids.scatter(1, last[:, None], 10)
    assert not torch.equal(changed, batch.text.ids)
    other = dataclasses.replace(one, text=Text(changed, batch.text.mask))
    assert torch.equal(*(objectives(model, "mlm")(b)[0] for b in (one, other)))
    assert not torch.equal(fused(model, one).image.x, fused(model, other).image.x)


def test_passes_of_the_blocks():
    """ITM 3 B, MLM B, PTA R through blocks 1..k alone."""
    model, batch = stream(), small.batch(SOURCE)
    regions = len(batch.regions.images)
    assert rows_through(model, batch, "itm") == [18] * 4
    assert rows_through(model, batch, "mlm") == [6] * 4
    assert rows_through(model, batch, "pta") == [regions, regions, 0, 0]
    objectives(model, "pta")(batch)[0].backward()
    cold = {name.split(".")[2] for name, p in model.named_parameters() if "fusion.layers" in name and p.grad is None}
    assert cold == {"2", "3"}


def test_hard_negatives_need_the_heads_of_a_contrast():
    part = Part(ImageTextMatching, {}, "itm", "objective")()
    with pytest.raises(PartError, match=r"objectives\.itm: objective 'itm' needs model\.heads\.image"):
        Objectives(stream(), {"itm": part}, {"itm": 1.0})


def test_blocks_start_from_a_vit(tmp_path):
    """With a picture alone in the stream, the fusion is the ViT behind its embedding."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0, "img_size": 64}
    vit = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    file = str(tmp_path / "vit.safetensors")
    save_file({k: v.contiguous() for k, v in vit.state_dict().items()}, file)
    settings = {"layers": 3, "num_heads": 2, "weights": file}
    fusion = Part(SingleStreamFusion, settings)(dim=32, image_dim=32).eval()
    embedded = Part(ViT, {**WIDTH, "depth": 0, "weights": file})(image_size=64).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        fusion.types.weight.zero_()
        none = Tokens(torch.zeros(2, 1, 32), mask=torch.zeros(2, 1, dtype=torch.bool))  # one word, hidden
        out = fusion(none, embedded(images)).image.x
        expected = vit.forward_features((images.float() - embedded.mean) / embedded.deviation)
    assert torch.allclose(out, expected, atol=2e-5)
    with pytest.raises(PartError, match=r"vit\.safetensors: blocks\.3\..* must be .*, but the file lacks it"):
        Part(SingleStreamFusion, {**settings, "layers": 4})(dim=32, image_dim=32)
    with pytest.raises(PartError, match=r"norm1\.weight must be \(64,\), but the file has \(32,\)"):
        Part(SingleStreamFusion, settings)(dim=64, image_dim=64)
