"""The recipe reader: what is read can be written, overrides are edits, every text is read or refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from core.kinds import Backbone
from core.recipe import RecipeErrors, differences, dump, plain
from core.recipe.validation import Reader
from properties.drawing import PROFILE, free_settings, part_settings, setting
from properties.recipes import CATALOG, PARTS, RECIPES, edited, leaves, node, read_tree
from registry.part import Part


def outcome(content: Any, *overrides: str) -> Any:
    """The filled-in recipe, or the set of its problems without their places."""
    try:
        return plain(read_tree(content, *overrides))
    except RecipeErrors as err:
        return {(problem.path, problem.sentence) for problem in err.problems}


def contains(whole: Any, drawn: Any) -> bool:
    """Test that a filled-in recipe contains all that was drawn."""
    if isinstance(drawn, dict):
        return all(key in whole and contains(whole[key], value) for key, value in drawn.items())
    if isinstance(drawn, list):
        return len(whole) == len(drawn) and all(map(contains, whole, drawn))
    return bool(whole == drawn or (isinstance(whole, dict) and whole.get("name") == drawn))


@PROFILE
@given(tree=RECIPES)
def test_what_is_read_can_be_written_and_read_again(folder, tree):
    recipe = read_tree(tree)
    assert contains(plain(recipe), tree)
    text = dump(recipe, "python -m core.run a.yaml")
    again = read_tree(text)
    assert plain(again) == plain(recipe)
    assert dump(again, "python -m core.run a.yaml") == text
    assert differences(recipe, again) == []


@settings(PROFILE, max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize(("base", "name"), PARTS)
def test_every_setting_of_every_part_is_kept(base, name, data):
    cls = CATALOG.registries[base][name].cls
    drawn = data.draw(part_settings(CATALOG, cls))
    reader = Reader(CATALOG)
    chosen = reader.part(node({"name": name, **drawn}), base, "model.x")
    assert not reader.problems
    assert isinstance(chosen, Part)
    assert contains(plain(chosen), drawn)
    assert set(chosen.settings) == set(free_settings(cls))
    again = reader.part(node(plain(chosen)), base, "model.x")
    assert plain(again) == plain(chosen)


@settings(PROFILE, max_examples=60)
@given(tree=RECIPES, data=st.data())
def test_an_override_is_an_edit_of_the_file(folder, tree, data):
    whole = plain(read_tree(tree))
    path = data.draw(st.sampled_from(leaves(whole)), "path")
    value = data.draw(st.sampled_from([None, True, 0, 3, 0.5, "x", "vit", [], [1, 2]]), "value")
    text = "null" if value is None else yaml.safe_dump(value, default_flow_style=True).partition("\n")[0]
    after = outcome(edited(whole, path, value))
    assert outcome(whole, f"{path}={text}") == after
    if isinstance(after, dict):
        changed = differences(read_tree(whole), read_tree(whole, f"{path}={text}"))
        assert all(place.startswith((path, path.rpartition(".name")[0])) for place in changed)


@PROFILE
@given(tree=RECIPES, data=st.data())
def test_an_inherited_recipe_is_edited_by_the_one_that_extends_it(folder, tree, data):
    whole = plain(read_tree(tree))
    path = data.draw(st.sampled_from([leaf for leaf in leaves(whole) if "[" not in leaf]), "path")
    value = data.draw(st.sampled_from([None, False, 7, 0.25, "x", [2]]), "value")
    (folder / "base.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    child: Any = value
    for step in reversed(path.split(".")):
        child = {step: child}
    expected = outcome(edited(whole, path, value))
    assert outcome({"extends": "base.yaml", **child}) == expected


@PROFILE
@given(data=st.data())
def test_a_drawn_value_fits_its_annotation(data):
    """The strategies themselves: none draws what the reader refuses."""
    hint = free_settings(CATALOG.registries[Backbone]["vit"].cls)[data.draw(st.sampled_from(["prune", "mlp", "stem"]))][
        0
    ]
    reader = Reader(CATALOG)
    reader.value(node(data.draw(setting(CATALOG, hint))), hint, "x")
    assert not reader.problems
