"""open_clip in an environment of its own, made when a test or a benchmark first asks for it.

``python()`` is the path of an interpreter that imports open_clip_torch 3.3.0 with the transformers that its captions
need, and torch as it is installed here; ``run(source, *arguments)`` runs a script there and returns what it prints.
Both skip the test with the reason where pip cannot install. The environment is kept in a folder named by its versions
below ``~/.cache/patchbay/peers``, or below $PATCHBAY_PEERS.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

WANTED = ("open_clip_torch==3.3.0", "transformers>=4.49,<4.50", "huggingface_hub<1")
MINUTES = 10  # for pip


@functools.cache
def python() -> str:
    """The peer's interpreter; skips where it cannot be made."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    said = "\n".join([*WANTED, sys.version, torch.__version__, *packages])
    name = f"open_clip-3.3.0-torch-{torch.__version__}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    root = Path(os.environ.get("PATCHBAY_PEERS") or Path.home() / ".cache" / "patchbay" / "peers")
    root.mkdir(parents=True, exist_ok=True)
    folder, ready = root / name, root / f"{name}.ready"
    with open(root / f"{name}.lock", "w") as lock:  # two runs at once wait for one another
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            fault = _make(folder, packages)
            if fault:
                pytest.skip(f"open_clip's own environment cannot be made: {fault}")
            ready.touch()
    return str(folder / "bin" / "python")


def _make(folder: Path, packages: list[str]) -> str:
    """Build it; returns what went wrong, or the empty string."""
    venv.create(folder, with_pip=False)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "beside.pth").write_text("\n".join(packages) + "\n")  # come after its own: torch is not installed twice
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q", *WANTED]
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=60 * MINUTES)
    except (OSError, subprocess.TimeoutExpired) as err:
        return str(err)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "" if done.returncode == 0 else (errors or ["pip failed"])[-1]


def run(source: str, *arguments: str, folder: Path | None = None, threads: int = 2, timeout: float = 600) -> str:
    """Run a script (its text) there, in ``folder``, alone and offline; returns its standard output.

    Raises:
        AssertionError: it failed; holds the end of its standard error.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    alone = {**kept, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [python(), "-c", source, *arguments]
    place = folder or Path(command[0]).parent  # not where this repository's packages would be found first
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=alone, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
