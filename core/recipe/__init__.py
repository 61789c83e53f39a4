"""Recipes: YAML text to parts that are chosen and checked, not yet built."""

from core.recipe.recipe import SECTIONS, Recipe, Slot, differences, dump, plain, read, read_model
from registry.recipe_files import Problem, RecipeErrors

__all__ = [
    "SECTIONS",
    "Problem",
    "Recipe",
    "RecipeErrors",
    "Slot",
    "differences",
    "dump",
    "plain",
    "read",
    "read_model",
]
