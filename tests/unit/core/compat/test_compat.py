"""Old names of the last release: each works, warns once, and the warning gives the new name."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import core
from core import discovery
from core.compat import names
from core.compat.tensor_names import with_new_names
from core.recipe import RecipeErrors, read

CATALOG = discovery.load()
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
