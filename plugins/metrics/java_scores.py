"""METEOR and SPICE, which pycocoevalcap computes in Java. They are reported only if all of it is installed.

METEOR's files are part of pycocoevalcap. SPICE also needs Stanford's CoreNLP models, which pycocoevalcap would
download. Nothing is downloaded here: SPICE is skipped unless they are in its folder ``spice/lib``. Both score tokenized
captions. They run in a separate process, which is killed with its children at the time limit, so no Java process
outlives a run.
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
TIMEOUT_SECONDS = 1800.0  # for one metric: SPICE parses every caption
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
    """Compute ``meteor`` and ``spice``, from 0 to 1, if they are installed; a failure is logged and skipped.

    Args:
        candidates: a tokenized caption for each image.
        references: the tokenized reference captions of each image.
    """
    scores = {}
    for name in available():
        try:
            scores[name] = _score(name, candidates, references)
        except (OSError, ValueError) as error:
            logger.warning("%s is left out of the report: %s", name.upper(), error)
    return scores


def available() -> list[str]:
    """List the metrics whose files, and Java, are installed."""
    spec = importlib.util.find_spec(PEER) if shutil.which("java") else None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return [
        name
        for name, files in FILES.items()
        if any(all(os.path.isfile(os.path.join(folder, file)) for file in files) for folder in folders)
    ]


def _score(name: str, candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> float:
    """Compute one metric in a separate process.

    Raises:
        ValueError: it failed, or took longer than ``TIMEOUT_SECONDS``.
    """
    given = {str(i): [" ".join(caption)] for i, caption in enumerate(candidates)}
    expected = {str(i): [" ".join(caption) for caption in people] for i, people in enumerate(references)}
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
            output, errors = process.communicate(json.dumps([expected, given]), timeout=TIMEOUT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with the Java that it started
            if isinstance(error, subprocess.TimeoutExpired):
                raise ValueError(f"it took longer than {TIMEOUT_SECONDS:g} s") from None
            raise
    if process.returncode:
        raise ValueError((errors.strip().splitlines() or [f"its process ended with {process.returncode}"])[-1])
    score = float(output.split()[-1])  # Java may print before it
    if not math.isfinite(score):
        raise ValueError(f"it gives {score}")
    return score


def main(name: str) -> None:
    """Read captions as JSON from standard input, print the score to standard output; run in the other process."""
    expected, given = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        scorer = getattr(importlib.import_module(f"{PEER}.{name}.{name}"), name.capitalize())()
        score, _ = scorer.compute_score(expected, given)
    print(float(score))


if __name__ == "__main__":
    main(sys.argv[1])
