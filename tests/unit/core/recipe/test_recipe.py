"""Recipes: every problem at once with its line, inheritance, overrides, and back to YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core import Backbone, Between, Data, Filled, Fraction, Head, Objective, Part, TokenPruner, discovery
from core.discovery import Catalog
from core.recipe import Recipe, RecipeErrors, differences, dump, plain, read
from registry import Owner
from registry.part import Count

ROOT = Path(__file__).parents[4]


class Top(TokenPruner):
    """Fake."""

    def __init__(self, *, keep: Fraction = 0.5, dim: Filled[int]):
        super().__init__()

    def forward(self, tokens: Any, guide: Any, cues: Any) -> Any:
        return tokens


@dataclass(frozen=True)
class Prune:
    after_block: Count
    pruner: Part[TokenPruner]

    def __post_init__(self) -> None:
        if self.after_block == 13:
            raise ValueError("13 brings bad luck")


class Net(Backbone):
    """Fake."""

    def __init__(
        self,
        *,
        depth: Count = 12,
        stem: Literal["linear", "conv"] = "linear",
        prune: list[Prune] = (),  # type: ignore[assignment]
        size: tuple[int, int] = (1, 2),
        sizes: tuple[int, ...] = (),
        rates: dict[str, float] | None = None,
        mixed: int | float | str = 1,
        flag: bool = False,
        label: str = "",
        limit: float | None = 1.5,
        odd: Literal[1, 2, True, "x"] = 1,
        image_size: Filled[int],
    ):
        super().__init__()

    trunk = finish = None  # type: ignore[assignment]


class Line(Head):
    """Fake."""

    def __init__(self, *, width: Count, dim: Filled[int]):
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Loss(Objective):
    """Fake."""

    def __init__(self, *, share: Fraction = 1.0):
        super().__init__()

    def forward(self, step: Any) -> Any:
        return step


class Source(Data):
    """Fake."""

    def __init__(self, *, folder: str = "", boxes: Fraction = 0.05):
        pass

    batch = splits = held_out = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    made = Catalog()
    parts = {"top": Top, "net": Net, "line": Line, "loss": Loss, "other_loss": Loss, "source": Source}
    for name, cls in parts.items():
        made._add(name, cls, Owner("fakes"))
    return made


GOOD = """\
# python -m core.run good.yaml
model:
  backbone: {name: net, depth: 4, prune: [{after_block: 2, pruner: {name: top, keep: 0.3}}]}
  heads: {image: {name: line, width: 8}}
objectives: {loss: {}, second: {name: other_loss, weight: 0.5}}
data: source
train: {steps: 10, lr: 1e-4, betas: [0.9, 0.95], groups: [{prefix: model.backbone, lr: 2e-5}]}
"""

Read = Callable[..., Recipe]


@pytest.fixture
def from_text(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)

    def read_text(text: str | bytes, *overrides: str) -> Recipe:
        Path("a.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return read("a.yaml", overrides, catalog)

    return read_text


@pytest.fixture
def faults(from_text: Read) -> Callable[..., list[str]]:
    def problems(text: str | bytes, *overrides: str) -> list[str]:
        with pytest.raises(RecipeErrors) as caught:
            from_text(text, *overrides)
        return str(caught.value).split("\n")

    return problems


def test_good_recipe_is_read(from_text):
    recipe = from_text(GOOD)
    backbone = recipe.model.settings["backbone"]
    assert (backbone.cls, backbone.kind, backbone.name, backbone.where) == (
        Net,
        "backbone",
        "net",
        "a.yaml:3:13: model.backbone",
    )
    assert backbone.settings["depth"] == 4
    (prune,) = backbone.settings["prune"]
    assert prune.after_block == 2
    assert prune.pruner.settings == {"keep": 0.3}
    assert recipe.objectives["loss"].weight == 1.0
    assert recipe.objectives["loss"].part.name == "loss"
    assert recipe.objectives["second"].part.name == "other_loss"
    assert recipe.objectives["second"].weight == 0.5
    assert recipe.data.settings == {"folder": "", "boxes": 0.05}
    assert recipe.train.lr == 1e-4
    assert recipe.train.betas == (0.9, 0.95)
    assert recipe.train.groups[0].lr == 2e-5
    assert recipe.model.settings["text"] is None


def test_five_mistakes_five_messages(faults):
    bad = GOOD.replace("depth: 4", "dept: 4").replace("name: top", "name: tpo").replace("steps: 10", "steps: ten")
    bad = bad.replace("data: source", "data: sauce").replace("0.5}}", "0.5}}\nobjektives: {}")
    assert faults(bad) == [
        "a.yaml:3:25: model.backbone.dept: backbone 'net' takes no such setting. Did you mean 'depth'? It takes: "
        "depth, stem, prune, size, sizes, rates, mixed, flag, label, limit, odd, name.",
        "a.yaml:3:74: model.backbone.prune[0].pruner: no token pruner is named 'tpo'. Did you mean 'top'? "
        "Registered: top.",
        "a.yaml:6:1: objektives: a recipe has no such section. Did you mean 'objectives'? It has: model, objectives, "
        "data, train, evaluate, run, extends.",
        "a.yaml:7:7: data: no data is named 'sauce'. Did you mean 'source'? Registered: source.",
        "a.yaml:8:16: train.steps: expected whole number at least 1, found 'ten'",
    ]


NET = "model: {{backbone: {{name: net, {}}}}}\nobjectives: {{}}\ndata: source\n"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("depth: 1_000", 1000),
        ("limit: 1e-4", 1e-4),
        ("limit: 3", 3.0),
        ("limit: null", None),
        ("limit: ~", None),
        ("flag: true", True),
        ("label: no", "no"),
        ("label: 007", "007"),
        ("label: 1e-4", "1e-4"),
        ("label: 2020-01-01", "2020-01-01"),
        ("label: 'null'", "null"),
        ("label: ''", ""),
        ("mixed: 3", 3),
        ("mixed: 3.5", 3.5),
        ("mixed: three", "three"),
        ("mixed: '3'", "3"),
        ("odd: 2", 2),
        ("odd: true", True),
        ("odd: x", "x"),
        ("size: [3, 4]", (3, 4)),
        ("sizes: [1, 2, 3]", (1, 2, 3)),
        ("rates: {a: 1, b: 1e2}", {"a": 1.0, "b": 100.0}),
    ],
)
def test_the_wanted_type_reads_the_text(from_text, setting, value):
    recipe = from_text(NET.format(setting))
    found = recipe.model.settings["backbone"].settings[setting.partition(":")[0]]
    assert found == value
    assert type(found) is type(value)
    again = from_text(dump(recipe))
    assert again.model.settings["backbone"].settings[setting.partition(":")[0]] == value


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("depth: 0", "depth: must be at least 1, but is 0"),
        ("depth: 1.0", "depth: expected whole number at least 1, found '1.0'"),
        ("depth: '4'", "depth: expected whole number at least 1, found '4' in quotes"),
        (
            "depth: null",
            "depth: expected whole number at least 1, found null, which only removes an",
        ),
        ("depth: [4]", "depth: expected whole number at least 1, found a list"),
        ("limit: .nan", "limit: expected number, found '.nan'"),
        ("limit: inf", "limit: expected number, found 'inf'"),
        ("flag: no", "flag: expected true | false, found 'no'"),
        ("flag: True", "flag: expected true | false, found 'True'"),
        ("label: {a: b}", "label: expected text, found a mapping"),
        ("stem: cnv", "stem: 'cnv' is not accepted. Did you mean 'conv'? Accepted: linear, conv."),
        ("size: [1]", "size: expected list of 2: whole number, whole number, found 1 entries"),
        ("sizes: 3", "sizes: expected list of whole number, such as [...]"),
        ("sizes: [a]", "sizes[0]: expected whole number, found 'a'"),
        ("rates: {a: fast}", "rates.a: expected number, found 'fast'"),
        ("rates: 3", "rates: expected mapping of names to number, found '3'"),
        ("mixed: [1]", "mixed: expected whole number or number or text, found a list"),
        ("image_size: 3", "image_size: is filled in at assembly from other parts; a recipe cannot set it"),
        ("prune: [{after_block: 2}]", "prune[0].pruner: is missing: part (TokenPruner)"),
        ("prune: [2]", "prune[0]: expected {after_block, pruner}, found '2'"),
        ("prune: [{after_block: 13, pruner: top}]", "prune[0]: 13 brings bad luck"),
        (
            "prune: [{after_block: 2, pruner: {keep: 0.5}}]",
            "prune[0].pruner: needs the name of a token pruner: ",
        ),
        ("prune: [{after_block: 2, pruner: {name: top, keep: 1.5}}]", "keep: must be between 0 and 1, but is 1.5"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(faults, setting, sentence):
    (problem,) = faults(NET.format(setting))
    assert problem.startswith("a.yaml:1:")
    assert f"model.backbone.{setting.partition(':')[0]}" in problem
    assert sentence in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a.yaml:1:1: is empty"),
        ("- 1", "a.yaml:1:1: a recipe is a mapping such as 'train: {steps: 100}'"),
        (
            "a: [",
            "a.yaml:1:5: not YAML: expected the node content, but found '<stream end>', while parsing a flow node at ",
        ),
        ("a: 1\nb: 2\na: 3", "a.yaml:3:1: a: is given twice; first at a.yaml:1:1"),
        ("a: {b: 1,\n  b: 2}", "a.yaml:2:3: a.b: is given twice; first at a.yaml:1:5"),
        ("a: &x 1", "a.yaml:1:4: anchor '&x': recipes take none; repeat it"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "a.yaml:1:4: tag 'tag:yaml.org,2002:python/",
        ),
        ("a: !!str 1", "a.yaml:1:4: tag 'tag:yaml.org,2002:str': recipes take none"),
        ("? [a]\n: 1", "a.yaml:1:3: a key must be a plain word"),
        ("a: 1\n---\nb: 2", "a.yaml:2:1: not YAML: but found another document"),
        (b"a: 1\nb: \xff", "a.yaml:2:4: not UTF-8: byte 0xff: invalid start byte"),
        ("a: \x00", r"a.yaml:1:4: not YAML: the character '\x00' is not allowed"),
        ("[" * 5000 + "]" * 5000, "a.yaml:1:51: nested too deeply: at most 50 levels"),
    ],
)
def test_what_is_no_recipe_is_refused(faults, text, problem):
    found = faults(text)
    assert found[0].startswith(problem)
    assert len(found) == 1


def test_alias_bomb_is_refused_unexpanded(faults):
    levels = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    found = faults("a: &a [x, x]\n" + levels)
    assert all("recipes take none" in problem for problem in found)


def test_missing_sections_and_null_objectives(faults):
    assert faults("train: {}\nobjectives: {loss: }") == [
        "a.yaml:1:1: model: is missing; a file without it is only for others, by extends",
        "a.yaml:1:1: data: is missing; a file without it is only for others, by extends",
        "a.yaml:2:14: objectives.loss: is null, and there is no inherited objective to remove. Its defaults: {}",
    ]


def test_missing_file_has_a_near_match(catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pretrain.yaml").write_text(GOOD)
    for path, said in {
        "pretrian.yaml": "pretrian.yaml: no such file. Did you mean 'pretrain.yaml'?",
        "zzz.yaml": "zzz.yaml: no such file. Recipes in that folder: pretrain.yaml.",
        "no/where.yaml": "no/where.yaml: no such file. There is no folder 'no'.",
    }.items():
        with pytest.raises(RecipeErrors) as caught:
            read(path, (), catalog)
        assert str(caught.value) == said


def test_extends_merges_mappings_and_replaces_the_rest(catalog, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "good.yaml").write_text(GOOD)
    child = tmp_path / "deep" / "child.yaml"
    child.write_text(
        "extends: ../good.yaml\nobjectives: {second: null, loss: {weight: 2}}\n"
        "model: {backbone: {prune: []}, heads: {image: {width: 9}}}\ndata: {boxes: 0.2}\ntrain: {lr: null, steps: 20}\n"
    )
    recipe = read(str(child), (), catalog)
    assert list(recipe.objectives) == ["loss"]
    assert recipe.objectives["loss"].weight == 2
    assert recipe.model.settings["backbone"].settings["depth"] == 4
    assert recipe.model.settings["backbone"].settings["prune"] == []
    assert recipe.model.settings["heads"]["image"].settings == {"width": 9}
    assert recipe.data.settings["boxes"] == 0.2  # data was a bare name
    assert recipe.train.steps == 20
    assert recipe.train.lr == 1e-3  # the default again
    assert recipe.train.betas == (0.9, 0.95)


def test_problems_of_an_inherited_line_name_its_file(catalog, tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD.replace("keep: 0.3", "kept: 0.3"))
    (tmp_path / "child.yaml").write_text("extends: base.yaml\ntrain: {steps: 0}\n")
    with pytest.raises(RecipeErrors) as caught:
        read(str(tmp_path / "child.yaml"), (), catalog)
    inherited, own = caught.value.problems
    assert inherited.where == f"{tmp_path / 'base.yaml'}:3:80"
    assert "Did you mean 'keep'?" in inherited.sentence
    assert own.where == f"{tmp_path / 'child.yaml'}:2:16"


def test_extends_in_a_circle_or_nowhere(faults):
    (problem,) = faults("extends: ./a.yaml")
    assert problem == "a.yaml:1:10: extends: goes in a circle: a.yaml extends a.yaml"
    assert faults("extends: b.yaml") == ["a.yaml:1:10: extends: b.yaml: no such file. Recipes in that folder: a.yaml."]
    assert faults("extends: [b]") == ["a.yaml:1:10: extends: expected the name of a recipe file, relative to this one"]


def test_overrides(from_text):
    recipe = from_text(
        GOOD,
        "model.backbone.prune[0].pruner.keep=0.9",
        "objectives.second=null",
        "model.heads.text={name: line, width: 3}",
        "data.folder=a=b",
        "train.betas=[0.5, 0.6]",
        "train.lr=3e-4",
        "run.resume=true",
    )
    assert recipe.model.settings["backbone"].settings["prune"][0].pruner.settings["keep"] == 0.9
    assert list(recipe.objectives) == ["loss"]
    assert recipe.model.settings["heads"]["text"].settings["width"] == 3
    assert recipe.data.settings["folder"] == "a=b"
    assert recipe.train.betas == (0.5, 0.6)
    assert recipe.train.lr == 3e-4
    assert recipe.run.resume is True


def test_the_last_override_wins(from_text):
    assert from_text(GOOD, "train.steps=3", "train.steps=4").train.steps == 4


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.stepz=5", "train.stepz: train takes no such setting. Did you mean 'steps'?"),
        ("train.steps=many", "train.steps: expected whole number at least 1, found 'many'"),
        ("train.steps", "expected path=value, such as train.steps=100"),
        ("=5", "expected path=value"),
        ("model.backbone.prune[3].pruner=top", "[3] is beyond the list's end; it has 1 entries, counted from 0"),
        (
            "model.backbone.prune.pruner=top",
            "prune.pruner: is a list: say which entry, such as [0].pruner",
        ),
        ("train[0]=top", "[0] asks for an entry of a list, and there is no list here"),
        ("train.betas=[1", "not YAML: expected ',' or ']'"),
        ("train.steps=*x", "alias '*x': recipes take none"),
        ("objectives.los=null", "objectives.los: is null, and there is no inherited objective to remove"),
        ("model.backbone.prune[0].pruner=tpo", "prune[0].pruner: no token pruner is named 'tpo'. Did you mean 'top'?"),
        ("trian.steps=5", "trian: a recipe has no such section. Did you mean 'train' or 'run'?"),
    ],
)
def test_wrong_overrides_are_quoted(faults, override, problem):
    found = faults(GOOD, override)
    assert len(found) == 1
    assert found[0].startswith(f"override {override!r}: ")
    assert problem in found[0]


def test_filled_in_recipe_reads_back_to_the_same(from_text):
    recipe = from_text(GOOD)
    text = dump(recipe, "python -m core.run saved.yaml")
    assert text.startswith("# python -m core.run saved.yaml\nmodel:\n")
    again = from_text(text)
    assert plain(again) == plain(recipe)
    assert differences(recipe, again) == []
    assert "depth: 4" in text
    assert "stem: linear" in text
    other = from_text(GOOD, "train.lr=5", "objectives.second=null", "model.backbone.prune[0].pruner.keep=1")
    assert differences(recipe, other) == [
        "model.backbone.prune[0].pruner.keep",
        "objectives.second.name",
        "objectives.second.share",
        "objectives.second.weight",
        "train.lr",
    ]


def test_settings_of_what_is_built(from_text):
    part = from_text(GOOD).model.settings["backbone"].settings["prune"][0].pruner
    assert isinstance(part(dim=3, guide_dim=4), Top)


words = st.sampled_from(["a", "model", "train", "steps", "name", "null", "true", "1e-4", *"[]{}:,"])
junk = st.one_of(st.text(max_size=40), st.lists(words, max_size=12).map(" ".join))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=junk, override=junk)
@example("train: {steps: 5", "model.backbone=")
def test_junk_never_ends_in_a_traceback(from_text, text, override):
    cases = [(text, ()), (GOOD, (override,)), (GOOD, (f"train.{override}",)), (GOOD, (f"model={text}",))]
    for recipe, overrides in cases:
        try:
            from_text(recipe.encode("utf-8", "surrogatepass"), *overrides)
        except RecipeErrors as err:
            assert err.problems  # noqa: PT017


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    label=st.text(st.characters(codec="utf-8", exclude_characters="\x85\ufeff"), max_size=12),
    limit=st.floats(-1e9, 1e9),
)
def test_any_text_and_number_survives_writing(from_text, label, limit):
    text = yaml.safe_dump({"label": label, "limit": limit}, allow_unicode=True, default_flow_style=True, width=9999)
    recipe = from_text(NET.format(text.strip()[1:-1]))
    again = from_text(dump(recipe))
    found = again.model.settings["backbone"].settings
    assert (found["label"], found["limit"]) == (label, limit)


@pytest.mark.parametrize("path", sorted((ROOT / "projects").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_read_and_say_how_to_run_them(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# python -m core.run {path.relative_to(ROOT)}")
    read(str(path), (), discovery.load())


def test_range_annotation_says_its_bounds():
    assert [str(b) for b in (Between(1), Between(None, 2), Between(0, 1))] == [
        "at least 1",
        "at most 2",
        "between 0 and 1",
    ]
