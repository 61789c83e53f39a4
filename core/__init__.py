"""Public names for plugins, such as ``from core import hookimpl, TokenPruner``. Each is imported at first use."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
from typing import Any


def _public() -> dict[str, str]:
    """Map each public name to its module, as the stub beside this file lists them."""
    with open(f"{os.path.splitext(__file__)[0]}.pyi", encoding="utf-8") as file:
        imports = [node for node in ast.parse(file.read()).body if isinstance(node, ast.ImportFrom)]
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
