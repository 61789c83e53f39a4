"""Patchbay's core. ``from core import hookimpl, TokenPruner`` is what a third party needs; torch loads only then."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.blocks import Cues, run_blocks
    from core.evaluation import Evaluation
    from core.hookspecs import hookimpl
    from core.kinds import Backbone, Data, Decoder, Fusion, Head, Objective, Pooler, TextEncoder, Tokenizer, TokenPruner
    from core.loading import Held, load
    from core.model import Model, Objectives, Step
    from core.part import Between, Count, Filled, Natural, Part, PartError, Positive, Share
    from core.types import Batch, Example, Fused, Masked, Prefixed, Region, Regions, Text, Tokens

_HOME = {
    "core.blocks": ("Cues", "run_blocks"),
    "core.evaluation": ("Evaluation",),
    "core.loading": ("Held", "load"),
    "core.hookspecs": ("hookimpl",),
    "core.kinds": (
        "Backbone",
        "Data",
        "Decoder",
        "Fusion",
        "Head",
        "Objective",
        "Pooler",
        "TextEncoder",
        "TokenPruner",
        "Tokenizer",
    ),
    "core.model": ("Model", "Objectives", "Step"),
    "core.part": ("Between", "Count", "Filled", "Natural", "Part", "PartError", "Positive", "Share"),
    "core.types": ("Batch", "Example", "Fused", "Masked", "Prefixed", "Region", "Regions", "Text", "Tokens"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Backbone",
    "Batch",
    "Between",
    "Count",
    "Cues",
    "Data",
    "Decoder",
    "Evaluation",
    "Example",
    "Filled",
    "Fused",
    "Fusion",
    "Head",
    "Held",
    "Masked",
    "Model",
    "Natural",
    "Objective",
    "Objectives",
    "Part",
    "PartError",
    "Pooler",
    "Positive",
    "Prefixed",
    "Region",
    "Regions",
    "Share",
    "Step",
    "Text",
    "TextEncoder",
    "TokenPruner",
    "Tokenizer",
    "Tokens",
    "hookimpl",
    "load",
    "run_blocks",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(importlib.import_module(_MODULE[name]), name)
    raise AttributeError(f"module 'core' has no attribute {name!r}")


def _check_siblings() -> None:
    """``plugins`` and ``registry`` are common names: make sure that ours are the ones that Python finds.

    Raises:
        ImportError: another package of that name comes first; names its file.
    """
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for name in ("plugins", "registry"):
        spec = importlib.util.find_spec(name)
        won = "nothing" if spec is None else spec.origin or str(list(spec.submodule_search_locations or ()))
        if os.path.realpath(won) != os.path.join(home, name, "__init__.py"):
            raise ImportError(
                f"Patchbay needs the package {name!r} beside {os.path.join(home, 'core')}, but Python found {won}. "
                "Take that file off the path, or run from Patchbay's own folder."
            )


_check_siblings()
