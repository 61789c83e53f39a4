"""Two processes at the same work in turns: Patchbay, and open_clip in an environment of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import peer

HERE = Path(__file__).parent


class Worker:
    """A process that answers one request at a time (serving.py); it computes only while it is asked."""

    def __init__(self, python: str, script: str, folder: Path):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        alone = {**kept, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        self.log = (folder / f"{script}.log").open("a+")
        self.process = subprocess.Popen(
            [python, str(HERE / script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=alone,
            cwd=folder,
        )

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """
        Raises:
            AssertionError: the process died; holds the end of what it said.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps({"verb": verb, **arguments}), file=self.process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as err:
            self.log.seek(0)
            raise AssertionError(self.log.read()[-3000:]) from err
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.log.close()


def ours(folder: Path) -> Worker:
    return Worker(sys.executable, "worker_ours.py", folder)


def theirs(folder: Path) -> Worker:
    return Worker(peer.python(), "worker_peer.py", folder)


def spread(numbers: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"
