"""Settings that a third party's plugin declares: read and checked like core's, written back, given to its hooks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

import pytest
from small_runs import COPA

from core import Count, Fraction, discovery, hookimpl
from core import run as running
from core.cli import main
from core.recipe import RecipeErrors, differences, dump, plain, read
from registry import Owner, distributions
from registry.sections import PluginSettings

OWNER = Owner("sparsity", "patchbay-sparsity", "2.0")


@dataclass(frozen=True)
class SparsitySettings:
    """Settings of the share of small activations."""

    free_on_resume: ClassVar = frozenset({"images"})

    threshold: Fraction = 0.1  # below it an activation counts as small
    images: Count = 4
    reduction: Literal["mean", "max"] = "mean"


@dataclass(frozen=True)
class DensitySettings:
    density: Fraction = 0.5

    def __post_init__(self) -> None:
        if self.density == 0.25:
            raise ValueError("density 0.25 is refused")


@dataclass(frozen=True)
class ClashingSettings:
    candidates: Count = 3


@dataclass(frozen=True)
class RequiredSettings:
    size: Count


@dataclass(frozen=True)
class MisnamedSettings:
    free_on_resume: ClassVar = frozenset({"sizes"})
    size: Count = 1


@dataclass(frozen=True)
class FreshSettings:
    images: Count = 1


@dataclass
class ChangeableSettings:
    size: Count = 1


def plugin(*added: tuple[str, Any], **functions: Any) -> ModuleType:
    def settings(add: Any) -> None:
        for section, cls in added:
            add(section, cls)

    module = ModuleType("sparsity")
    vars(module).update({name: hookimpl(function) for name, function in {"settings": settings, **functions}.items()})
    return module


def evaluate(evaluation):
    chosen = evaluation.settings_for(SparsitySettings)
    return {"sparsity": {"threshold": chosen.threshold, "images": len(evaluation.examples("test", chosen.images))}}


@pytest.fixture
def catalog(monkeypatch):
    """Every built-in plugin and one that declares a section and a key of ``evaluate``."""
    loaded = discovery.load()
    module = plugin(("sparsity", SparsitySettings), ("evaluate", DensitySettings), evaluate=evaluate)
    loaded.register_plugin(lambda: module, OWNER)
    monkeypatch.setattr(discovery, "load", lambda: loaded)
    return loaded


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(COPA + "evaluate: {density: 0.75, candidates: 8}\nsparsity:\n  threshold: 0.2\n")
    return str(file)


def problems(recipe: str, catalog: discovery.Catalog, *overrides: str) -> list[str]:
    with pytest.raises(RecipeErrors) as caught:
        read(recipe, overrides, catalog)
    return [str(problem) for problem in caught.value.problems]


def test_values_defaults_and_the_recipe_written_back(recipe, catalog, tmp_path):
    chosen = read(recipe, (), catalog)
    assert chosen.plugin_settings.get(SparsitySettings) == SparsitySettings(threshold=0.2)
    assert chosen.plugin_settings.get(DensitySettings).density == 0.75
    content = plain(chosen)
    assert content["sparsity"] == {"threshold": 0.2, "images": 4, "reduction": "mean"}
    assert content["evaluate"]["density"] == 0.75 and content["evaluate"]["candidates"] == 8
    (tmp_path / "again.yaml").write_text(dump(chosen))
    again = read(str(tmp_path / "again.yaml"), (), catalog)
    assert dump(again) == dump(chosen) and differences(again, chosen) == []
    other = read(recipe, ["sparsity.images=5", "evaluate.density=1"], catalog)
    assert differences(chosen, other) == ["evaluate.density", "sparsity.images"]


def test_a_recipe_without_the_section_has_the_defaults(catalog, tmp_path):
    (tmp_path / "small.yaml").write_text(COPA)
    assert read(str(tmp_path / "small.yaml"), (), catalog).plugin_settings.get(SparsitySettings) == SparsitySettings()


def test_problems_have_their_line_and_a_near_match_among_all_keys(recipe, catalog):
    line = COPA.count("\n") + 3
    with open(recipe, "a", encoding="utf-8") as file:
        file.write("  reduction: sum\n  treshold: 1\n")
    found = problems(recipe, catalog, "evaluate.densty=1", "evaluate.candidate=2", "sparsty.images=2")
    assert f"{recipe}:{line + 1}:14: sparsity.reduction: 'sum' is not accepted. Accepted: mean, max." in found
    known = "It takes: threshold, images, reduction."
    typo = "sparsity takes no such setting. Did you mean 'threshold'?"
    assert f"{recipe}:{line + 2}:3: sparsity.treshold: {typo} {known}" in found
    by_path = {problem.partition(": ")[2].partition(": ")[0]: problem for problem in found}
    assert "Did you mean 'density'?" in by_path["evaluate.densty"]
    assert "Did you mean 'candidates'?" in by_path["evaluate.candidate"]
    assert "split, batch, rounds, candidates" in by_path["evaluate.densty"]
    assert "Did you mean 'sparsity'?" in by_path["sparsty"] and "run, sparsity, extends." in by_path["sparsty"]
    assert len(found) == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sparsity.threshold=2", "must be between 0 and 1, but is 2"),
        ("sparsity.images=few", "expected whole number at least 1, found 'few'"),
        ("sparsity=1", "expected {threshold, images, reduction}, found '1'"),
        ("evaluate.density=0.25", "density 0.25 is refused"),
    ],
)
def test_bad_values(recipe, catalog, override, message):
    (problem,) = problems(recipe, catalog, override)
    assert message in problem


def test_without_the_plugin_its_keys_are_unknown_and_its_failure_is_quoted(recipe):
    catalog = discovery.load()
    catalog.failures.append(discovery.Failure(OWNER, "ImportError: no such library"))
    found = problems(recipe, catalog)
    assert len(found) == 2
    quoted = f"Plugins that failed to load: {OWNER}: ImportError: no such library"
    assert [problem.endswith(quoted) for problem in found] == [True, False]  # once for all problems


@pytest.mark.parametrize(
    ("section", "cls", "message"),
    [
        ("evaluate", ClashingSettings, "'evaluate.candidates' is claimed by plugin 'plugins.metrics.settings'"),
        ("sparsity", SparsitySettings, "SparsitySettings is already the settings of section 'sparsity': .*sparsity"),
        ("more", SparsitySettings, "SparsitySettings is already the settings of section 'sparsity'"),
        ("model", ClashingSettings, "'model' cannot have settings"),
        ("extends", ClashingSettings, "'extends' cannot have settings"),
        ("two words", ClashingSettings, "'two words' cannot have settings"),
        ("more", RequiredSettings, "RequiredSettings: need defaults: size"),
        ("more", MisnamedSettings, "MisnamedSettings: free_on_resume has sizes"),
        ("more", ChangeableSettings, "is not a frozen dataclass"),
        ("more", dict, "is not a frozen dataclass"),
    ],
)
def test_what_a_plugin_may_not_declare(catalog, section, cls, message):
    other = Owner("other", "patchbay-other", "1.0")
    before = {name: list(entries) for name, entries in catalog.settings.sections.items()}
    module = plugin(("fresh", FreshSettings), (section, cls))
    with pytest.raises((TypeError, ValueError), match=message):
        catalog.register_plugin(lambda: module, other)
    assert catalog.settings.sections == before  # nothing of it is left
    assert other not in catalog.plugins


def test_a_clash_names_both_plugins(catalog):
    other = Owner("other", "patchbay-other", "1.0")
    module = plugin(("sparsity", FreshSettings))
    with pytest.raises(ValueError, match=f"'sparsity.images' is claimed by {OWNER} and by {other}"):
        catalog.register_plugin(lambda: module, other)


def test_show_and_list_name_the_owner(catalog, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["show", "evaluate"]) == main(["show", "sparsity"]) == 0
    text = capsys.readouterr().out
    assert f"  density: number between 0 and 1; default 0.5\n\nFrom   {OWNER}" in text
    assert "  threshold: number between 0 and 1; default 0.1  # below it an activation counts as small" in text
    assert main(["show", "evaluate", "--json"]) == 0
    (page,) = json.loads(capsys.readouterr().out)
    assert page["settings"]["density"]["distribution"] == "patchbay-sparsity"
    assert page["settings"]["split"]["plugin"] == "core"
    assert page["settings"]["candidates"]["default"] == 256
    assert main(["list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out) if row["kind"] == "setting"}
    assert rows["sparsity.threshold"]["distribution"] == rows["evaluate.density"]["distribution"] == "patchbay-sparsity"
    assert rows["run.tensorboard"]["distribution"] == distributions.DISTRIBUTION


def test_a_run_its_hooks_and_its_resumption(catalog, recipe, tmp_path, capsys):
    starts = []
    module = plugin(training_starts=lambda trainer: starts.append(trainer.settings_for(SparsitySettings)))
    catalog.register_plugin(lambda: module, Owner("watcher"))
    small = ["evaluate.examples=4", "evaluate.pictures=0", "evaluate.rounds=0", f"run.folder={tmp_path / 'run'}"]
    report = running.run(recipe, [*small, "run.evaluate=true"])
    assert report["sparsity"] == {"threshold": 0.2, "images": 4}
    assert [chosen.threshold for chosen in starts] == [0.2]
    with pytest.raises(ValueError, match=r"cannot be continued, its recipe differs in sparsity\.threshold$"):
        running.run(recipe, [*small, "run.resume=true", "sparsity.threshold=0.3", "sparsity.images=5"])
    report = running.run(
        recipe, [*small, "run.resume=true", "sparsity.images=5", "run.tensorboard=false", "run.evaluate=true"]
    )
    assert report["sparsity"] == {"threshold": 0.2, "images": 5}


def test_an_undeclared_class_has_no_values():
    with pytest.raises(LookupError, match="SparsitySettings has no values: a plugin must declare it in its hook"):
        PluginSettings().get(SparsitySettings)
