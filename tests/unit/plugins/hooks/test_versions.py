"""versions.json: releases, the commit, and plugins of other distributions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch

from plugins.hooks import versions as hook
from registry import distributions


def trainer(folder="", *names):
    plugins = [(name, object()) for name in (f"{distributions.DISTRIBUTION}:itc", *names)]
    return SimpleNamespace(
        hooks=SimpleNamespace(list_name_plugin=lambda: plugins),
        device=torch.device("cpu"),
        precision="bf16",
        folder=str(folder),
    )


def test_own_releases_and_machine():
    found = hook.versions(trainer())
    assert found["patchbay"] == distributions.version()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert (found["device"], found["precision"]) == ("cpu", "bf16")
    assert found["plugins"] == []  # built-in ones have the release above


def test_plugins_of_others_with_their_releases():
    found = hook.versions(trainer("", "torch:tome", "absent-package:a:b", ":local"))
    assert found["plugins"] == [
        {"plugin": "tome", "distribution": "torch", "version": importlib.metadata.version("torch")},
        {"plugin": "a:b", "distribution": "absent-package", "version": ""},
        {"plugin": "local", "distribution": "", "version": ""},
    ]


def test_the_commit_is_a_hash_or_empty():
    assert re.fullmatch(r"|[0-9a-f]{40}", hook.versions(trainer())["commit"])


@pytest.mark.parametrize("error", [OSError("no git"), subprocess.TimeoutExpired("git", 10)])
def test_without_git_the_commit_is_empty(error, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(hook.subprocess, "run", fail)
    assert hook.versions(trainer())["commit"] == ""


def test_the_file_is_written_when_training_starts(tmp_path):
    hook.training_starts(trainer=trainer(tmp_path))
    assert json.loads((tmp_path / "versions.json").read_text()) == hook.versions(trainer())
