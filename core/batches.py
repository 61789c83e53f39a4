"""A run's batches by number, drawn ahead by worker processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from core.kinds import Data
from core.types import Batch


@dataclass(frozen=True)
class Wanted(Dataset[Batch]):
    """Batches ``first`` to ``last`` - 1: a pure function of their number, so workers and resumes change nothing."""

    data: Data
    size: int
    seed: int
    reads: frozenset[str]
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Batch:
        return self.data.batch(self.first + index, size=self.size, seed=self.seed, reads=self.reads)


def load(wanted: Wanted, workers: int, pinned: bool) -> Iterator[Batch]:
    """The batches in order.

    Raises:
        ValueError: what the data raised, in its own words; its cause holds a worker's traceback.
    """
    try:
        yield from DataLoader(
            wanted,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_follow,
            prefetch_factor=4 if workers else None,
            pin_memory=pinned,
            generator=torch.Generator(),  # its own: the global one belongs to the step that asks first
        )
    except ValueError as err:
        said = re.split(r"^[\w.]*Error: ", str(err), flags=re.MULTILINE)
        raise ValueError(said[-1].strip()) from err


def _follow(worker: int) -> None:
    """End a data worker with its run, killed or not: torch's own watch sees the forking process, maybe a server."""

    def watch() -> None:
        if run := multiprocessing.parent_process():
            run.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
