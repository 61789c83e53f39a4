"""Distributions with plugins: Patchbay's own modules and the entry points of installed packages. Imports no plugin."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import pathlib
import re
import traceback

from registry import Owner

GROUP = "patchbay.plugins"
NO_AUTOLOAD = "PATCHBAY_NO_AUTOLOAD"
DISTRIBUTION = "patchbay-vl"
HOOK = re.compile(r"^@hookimpl\b", re.MULTILINE)  # above a function of the module


def builtin_modules(package: str) -> list[str]:
    """List the modules of one of Patchbay's packages that implement a hook, by their source: none is imported."""
    folder = pathlib.Path(*importlib.import_module(package).__path__)
    files = (file for file in folder.rglob("*.py") if HOOK.search(file.read_text(encoding="utf-8")))
    return sorted(".".join((package, *file.relative_to(folder).with_suffix("").parts)) for file in files)


def entry_points() -> list[metadata.EntryPoint]:
    """List the entry points of third parties in a fixed order. An editable install that is listed twice counts once."""
    if os.environ.get(NO_AUTOLOAD, "") not in ("", "0"):
        return []
    points = {
        (owner_of(p).distribution, p.name, p.value): p for p in reversed(tuple(metadata.entry_points(group=GROUP)))
    }
    return [points[key] for key in sorted(points)]


def version() -> str:
    """Return the version of Patchbay; "source" in a checkout that is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "source"


def owner_of(point: metadata.EntryPoint) -> Owner:
    """Return the plugin and distribution of an entry point, from package metadata alone."""
    if point.dist is None:
        return Owner(point.name)
    return Owner(point.name, re.sub(r"[-_.]+", "-", point.dist.metadata["Name"]).lower(), point.dist.version)


def describe_error(err: BaseException) -> str:
    """Format an error with its file and line."""
    if isinstance(err, SyntaxError):
        return f"SyntaxError: {err.msg} ({err.filename}:{err.lineno})"
    frames = [frame for frame in traceback.extract_tb(err.__traceback__) if not frame.filename.startswith("<")]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ours = tuple(os.path.join(root, package) for package in ("core", "registry"))
    theirs = [frame for frame in frames if not os.path.abspath(frame.filename).startswith(ours)]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(err).__name__}: {err}{place}"
