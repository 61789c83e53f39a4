"""Public names for plugins, such as ``from core import hookimpl, TokenPruner``. Each is imported at first use."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the one list of public names: `_public` reads it too
    from core.blocks import run_blocks as run_blocks
    from core.evaluation import Evaluation as Evaluation
    from core.hookspecs import hookimpl as hookimpl
    from core.kinds import Backbone as Backbone
    from core.kinds import Data as Data
    from core.kinds import Decoder as Decoder
    from core.kinds import Fusion as Fusion
    from core.kinds import Head as Head
    from core.kinds import Pooler as Pooler
    from core.kinds import TextEncoder as TextEncoder
    from core.kinds import Tokenizer as Tokenizer
    from core.kinds import TokenPruner as TokenPruner
    from core.loading import load as load
    from core.model import LoadedModel as LoadedModel
    from core.model import Model as Model
    from core.objectives import Objective as Objective
    from core.objectives import Objectives as Objectives
    from core.objectives import Step as Step
    from core.types import Batch as Batch
    from core.types import BlockCues as BlockCues
    from core.types import DataSpec as DataSpec
    from core.types import Example as Example
    from core.types import Fused as Fused
    from core.types import Masked as Masked
    from core.types import Prefixed as Prefixed
    from core.types import Region as Region
    from core.types import Regions as Regions
    from core.types import Text as Text
    from core.types import Tokens as Tokens
    from registry.part import Between as Between
    from registry.part import Count as Count
    from registry.part import Filled as Filled
    from registry.part import Fraction as Fraction
    from registry.part import NonNegativeFloat as NonNegativeFloat
    from registry.part import NonNegativeInt as NonNegativeInt
    from registry.part import Part as Part
    from registry.part import PartError as PartError
    from registry.part import Pretrained as Pretrained
    from registry.part import Vocabulary as Vocabulary


def _public() -> dict[str, str]:
    """Map each public name to its module, as the imports for type checkers above list them."""
    with open(__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_MODULES = _public()
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in (old := importlib.import_module("core.compat.names")).PUBLIC:
        old.warn(f"core.{name}", f"core.{old.PUBLIC[name]}")
        return __getattr__(old.PUBLIC[name])
    raise AttributeError(f"module 'core' has no attribute {name!r}")


def _check_siblings() -> None:
    """Check that Python finds Patchbay's own ``plugins`` and ``registry``, which are common names.

    Raises:
        ImportError: another package of that name comes first.
    """
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for name in ("plugins", "registry"):
        spec = importlib.util.find_spec(name)
        origin = "nothing" if spec is None else spec.origin or str(list(spec.submodule_search_locations or ()))
        if os.path.realpath(origin) != os.path.join(home, name, "__init__.py"):
            raise ImportError(
                f"Patchbay needs its own package {os.path.join(home, name)}, but Python found {origin}. "
                "Import patchbay first: it loads its own packages."
            )


_check_siblings()
