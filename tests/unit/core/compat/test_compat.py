"""Old names of the last release: each works, warns once, and the warning gives the new name."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import core
from core import discovery
from core.blocks import between_attention_and_mlp, run_blocks
from core.compat import names
from core.compat.tensor_names import with_new_names
from core.kinds import Backbone, Decoder
from core.model import Model
from core.objectives import Objectives, Step
from core.recipe import RecipeErrors, read
from core.training.trainer import Trainer
from registry.renaming import OldName

CATALOG = discovery.load()
RUN = Path(__file__).parents[3] / "b602951" / "coca"
ADOPTERS = (Model, Step, Trainer, Backbone, Decoder, core.Data, core.Objective, Objectives)
OLD = [(cls, old, entry.new) for cls in ADOPTERS for old, entry in vars(cls).items() if isinstance(entry, OldName)]
RECIPE = """\
model: {backbone: {name: vit, dim: 8, heads: 2, prune: [{after_block: 1, pruner: {name: tpd, keep: 0.5}}]}, text: bert}
objectives: {itm: {share: 0.5}}
data: scenes
train: {clip: 0.5, groups: [{prefix: model.poolers, lr: 0}]}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(RECIPE)
    return "a.yaml"


def messages(function, *arguments) -> tuple[object, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = function(*arguments)
    return result, [str(w.message) for w in caught if issubclass(w.category, FutureWarning)]


def test_each_old_key_warns_once_at_its_place(recipe):
    result, said = messages(read, recipe, ["model.backbone.prune[0].pruner.keep=0.25", "model.text.dim=16"], CATALOG)
    assert result.train.max_grad_norm == 0.5
    assert result.train.groups[0].prefix == "model.pooler"
    assert result.model.settings["backbone"].settings["prune"][0].pruner.settings["keep_rate"] == 0.25
    assert result.model.settings["text"].settings["embed_dim"] == 16
    expected = (
        "a.yaml:4:9: train.clip is now train.max_grad_norm",
        "a.yaml:2:20: objectives.itm.share is now objectives.itm.fraction",
        "a.yaml:1:31: model.backbone.dim is now model.backbone.embed_dim",
        "override 'model.text.dim=16': model.text.dim is now model.text.embed_dim",
    )
    for sentence in expected:
        assert said.count(f"{sentence}; the old name works in this release only") == 1, said


def test_a_child_file_uses_the_name_and_removes_the_key_of_its_base(recipe):
    Path("b.yaml").write_text("extends: a.yaml\nmodel: {backbone: {dim: 16, heads: null}}\ntrain: {clip: null}\n")
    result = read("b.yaml", [], CATALOG)
    assert result.model.settings["backbone"].settings["embed_dim"] == 16
    assert result.train.max_grad_norm == 1.0


@pytest.mark.parametrize(
    "overrides", [["train.clip=1", "train.max_grad_norm=2"], ["train={clip: 1, max_grad_norm: 2}"]]
)
def test_both_spellings_together_are_refused(recipe, overrides):
    with pytest.raises(RecipeErrors, match="is another name of clip, given at"):
        read(recipe, overrides, CATALOG)


def test_old_tensor_names_are_replaced_where_the_module_has_the_new_one():
    tensors = {key: torch.zeros(1) for key in ("poolers.a", "poolers.up.b", "x.up", "average.moments", "foreign.up")}
    new = ["pooler.a", "pooler.fc1.b", "x.up", "ema_model.module.frame_embedding", "ema_model.n_averaged"]
    result, said = messages(with_new_names, tensors, new, "file")
    assert sorted(result) == sorted([*new, "foreign.up"])
    assert len(said) == 1 and said[0].startswith("file: tensor poolers.a is now pooler.a")


@pytest.mark.parametrize("name", names.PUBLIC)
def test_old_public_name(name):
    result, said = messages(getattr, core, name)
    assert result is getattr(core, names.PUBLIC[name])
    assert said == [f"core.{name} is now core.{names.PUBLIC[name]}; {names.ENDS}"]


def test_an_objective_by_the_old_contract_is_adopted():
    def define():
        class Old(core.Objective):
            reads = ("masked",)

            def units(self, batch):
                return 2 * super().units(batch)

            def forward(self, step):
                return torch.zeros(())

        return Old

    cls, said = messages(define)
    assert len(said) == 2
    batch = core.Batch(torch.zeros(3, 3, 4, 4), core.Text(torch.zeros(3, 1), torch.ones(3, 1)))
    assert cls.batch_fields == ("masked",)
    with pytest.warns(FutureWarning, match=r"Objective.units is now loss_denominator"):
        assert cls().loss_denominator(batch) == 6


def test_old_hooks_are_called():
    class Plugin:
        @core.hookimpl
        def tell(self, report):
            return {"a": ["lines of a"]}

    catalog = discovery.Catalog()
    with pytest.warns(FutureWarning, match="hook tell is now format_report"):
        catalog.hooks.register(Plugin())
    from plugins.hooks.report_table import table

    assert "lines of a" in table(catalog.hooks, {"a": {"b": 1}})


def test_an_old_hook_wraps_the_loaded_model(monkeypatch):
    class Plugin:
        @core.hookimpl
        def use(self, held):
            return "wrapped", held.model

    catalog = discovery.load()
    _, said = messages(catalog.hooks.register, Plugin())
    assert said == [f"hook use(held) is now wrap_loaded_model(loaded); {names.ENDS}"]
    monkeypatch.setattr(discovery, "load", lambda: catalog)
    word, model = core.load(RUN, "cpu", "fp32")
    assert word == "wrapped" and isinstance(model, Model)


class OldBlock:
    """A transformer block by the contract of the last release."""

    def attend(self, x, mask):
        return x + 1

    def feed(self, x):
        return 2 * x

    def look(self, x, mask):
        return x, x.sum(-1)


class UnchangedPruner(core.TokenPruner):
    """Returns the tokens unchanged, between attention and MLP."""

    place = "in_block"

    def score(self, tokens, guide, cues):
        return None

    def forward(self, tokens, guide, cues):
        return tokens


def test_a_block_by_the_old_contract_is_run():
    tokens = core.Tokens(torch.ones(1, 3, 2), patches=(1, 3))
    ((after, cues), said) = messages(between_attention_and_mlp, OldBlock(), tokens)
    assert said == [f"OldBlock.feed, .look is now mlp, attention_maps; {names.ENDS}"]
    assert torch.equal(after.x, tokens.x + 1)
    assert cues.keys is not None and torch.equal(cues.keys, tokens.x)
    result, said = messages(run_blocks, [OldBlock()], {1: UnchangedPruner()}, tokens)
    assert torch.equal(result.x, 2 * (tokens.x + 1))
    assert set(said) == {f"OldBlock.feed, .look is now mlp, attention_maps; {names.ENDS}"}


@pytest.mark.parametrize(("cls", "old", "new"), OLD, ids=lambda value: getattr(value, "__name__", value))
def test_an_old_attribute_is_forwarded(cls, old, new):
    sentence = f"{cls.__name__}.{old} is now {new}; {names.ENDS}"
    if hasattr(cls, new):
        result, said = messages(getattr, cls, old)
        assert result == getattr(cls, new)
    else:
        instance = cls.__new__(cls)
        if isinstance(instance, torch.nn.Module):
            torch.nn.Module.__init__(instance)
        _, said = messages(setattr, instance, old, 5)
        assert said == [sentence] and getattr(instance, new) == 5
        result, said = messages(getattr, instance, old)
        assert result == 5
    assert said == [sentence]


@pytest.mark.parametrize("base", [core.Objective, Model])
def test_the_warning_names_the_file_of_the_adopted_class(base):
    old, new = next((old, new) for cls, old, new in OLD if cls is base)
    with pytest.warns(FutureWarning, match=f"{old} is now {new}") as caught:

        class Adopted(base):
            locals()[old] = None

    assert [Path(w.filename).name for w in caught] == ["test_compat.py"]
    assert vars(Adopted)[new] is None
