"""Recipe files: Patchbay's own recipes by name, suggestions for a missing file, and problems with their places."""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry import near

FAILED = " Plugins that failed to load: "


@dataclass(frozen=True)
class Problem:
    """One problem of a recipe, printed ``file:line:col: path: sentence``."""

    where: str  # "file:line:col", or "override 'path=value'"
    path: str
    sentence: str

    def __str__(self) -> str:
        return ": ".join(piece for piece in (self.where, self.path, self.sentence) if piece)


class RecipeErrors(ValueError):
    """All problems of a recipe at once."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = list(_quoting_once(problems))
        super().__init__("\n".join(map(str, self.problems)))


def _quoting_once(problems: Sequence[Problem]) -> Iterator[Problem]:
    """Yield problems; the plugins that failed to load stay in the first that quotes them."""
    quoted = False
    for problem in problems:
        sentence, failed, _ = problem.sentence.partition(FAILED)
        yield dataclasses.replace(problem, sentence=sentence) if quoted and failed else problem
        quoted = quoted or bool(failed)


def recipe_folder() -> str:
    """Return the folder of Patchbay's own recipes: part of core in a wheel, ``projects`` in a checkout."""
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    packaged = os.path.join(root, "core", "recipes")
    return packaged if os.path.isdir(packaged) else os.path.join(root, "projects")


def recipe_names() -> list[str]:
    """List the names of Patchbay's own recipes, such as ``copa/pretrain``."""
    files = pathlib.Path(recipe_folder()).rglob("*.yaml")
    return sorted(file.relative_to(recipe_folder()).with_suffix("").as_posix() for file in files)


def recipe_path(name: str) -> str:
    """Return the file of one of Patchbay's recipes by its name. An existing file of that path comes first."""
    if os.path.isfile(name) or name not in recipe_names():
        return name
    return os.path.join(recipe_folder(), *name.split("/")) + ".yaml"


def near_recipe(name: str) -> str:
    """Suggest recipes of Patchbay for a name that is no file; empty for a name that ends like a file."""
    if name.endswith((".yaml", ".yml")):
        return ""
    names = recipe_names()
    return near(name, names) or f" Recipes of Patchbay: {', '.join(names)}."


def near_file(path: str) -> str:
    """Suggest a file of a similar name in the same folder, or list the recipes there."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return "" if os.path.exists(folder) or "://" in folder else f" There is no folder {folder!r}."
    files = [name for name in os.listdir(folder) if name.endswith((".yaml", ".yml"))]
    stems = {os.path.splitext(name)[0]: name for name in files}
    close = difflib.get_close_matches(os.path.splitext(os.path.basename(path))[0], stems, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {os.path.join(os.path.dirname(path), stems[close[0]])!r}?"
    return f" Recipes in that folder: {', '.join(sorted(files)) or 'none'}."
