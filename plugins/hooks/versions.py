"""Write versions.json: the software and device that a run was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from core.files import VERSIONS, write_json
from core.hookspecs import hookimpl
from core.training.trainer import Trainer
from registry import distributions


@hookimpl(tryfirst=True)
def training_starts(trainer: Trainer) -> None:
    write_json(os.path.join(trainer.folder, VERSIONS), versions(trainer))


def versions(trainer: Trainer) -> dict[str, Any]:
    """Return the content of versions.json: releases, machine, and the plugins of other distributions."""
    owners = (name.partition(":") for name, _ in trainer.hooks.list_name_plugin())
    return {
        "patchbay": distributions.version(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": str(trainer.device),
        "precision": trainer.precision,
        "plugins": [
            {"plugin": plugin, "distribution": distribution, "version": _release(distribution)}
            for distribution, _, plugin in owners
            if distribution != distributions.DISTRIBUTION
        ],
    }


def _release(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: a plugin without a distribution
        return ""


def _commit() -> str:
    """Return the commit of the checkout that runs, or the empty string."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
