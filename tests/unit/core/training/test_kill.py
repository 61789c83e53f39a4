"""SIGKILL at random moments, in truth: a resumed run ends in the same bytes as one that was never stopped.

A server process has torch and the parts imported and forks one child a run, so that a run takes a second.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core.run import run
from registry import distributions

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, which only Linux has")

STEPS, EVERY = 12, 2
RECIPE = f"""\
model:
  backbone: {{name: vit, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, stem: conv, prune: [{{after_block: 1,
  pruner: tpd}}]}}
  text: {{name: bert, layers: 1, embed_dim: 32, num_heads: 2, dropout: 0.1}}
  fusion: {{name: skip_connected, layers: 2, num_heads: 2, dropout: 0.1}}
  heads:
    image: {{name: projection, width: 8}}
    text: {{name: projection, width: 8}}
    temperature: temperature
    match: match
    words: vocabulary
objectives: {{itc_momentum: {{queue: 10, ramp: 4}}, itm: {{}}, mlm: {{}}, pta: {{}}}}
data: {{name: scenes, image_size: 32, train_size: 40, region_batch_size: 4, box_fraction: 0.2}}
train: {{steps: {STEPS}, batch: 4, warmup: 2, precision: fp32, save_every: {EVERY}, log_every: 1}}
run: {{device: cpu, evaluate: false}}
"""
SAME = [
    "model.safetensors",
    *(
        f"checkpoints/step-{step:08d}/{name}.safetensors"
        for step in (STEPS - EVERY, STEPS)
        for name in ("objectives", "optimizer")
    ),
]


def child(recipe: str, folder: str, log: str, method: str, overrides: list[str]) -> None:
    """One run in a process group of its own, with what it says in a file."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, sys.stdout.fileno())
    os.dup2(out, sys.stderr.fileno())
    multiprocessing.set_start_method(method, force=True)
    torch.set_num_threads(1)
    run(recipe, [f"run.folder={folder}", *overrides])


class Lab:
    """Runs of one recipe, begun and killed."""

    def __init__(self, place: Path):
        self.place, self.groups = place, []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pytest", __name__, *distributions.builtin_modules("plugins")])
        self.recipe = place / "small.yaml"
        self.recipe.write_text(RECIPE)
        first = self.start("words", "train.steps=1")  # makes the vocabulary; the children below take it over
        first.join(120)
        began = time.perf_counter()
        first = self.start("whole", "train.workers=1")
        first.join(120)
        assert first.exitcode == 0, self.said("whole")
        self.seconds = time.perf_counter() - began
        self.wanted = self.sums("whole")

    def start(self, name: str, *overrides: str, method: str = "fork") -> Any:
        words = self.place / "words"
        given = [f"data.vocabulary={words}"] if words.exists() else []
        log = str(self.place / f"{name}.log")
        args = (str(self.recipe), str(self.place / name), log, method, [*given, *overrides])
        process = self.context.Process(target=child, args=args)
        process.start()
        self.groups.append(process.pid)
        return process

    def said(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text(errors="replace")

    def sums(self, name: str) -> dict[str, str]:
        return {file: hashlib.sha256((self.place / name / file).read_bytes()).hexdigest() for file in SAME}

    def left(self) -> list[int]:
        """The runs' processes, data workers among them, that still live."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) in self.groups and state not in "ZX":
                found.append(int(stat.parent.name))
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("kill"))
    yield made
    for pid in made.left():
        os.kill(pid, signal.SIGKILL)


# when to kill: after a share of a whole run's time; some milliseconds after a step; as many after a save began
Moment = tuple[str, float, float]


def histories() -> list[tuple[int, list[Moment]]]:
    """Workers and moments, drawn with a fixed seed; later kills of a history hit the resumed run."""
    draw = random.Random(20240229)

    def early() -> Moment:
        return ("share", draw.uniform(0.02, 0.5), 0)

    def step(low: int, high: int) -> Moment:
        return ("step", draw.randrange(low, high), draw.uniform(0, 60))

    def saving(step: int) -> Moment:
        return ("saving", step, draw.uniform(0, 25))

    return [
        (1, [early()]),
        (2, [early(), early()]),
        (1, [step(1, 12)]),
        (2, [step(1, 6), step(7, 12)]),
        (1, [saving(2), saving(6)]),
        (2, [saving(12)]),
        (1, [early(), step(3, 8)]),
        (2, [early(), saving(12)]),
    ]


def due(moment: Moment, folder: Path, whole: float) -> Callable[[], bool]:
    """Whether the run in the folder, begun just now, has come to the moment."""
    kind, number, _ = moment
    began, since = time.perf_counter(), time.time()

    def logged(step: float) -> bool:
        try:
            lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
            return bool(lines) and lines[-1].endswith("\n") and json.loads(lines[-1])["step"] >= step
        except FileNotFoundError:
            return False

    if kind == "share":  # or shortly before the end, should this run be much faster than the one that was timed
        return lambda: time.perf_counter() - began >= number * whole or logged(STEPS - 2)
    if kind == "step":
        return lambda: logged(number)

    def saving() -> bool:
        try:
            return (folder / f"checkpoints/writing-{int(number):08d}").stat().st_mtime >= since - 0.05
        except FileNotFoundError:
            return False

    return saving


def kill_at(process: Any, moment: Moment, folder: Path, whole: float) -> None:
    come = due(moment, folder, whole)
    patience = time.perf_counter() + 60
    while not come():
        assert time.perf_counter() < patience, f"the run never came to {moment}"
        if not process.is_alive():
            break
        time.sleep(0.0005)
    time.sleep(moment[2] / 1000)
    process.kill()
    process.join(30)


def name_of(history: tuple[int, list[Moment]]) -> str:
    workers, moments = history
    return f"{workers}-" + "-".join(f"{kind}{number:.2g}" for kind, number, _ in moments)


def test_there_are_ten_kills():
    assert sum(len(moments) for _, moments in histories()) >= 10


@pytest.mark.parametrize("history", histories(), ids=name_of)
def test_killed_and_resumed_is_never_stopped(lab, history):
    workers, moments = history
    name = name_of(history)
    folder, settings = lab.place / name, [f"train.workers={workers}", "run.resume=true"]
    for moment in moments:
        process = lab.start(name, *settings)
        kill_at(process, moment, folder, lab.seconds)
        assert process.exitcode == -signal.SIGKILL, f"ended before {moment}: {lab.said(name)}"
    process = lab.start(name, *settings)
    process.join(60)
    assert process.exitcode == 0, lab.said(name)
    assert lab.sums(name) == lab.wanted
    assert "from step " in lab.said(name)
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    whole = {str(path.relative_to(lab.place / "whole")) for path in (lab.place / "whole").rglob("*")}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == whole, "something was left lying about"


def test_killed_runs_leave_no_data_workers(lab):
    """Nor does one whose workers a server forks, Python 3.14's way: for torch's own watch they are then no orphans."""
    process = lab.start("served", "train.workers=1", method="forkserver")
    kill_at(process, ("step", 1, 0), lab.place / "served", lab.seconds)
    assert process.exitcode == -signal.SIGKILL, lab.said("served")
    patience = time.perf_counter() + 20
    while lab.left() and time.perf_counter() < patience:
        time.sleep(0.1)
    assert not lab.left()
