"""A batch in chunks gives the gradients of the batch at once, in a chunk's memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import small
import torch
from small_coca import SOURCE, coca
from torch import Tensor

from core.model import Model
from core.objectives import Objective, Objectives, Step
from core.training.gradients import BackwardPass
from core.training.loader import split_batch
from core.types import Batch, Text
from plugins.backbones.vit import ViT
from plugins.heads.scale_bias import ScaleBias
from plugins.objectives.caption import Captioning
from plugins.objectives.itc import ImageTextContrast
from plugins.objectives.siglip import PairwiseSigmoid
from registry.part import Part

CPU = torch.device("cpu")


def of_coca(*, dropout: float = 0.0, **losses: Any) -> Objectives:
    model = coca(dropout=dropout)
    model.heads["sigmoid"] = ScaleBias(bias=-1.0)
    parts = losses or {"itc": ImageTextContrast(reduction="sum"), "caption": Captioning()}
    return Objectives(model, parts, {name: 2.0 if name == "caption" else 1.0 for name in parts}).train()


def pairs(size: int) -> Batch:
    """Captions cut at different lengths, so that chunks have different numbers of words."""
    batch = SOURCE.batch(0, size=size, seed=0, reads=frozenset())
    places = torch.arange(batch.text.ids.shape[1])
    keep = batch.text.mask & (places < 3 + torch.arange(size)[:, None] * 12 // size)
    return dataclasses.replace(batch, text=Text(batch.text.ids * keep, keep))


def gradients(objectives: Objectives, batch: Batch, chunks: int, precision: str = "fp32"):
    torch.manual_seed(1)
    losses = BackwardPass(objectives, CPU, precision, chunks)(batch)
    return {name: p.grad for name, p in objectives.named_parameters() if p.grad is not None}, losses


@pytest.mark.parametrize(
    "losses",
    [
        {},
        {"itc": ImageTextContrast(smoothing=0.1), "siglip": PairwiseSigmoid()},
        {"caption": Captioning(reduction="sequence_sum", smoothing=0.1), "siglip": PairwiseSigmoid()},
        {"caption": Captioning()},
    ],
    ids=["coca", "contrasts", "sigmoid", "captioner"],
)
def test_eight_chunks_of_eight_are_64_at_once(losses):
    batch = pairs(64)
    whole, said = gradients(of_coca(**losses), batch, 1)
    parts, told = gradients(of_coca(**losses), batch, 8)
    assert list(said) == list(told)
    torch.testing.assert_close(told, said, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    if "itc" in said:
        assert whole["model.heads.temperature.log"].abs() > 1e-3
    if "siglip" in said:
        assert whole["model.heads.sigmoid.bias"].abs() > 1e-3


class Uniformity(Objective):
    """A contrastive loss of one modality alone."""

    is_contrastive = True

    def __init__(self, modality: str):
        super().__init__()
        self.modality = modality

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        features = torch.nn.functional.normalize(getattr(step, self.modality).pooled, dim=-1)  # (B, D)
        return torch.nn.functional.pdist(features).square().mul(-2).exp().mean().log()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_contrastive_loss_of_one_modality_leaves_the_other_without_gradients(modality):
    batch, parts = pairs(8), {"uniformity": Uniformity(modality)}
    whole, _ = gradients(of_coca(**parts), batch, 1)
    chunked, _ = gradients(of_coca(**parts), batch, 4)
    assert chunked.keys() == whole.keys(), "weight decay acts on each parameter with a gradient, even one of zero"
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)


def test_an_image_loss_in_chunks_needs_no_text_tower():
    model = Model(
        backbone=Part(ViT, {"embed_dim": 32, "num_heads": 2, "depth": 2, "patch_size": 16}),
        vocabulary=SOURCE.tokenizer.vocabulary,
        text_length=SOURCE.text_length,
        image_size=SOURCE.image_size,
    ).eval()
    objectives = Objectives(model, {"uniformity": Uniformity("image")}, {"uniformity": 1.0})
    whole, _ = gradients(objectives, pairs(8), 1)
    objectives.zero_grad()
    chunked, _ = gradients(objectives, pairs(8), 4)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)


def test_at_once_is_what_the_objectives_say():
    batch, ours, plain = pairs(8), of_coca(), of_coca()
    found, losses = gradients(ours, batch, 1)
    total, said = plain(batch)
    total.backward()
    assert all(torch.equal(losses[name], loss) for name, loss in said.items())
    assert all(torch.equal(gradient, plain.get_parameter(name).grad) for name, gradient in found.items())


def test_the_losses_of_copa_add_up_over_chunks():
    names = ("itc", "mlm", "prefix_lm", "pta")  # itm draws its negatives within the chunk
    batch = SOURCE.batch(0, size=12, seed=0, reads=small.READS)
    whole, said = gradients(small.objectives(small.copa(SOURCE), *names, pta=3.0), batch, 1)
    parts, told = gradients(small.objectives(small.copa(SOURCE), *names, pta=3.0), batch, 3)
    torch.testing.assert_close(told, said, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    all_five = small.objectives(small.copa(SOURCE))
    _, with_matching = gradients(all_five, batch, 3)
    assert with_matching["itm"].isfinite()


def all_graphs_kept(objectives: Objectives, batch: Batch, chunks: int) -> dict[str, Tensor]:
    """The same chunks with the same random numbers, and one backward through all of them."""
    torch.manual_seed(1)
    images, texts, total = [], [], torch.zeros(())
    words = batch.text.mask[:, 1:].sum()
    for index in range(chunks):
        piece = split_batch(batch, index, chunks)
        step = Step(objectives.model, piece)
        images.append(step.image.pooled)
        texts.append(step.text.pooled)
        state = torch.get_rng_state()
        total = total + 2 * objectives.parts["caption"](step) * step.num_target_tokens / words
        torch.set_rng_state(state)  # the next chunk's features follow the last one's
    heads = objectives.model.heads
    logits = heads["temperature"](heads["image"](torch.cat(images)) @ heads["text"](torch.cat(texts)).T)
    own = torch.arange(len(logits))
    total = total + torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)
    total.backward()
    return {name: p.grad for name, p in objectives.named_parameters() if p.grad is not None}


def test_with_dropout_they_are_the_same_chunks_with_all_graphs_kept():
    batch = pairs(16)
    found, _ = gradients(of_coca(dropout=0.2), batch, 4)
    torch.testing.assert_close(found, all_graphs_kept(of_coca(dropout=0.2), batch, 4), rtol=1e-5, atol=1e-5)
    without, _ = gradients(of_coca(), batch, 4)
    assert any(not torch.allclose(found[name], without[name], atol=1e-3) for name in found)


def test_the_first_pass_leaves_out_what_only_captions_need():
    objectives, calls = of_coca(), {"upper": 0, "head": 0, "rows": 0}

    def count(name):
        def hook(_module, inputs, _output):
            calls[name] += 1
            calls["rows"] += len(inputs[0]) if name == "head" else 0

        return hook

    objectives.model.decoder.multimodal[0].register_forward_hook(count("upper"))
    objectives.model.heads["words"].words.register_forward_hook(count("head"))
    batch = pairs(8)
    gradients(objectives, batch, 4)
    assert calls["upper"] == 4
    assert calls["rows"] == int(batch.text.mask[:, 1:].sum()), "padding went through the head"


class Live:
    """Bytes that autograd keeps at a time, and the most there were."""

    def __init__(self):
        self.now = self.most = 0

    def watch(self):
        live = self

        class Kept:
            def __init__(self, tensor):
                self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
                live.now += self.size
                live.most = max(live.most, live.now)

            def __del__(self):
                live.now -= self.size

        return torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor)


def most(size: int, chunks: int) -> int:
    live, batch = Live(), pairs(32).rows(slice(0, size))
    batch = dataclasses.replace(batch, text=Text(batch.text.ids, torch.ones_like(batch.text.mask)))
    with live.watch():
        gradients(of_coca(), batch, chunks)
    assert live.now == 0
    return live.most


def test_memory_is_a_chunks_however_many_there_are():
    four, eight, at_once = most(16, 4), most(32, 8), most(32, 1)
    assert eight <= 1.02 * four
    assert eight < 0.2 * at_once


def test_in_bf16():
    batch = pairs(16)
    whole, said = gradients(of_coca(), batch, 1)
    parts, told = gradients(of_coca(), batch, 4, "bf16")
    assert whole.keys() == parts.keys()
    for name, loss in told.items():
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(said[name]), rel=0.02)
    for name in ("model.heads.temperature.log", "model.decoder.words.weight", "model.heads.words.words.weight"):
        assert torch.nn.functional.cosine_similarity(parts[name].flatten(), whole[name].flatten(), dim=0) > 0.98


def test_what_is_frozen_gets_no_gradient_and_stops_nobody():
    objectives, batch = of_coca(), pairs(8)
    for part in (objectives.model.backbone, objectives.model.pooler):
        part.requires_grad_(False)
    parts, _ = gradients(objectives, batch, 4)
    whole, _ = gradients(of_coca(), batch, 1)
    assert not any(name.startswith(("model.backbone", "model.pooler")) for name in parts)
    torch.testing.assert_close(parts, {name: whole[name] for name in parts}, rtol=1e-5, atol=1e-5)


def test_parts_of_a_batch_are_the_batch():
    batch = SOURCE.batch(0, size=6, seed=0, reads=small.READS)
    parts = [split_batch(batch, index, 3) for index in range(3)]
    assert torch.equal(torch.cat([p.images for p in parts]), batch.images)
    assert torch.equal(torch.cat([p.masked.targets for p in parts]), batch.masked.targets)
    assert torch.equal(torch.cat([p.regions.boxes for p in parts]), batch.regions.boxes)
    with pytest.raises(ValueError, match="a batch of 4 regions cannot be cut into 6 parts"):
        split_batch(batch, 0, 6)
