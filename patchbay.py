"""Patchbay under its own name: ``import patchbay`` works in any folder and has the names of ``from core import ...``.

Patchbay consists of the packages ``registry``, ``core`` and ``plugins``. Their names are common, so they are loaded
from the folder of this file, even if other packages of these names come first on ``sys.path``. Imports no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core import *  # noqa: F403

HOME = os.path.dirname(os.path.realpath(__file__))
PACKAGES = ("registry", "core", "plugins")


def _load_packages() -> None:
    """Put the three packages into ``sys.modules``.

    Raises:
        ImportError: another package of that name is loaded already.
    """
    files = {name: os.path.join(HOME, name, "__init__.py") for name in PACKAGES}
    for name in files.keys() & sys.modules.keys():
        module = sys.modules[name]
        other = getattr(module, "__file__", None) or ", ".join(getattr(module, "__path__", ["no file"]))
        if os.path.realpath(other) != files[name]:
            raise ImportError(
                f"Patchbay's package {name!r} is {files[name]}, but {other} is already loaded under that name: "
                "import patchbay before it, or rename it."
            )
    specs = {
        name: importlib.util.spec_from_file_location(name, file)
        for name, file in files.items()
        if name not in sys.modules
    }
    modules = {name: importlib.util.module_from_spec(spec) for name, spec in specs.items() if spec}
    sys.modules.update(modules)  # before any of them runs: core checks that it finds the others
    for name, module in modules.items():
        assert module.__spec__ and module.__spec__.loader, name
        module.__spec__.loader.exec_module(module)


_load_packages()
__all__ = [*importlib.import_module("core").__all__, "main"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("core"), name)
    raise AttributeError(f"module 'patchbay' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of the console script and return its exit status."""
    from core.cli import main

    return main(argv)


def rebuild(cls: type, values: tuple[Any, ...]) -> Any:
    """Unpickle an object. A new process that calls this imports ``patchbay`` before the object's own module."""
    return cls(*values)


if __name__ == "__main__":
    sys.exit(main())
