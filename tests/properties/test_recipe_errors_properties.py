"""Errors of recipes: any text is read or refused, every mistake is named with its place and a near match."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from core.recipe import Problem, RecipeErrors, plain
from core.recipe.validation import Reader
from properties.drawing import PROFILE, free_settings
from properties.recipes import CATALOG, FILE, PARTS, RECIPES, edited, leaves, node, read_tree


@settings(PROFILE, max_examples=60)
@given(tree=RECIPES, data=st.data())
def test_every_mistake_is_reported(folder, tree, data):
    """A list in a list is no value of any setting. Where a part has no name, its settings are not looked into."""
    whole = plain(read_tree(tree))
    places = [leaf for leaf in leaves(whole) if not leaf.endswith("name")]
    wrong = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=4, unique=True), "wrong")
    for path in wrong:
        whole = edited(whole, path, [[]])
    with pytest.raises(RecipeErrors) as caught:
        read_tree(whole)
    paths = [problem.path for problem in caught.value.problems]
    assert all(any(path.startswith(place) for path in paths) for place in wrong)
    assert len(paths) == len(wrong)


WORDS = ["a", "model", "train", "steps", "name", "null", "extends", "1e-4", "<<", "---", "...", "!<", "[0]", "*a"]
SIGNS = ["%YAML 1.1", "!!str ", "&a ", ": ", "- ", "? ", "| ", "> ", "\\x41", "\n  ", *"{}[],~=.#'\"\ud800"]
SIGNS += ['"\\U00110000"', '"\\uD800"']
SPACE = [*"\n\t\0\x85\u2028\ufeff"]
TOKENS = st.sampled_from([*WORDS, *SIGNS, *SPACE])
JUNK = st.text(max_size=30) | st.lists(TOKENS, max_size=12).map("".join)


def refused(text: str, *overrides: str) -> list[Problem]:
    """Problems of a file; any exception but RecipeErrors passes through and fails the test."""
    try:
        read_tree(text, *overrides)
    except RecipeErrors as err:
        assert err.problems  # noqa: PT017
        return err.problems
    return []


@settings(PROFILE, max_examples=300)
@given(text=JUNK)
@example('a: "\\UFFFFFFFF"')
@example('a: "\\U00110000"')
@example("%YAML 1." + "9" * 5000 + "\n---\na: 1")
@example("%TAG ! !%ff")
@example('extends: "\\0/x"')
@example('extends: "\\ud800"')
def test_any_text_is_refused_with_its_place(folder, text):
    lines = len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text))
    problems = refused(text)
    assert problems
    for problem in problems:
        place = re.match(rf"{FILE}:(\d+):(\d+)(: |$)", str(problem))
        assert place, problem
        assert 1 <= int(place[1]) <= lines + 1
        assert int(place[2]) >= 1


@settings(PROFILE, max_examples=150)
@given(tree=RECIPES, data=st.data())
def test_a_damaged_recipe_is_read_or_refused_with_its_place(folder, tree, data):
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    start = data.draw(st.integers(0, len(text)), "start")
    stop = data.draw(st.integers(start, min(len(text), start + 12)), "stop")
    for problem in refused(text[:start] + data.draw(JUNK, "junk") + text[stop:]):
        assert re.match(rf"{FILE}:\d+:\d+(: |$)", str(problem)), problem


@settings(PROFILE, max_examples=150)
@given(override=JUNK, path=st.sampled_from(["", "train.", "train.steps=", "model=", "model.backbone.prune[0]."]))
def test_any_override_is_read_or_quoted(folder, override, path):
    tree = {"model": {"backbone": {"name": "vit", "prune": []}}, "objectives": {}, "data": "scenes"}
    for problem in refused(yaml.safe_dump(tree), path + override):
        is_absent = problem.sentence.startswith("is missing; ")  # from the file
        assert problem.where == (f"{FILE}:1:1" if is_absent else f"override {path + override!r}")


def typed(draw: st.DrawFn, word: str) -> str:
    """A word with one letter dropped, doubled, replaced or swapped with the next."""
    place = draw(st.integers(0, len(word) - 2))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    ways = [before + after, before + 2 * letter + after, before + "x" + after, before + after[0] + letter + after[1:]]
    return draw(st.sampled_from(ways))


@st.composite
def misspelt_keys(draw: st.DrawFn) -> tuple[type, str, str, str]:
    """A part, a key that it takes, and the same misspelt."""
    base, name = draw(st.sampled_from([param.values for param in PARTS]))
    keys = [key for key in free_settings(CATALOG.registries[base][name].cls) if len(key) > 2]
    assume(keys)
    key = draw(st.sampled_from(keys))
    return base, name, key, typed(draw, key)


@settings(PROFILE, max_examples=200)
@given(drawn=misspelt_keys())
def test_a_misspelt_key_is_named_with_the_right_one(drawn):
    base, name, key, wrong = drawn
    accepted = free_settings(CATALOG.registries[base][name].cls)
    assume(wrong not in accepted and wrong != "name")
    reader = Reader(CATALOG)
    reader.part(node({"name": name, wrong: 0}), base, "model.x")
    (problem,) = [p for p in reader.problems if "is missing" not in p.sentence]
    assert problem.path == f"model.x.{wrong}"
    assert re.search(rf"Did you mean .*'{key}'.*\? It takes: ", problem.sentence), problem


@st.composite
def misspelt_names(draw: st.DrawFn) -> tuple[type, str, str]:
    base, name = draw(st.sampled_from([param.values for param in PARTS]))
    return base, name, typed(draw, name)


@settings(PROFILE, max_examples=100)
@given(drawn=misspelt_names())
def test_a_misspelt_part_is_named_with_the_right_one(drawn):
    base, name, wrong = drawn
    assume(wrong not in CATALOG.registries[base])
    reader = Reader(CATALOG)
    reader.part(node(wrong), base, "model.x")
    (problem,) = reader.problems
    assert problem.where == f"{FILE}:1:1"
    assert f"'{name}'" in problem.sentence.partition("Registered")[0]
