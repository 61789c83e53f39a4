"""METEOR and SPICE: pycocoevalcap runs them in Java, so they are measured only where all of it is already there.

METEOR's files come in pycocoevalcap's package. SPICE wants Stanford's CoreNLP models too, which pycocoevalcap would
fetch; nothing is fetched here: SPICE is left out until they lie in its folder ``spice/lib``. Both score captions that
are already cut into tokens. They work in a process of their own, which is ended with all that it started when time is
up, so that no Java outlives a run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

Caption = Sequence[str]

PEER = "pycocoevalcap"
PATIENCE = 1800.0  # seconds for one measure: SPICE parses every caption
FILES = {  # below the package's folder
    "meteor": ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"),
    "spice": (
        "spice/spice-1.0.jar",
        "spice/lib/stanford-corenlp-3.6.0.jar",
        "spice/lib/stanford-corenlp-3.6.0-models.jar",
    ),
}

logger = logging.getLogger("patchbay")


def java_scores(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> dict[str, float]:
    """``meteor`` and ``spice``, from 0 to 1, of those that can be measured here; a failure is logged and left out.

    Args:
        candidates: a caption for each picture, cut into tokens.
        references: of each picture, those that people wrote.
    """
    scores = {}
    for name in available():
        try:
            scores[name] = _score(name, candidates, references)
        except (OSError, ValueError) as error:
            logger.warning("%s is left out of the report: %s", name.upper(), error)
    return scores


def available() -> list[str]:
    """Of METEOR and SPICE those whose files, and Java, are here."""
    spec = importlib.util.find_spec(PEER) if shutil.which("java") else None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return [
        name
        for name, files in FILES.items()
        if any(all(os.path.isfile(os.path.join(folder, file)) for file in files) for folder in folders)
    ]


def _score(name: str, candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> float:
    """By a process of its own.

    Raises:
        ValueError: it failed, or took longer than ``PATIENCE``.
    """
    given = {str(i): [" ".join(caption)] for i, caption in enumerate(candidates)}
    wanted = {str(i): [" ".join(caption) for caption in people] for i, people in enumerate(references)}
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-m", __name__, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=where,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, complaint = process.communicate(json.dumps([wanted, given]), timeout=PATIENCE)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with the Java that it started
            if isinstance(error, subprocess.TimeoutExpired):
                raise ValueError(f"it took longer than {PATIENCE:g} s") from None
            raise
    if process.returncode:
        raise ValueError((complaint.strip().splitlines() or [f"its process ended with {process.returncode}"])[-1])
    score = float(said.split()[-1])  # after what Java may have said
    if not math.isfinite(score):
        raise ValueError(f"it gives {score}")
    return score


def main(name: str) -> None:
    """The other process: captions come as JSON on standard input, the score goes to standard output."""
    wanted, given = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        scorer = getattr(importlib.import_module(f"{PEER}.{name}.{name}"), name.capitalize())()
        score, _ = scorer.compute_score(wanted, given)
    print(float(score))


if __name__ == "__main__":
    main(sys.argv[1])
