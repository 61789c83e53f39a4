"""All hooks, in life-cycle order. An implementation may take fewer arguments than its hook offers."""

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
    """Register parts: ``add("tpd", TextAwarePatchDetector)``. The base class determines the kind of part."""


@hookspec
def commands(add: Callable[[str, str, str], None]) -> None:
    """Register commands of the console script: ``add("check", "one line of help", "package.module:main")``.

    ``main(argv)`` returns the exit status. The module that implements this hook must not import torch.
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
    """Called when model, data and optimizer are built; ``trainer.step`` is above 0 after a resume."""


@hookspec
def after_backward(trainer: Trainer) -> None:
    """Called at each step when gradients are complete, before they are clipped."""


@hookspec
def after_step(trainer: Trainer, losses: dict[str, Tensor]) -> None:
    """Called after the optimizer's step. ``losses``: name -> unweighted detached scalar, still on the device."""


@hookspec
def checkpoint_saved(trainer: Trainer, folder: str) -> None:
    """Called when a complete checkpoint is in ``folder``."""


@hookspec
def training_ends(trainer: Trainer) -> None:
    """Called after the last step, before the evaluation."""


@hookspec
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Measure the model: return sections of report.json by name, ``{"patches": {...}}``, or None."""


@hookspec
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    """Return the lines of the final table by section; an empty list hides a section that another one prints."""


@hookspec
def draw(evaluation: Evaluation, report: dict[str, Any], folder: str) -> list[str] | None:
    """Draw images into ``folder`` and return their paths."""


@hookspec
def report_written(hooks: pluggy.PluginManager, report: dict[str, Any], folder: str) -> None:
    """Called when report.json and all images are in ``folder``."""


@hookspec(firstresult=True)
def read_tokenizer(folder: str, length: int) -> Tokenizer | None:
    """Load a folder's tokenizer, for texts of at most ``length`` tokens; None: it has no vocabulary of this kind."""


@hookspec(firstresult=True)
def wrap_loaded_model(loaded: LoadedModel) -> object | None:
    """Return the object that ``core.load`` returns, with methods for inference."""
