"""The loop: schedule, groups, accumulation, resume."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pluggy
import pytest
import small
import torch

from core import discovery, hookspecs, runtime
from core.recipe import RecipeErrors, read
from core.settings import Group, RunSettings, TrainSettings
from core.training import checkpoint
from core.training.checkpoint import load_weights
from core.training.optimizer import freeze, learning_rate
from core.training.trainer import Trainer
from plugins.compute import memory

SOURCE = small.data()


def trainer(folder, *, resume=False, hooks=(), **settings):
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for hook in hooks:
        manager.register(hook)
    made = {"steps": 4, "batch": 4, "warmup": 1, "workers": 0, "save_every": 0, **settings}
    newest = checkpoint.newest(str(folder)) if resume else None
    objectives, train, run = small.objectives(small.copa(SOURCE)), TrainSettings(**made), RunSettings(device="cpu")
    return Trainer(objectives, SOURCE, train, run, manager, str(folder), resume_from=newest)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_schedule():
    settings = TrainSettings(steps=110, warmup=10, min_lr_ratio=0.1)
    assert learning_rate(0, settings) == pytest.approx(0.1)
    assert learning_rate(9, settings) == pytest.approx(1.0)
    assert learning_rate(60, settings) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    linear = TrainSettings(steps=110, warmup=10, min_lr_ratio=0.1, schedule="linear")
    assert learning_rate(60, linear) == pytest.approx(0.55)


def test_groups_have_their_own_rates_and_vectors_no_decay(tmp_path):
    made = trainer(tmp_path, lr=1e-3, groups=[Group("model.backbone", 1e-4)])
    assert made.learning_rates == {"": 1e-3, "model.backbone": 1e-4}
    held = sum(p.numel() for g in made.optimizer.param_groups for p in g["params"])
    assert held == sum(p.numel() for p in made.objectives.parameters())
    for group in made.optimizer.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])
    with pytest.raises(
        ValueError, match=r"no parameter starts with 'model\.backbnoe'\. Did you mean 'model\.backbone'"
    ):
        trainer(tmp_path, groups=[Group("model.backbnoe", 1e-4)])


def test_training_lowers_the_loss_and_calls_hooks_in_order(tmp_path):
    seen = []

    class Hooks:
        @hookspecs.hookimpl
        def training_starts(self, trainer):
            seen.append("start")

        @hookspecs.hookimpl
        def after_backward(self, trainer):
            seen.append("backward")

        @hookspecs.hookimpl
        def after_step(self, trainer, losses):
            seen.append((trainer.step, sorted(losses)))

        @hookspecs.hookimpl
        def checkpoint_saved(self, trainer, folder):
            seen.append("saved")

        @hookspecs.hookimpl
        def training_ends(self, trainer):
            seen.append("end")

    trainer(tmp_path, steps=2, hooks=[Hooks()]).fit()
    names = sorted(small.LOSSES)
    assert seen == ["start", "backward", (1, names), "backward", (2, names), "saved", "end"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"workers": 1}, {"optimizer": "adafactor"}, {"optimizer": "muon"}, {"ema": 0.9}],
    ids=["plain", "worker", "adafactor", "muon", "ema"],
)
def test_resume_reaches_the_same_weights_bit_for_bit(tmp_path, settings):
    whole = trainer(tmp_path / "a", **settings)
    before = weights(whole)
    whole.fit()
    assert not torch.equal(weights(whole), before)
    torch.manual_seed(5)

    class Stop(Exception):
        pass

    class Interrupt:
        @hookspecs.hookimpl
        def checkpoint_saved(self, trainer):
            raise Stop

    with pytest.raises(Stop):
        trainer(tmp_path / "b", save_every=2, hooks=[Interrupt()], **settings).fit()
    again = trainer(tmp_path / "b", resume=True, **settings)
    assert again.first_step == 2
    again.fit()
    assert torch.equal(weights(whole), weights(again))
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == other


def test_accumulation_adds_up_the_same_gradient(tmp_path):
    twice = trainer(tmp_path, gradient_accumulation_steps=2, max_grad_norm=0.0)
    twice._gradients(twice._batches())
    once = trainer(tmp_path, steps=2, max_grad_norm=0.0)
    batches = once._batches()
    torch.manual_seed(0)
    once._gradients(batches)
    once._gradients(batches)
    for name in ("text.bert.embeddings.word_embeddings.weight", "backbone.vit.pos_embed"):
        mine, theirs = (t.model.get_parameter(name).grad for t in (twice, once))
        assert mine.norm() > 0
        assert torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.9


def test_a_gradient_that_is_not_finite_stops_with_the_losses(tmp_path):
    made = trainer(tmp_path)
    with torch.no_grad():
        made.model.heads["match"].linear.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 0: the gradient's norm is nan; losses: .*itm nan"):
        made.fit()


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_what_an_optimizer_holds_is_what_the_estimate_says(tmp_path, name):
    made = trainer(tmp_path, steps=1, optimizer=name)
    made.fit()
    moments = [v for state in made.optimizer.state.values() for k, v in state.items() if k not in ("step", "use_muon")]
    held = sum(tensor.numel() * tensor.element_size() for tensor in moments)
    estimate = memory.training_memory(made.objectives, 0, name)["optimizer"]
    assert held == pytest.approx(estimate, rel=0.02)


@pytest.mark.cpu_choice
@pytest.mark.parametrize("native", [True, False])
def test_muon_turns_the_steps_of_hidden_maps_alone(tmp_path, monkeypatch, native):
    monkeypatch.setattr(runtime, "CPU_HAS_BF16", native)
    made = trainer(tmp_path, steps=1, warmup=0, optimizer="muon", weight_decay=0.0, lr=1e-2)
    before = {name: p.detach().clone() for name, p in made.objectives.named_parameters()}
    made.fit()
    steps = {name: p.detach() - before[name] for name, p in made.objectives.named_parameters()}
    hidden = [n for n in steps if n.endswith("blocks.0.mlp.fc1.weight")]
    heads = [n for n, step in steps.items() if n.startswith("model.heads.") and step.ndim == 2 and step.any()]
    assert hidden
    assert heads
    for name in hidden:  # the iteration brings all but the last of them near one value
        values = torch.linalg.svdvals(steps[name])
        assert values[0] < 1.5 * values[7]
    for name in heads:  # NAdamW's first step is as long for every number
        lengths = steps[name][steps[name] != 0].abs()
        assert lengths.median() > 0.99 * lengths.max()


def test_the_running_mean_of_the_weights_is_what_is_saved(tmp_path):
    seen = []

    class Watch:
        @hookspecs.hookimpl
        def after_step(self, trainer):
            seen.append(weights(trainer).clone())

    made = trainer(tmp_path / "a", ema=0.75, hooks=[Watch()])
    mean = weights(made).clone()
    made.fit()
    for step in seen:
        mean = 0.75 * mean + 0.25 * step
    assert torch.allclose(torch.cat([p.flatten() for p in made.result.parameters()]), mean, atol=1e-6)
    saved = small.copa(SOURCE)
    load_weights(saved, str(tmp_path / "a"))
    assert torch.allclose(torch.cat([p.detach().flatten() for p in saved.parameters()]), mean, atol=1e-6)
    plain = trainer(tmp_path / "b")
    plain.fit()
    assert torch.equal(weights(plain), weights(made)), "the mean only follows"
    assert plain.result is plain.model


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"optimizer": "adafactor", "precision": "bf16"}])
def test_a_rate_of_0_freezes(tmp_path, capsys, settings):
    frozen = [Group("model.backbone", 0.0), Group("model.backbone.prunings", 1e-3)]
    made = trainer(tmp_path / "a", groups=frozen, save_every=2, **settings)
    still = {name: p.clone() for name, p in made.objectives.named_parameters() if name.startswith("model.backbone.vit")}
    pruner = next(p for name, p in made.objectives.named_parameters() if name.startswith("model.backbone.prunings"))
    before = pruner.clone()
    assert made.learning_rates == {"": 1e-3, "model.backbone.prunings": 1e-3}
    made.fit()
    assert all(torch.equal(made.objectives.get_parameter(name), p) for name, p in still.items())
    assert not torch.equal(pruner, before)
    numbers = sum(p.numel() for p in still.values())
    assert f"Frozen, for its learning rate is 0: model.backbone, {numbers:,} parameters" in capsys.readouterr().out
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "step-00000004")
    again = trainer(tmp_path / "b", groups=frozen, save_every=2, resume=True, **settings)
    assert again.first_step == 2
    again.fit()
    assert torch.equal(weights(again), weights(made))


def test_of_what_is_frozen_no_gradient_is_computed(tmp_path):
    made = trainer(tmp_path, groups=[Group("model.backbone", 0.0)])
    made._gradients(made._batches())
    with_gradient = {name for name, p in made.objectives.named_parameters() if p.grad is not None}
    assert with_gradient
    assert not any(name.startswith("model.backbone") for name in with_gradient)


def test_all_frozen_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="every parameter is frozen"):
        trainer(tmp_path, lr=0.0)
    with pytest.raises(ValueError, match="objectives: none is left"):
        freeze(small.objectives(small.copa(SOURCE), "itc", itc=0.0), TrainSettings())


@pytest.mark.parametrize("setting", [{"betas": "[0.9, 1.0]"}, {"betas": "[1.0, 0.9]"}, {"ema": "1.0"}])
def test_a_mean_that_would_learn_nothing_is_refused(setting):
    ((name, value),) = setting.items()
    recipe = str(Path(__file__).parents[4] / "projects" / "coca" / "pretrain.yaml")
    with pytest.raises(RecipeErrors, match=rf"train\.{name}.*between 0 and 0\.999999"):
        read(recipe, [f"train.{name}={value}"], discovery.load())


@pytest.mark.parametrize(("frozen", "affine"), [(False, True), (True, True), (False, False)])
def test_statistics_of_batches_go_into_the_mean_and_stay_where_frozen(tmp_path, frozen, affine):
    made = trainer(tmp_path, ema=0.5)
    made.model.heads["norm"] = norm = torch.nn.BatchNorm1d(3, affine=affine).requires_grad_(not frozen)
    made.ema_model.module.heads["norm"] = torch.nn.BatchNorm1d(3, affine=affine).requires_grad_(False)

    class Watch:
        @hookspecs.hookimpl
        def training_starts(self, trainer):
            norm(torch.rand(4, 3))

    made.hooks.register(Watch())
    made.fit()
    assert norm.running_mean.any() != frozen
    assert torch.equal(made.result.heads["norm"].running_mean, norm.running_mean)
