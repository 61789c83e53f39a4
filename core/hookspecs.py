"""Every hook, in the order of a run's life. An implementation may take fewer arguments than its hook offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from core.evaluation import Evaluation
    from core.kinds import Tokenizer
    from core.model import LoadedModel
    from core.training.trainer import Trainer

PROJECT = "patchbay"  # marks hook functions, so it must be unique among pluggy's users
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register(add: Callable[[str, type], None]) -> None:
    """Offer parts: ``add("tpd", TextAwarePatchDetector)``. The class's base says its kind."""


@hookspec
def commands(add: Callable[[str, str, str], None]) -> None:
    """Offer verbs of the console script: ``add("check", "one line of help", "package.module:main")``.

    ``main(argv)`` returns the exit status. Its module is imported only when the verb is used; the module that holds
    this hook must not import torch.
    """


@hookspec
def settings(add: Callable[[str, type], None]) -> None:
    """Add settings to recipes: ``add("evaluate", RetrievalSettings)``, a frozen dataclass whose fields have defaults.

    The fields become keys of that section, which may be a new one. ``evaluation.settings_for(RetrievalSettings)`` and
    ``trainer.settings_for(...)`` return the values of a run. Keys named in the class variable ``free_on_resume`` (a
    frozenset) may differ when a run is resumed.
    """


@hookspec
def training_starts(trainer: Trainer) -> None:
    """Model, data and optimizer stand; ``trainer.step`` is above 0 after a resume."""


@hookspec
def after_backward(trainer: Trainer) -> None:
    """Gradients are ready and not yet clipped."""


@hookspec
def after_step(trainer: Trainer, losses: dict[str, Tensor]) -> None:
    """The optimizer has stepped. ``losses``: name -> unweighted detached scalar, still on the device."""


@hookspec
def checkpoint_saved(trainer: Trainer, folder: str) -> None:
    """A whole checkpoint lies in ``folder``."""


@hookspec
def training_ends(trainer: Trainer) -> None:
    """The last step is done; evaluation follows."""


@hookspec
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Measure the model: one section of report.json by name, ``{"patches": {...}}``, or None for nothing to say."""


@hookspec
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    """Lines of the closing table for the sections that this plugin knows; none for one told beside another."""


@hookspec
def draw(evaluation: Evaluation, report: dict[str, Any], folder: str) -> list[str] | None:
    """Put pictures into ``folder``; returns the paths made."""


@hookspec(firstresult=True)
def read_tokenizer(folder: str, length: int) -> Tokenizer | None:
    """The vocabulary that a run or an import left in ``folder``, texts cut at ``length`` tokens; None: not my kind."""


@hookspec(firstresult=True)
def wrap_loaded_model(loaded: LoadedModel) -> object | None:
    """What ``core.load`` gives: an object with the verbs of a model that is out of its folder."""
