"""A run's batches by number, prepared ahead by worker processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from core.kinds import Data
from core.types import Batch, S


def split_batch(batch: Batch, index: int, count: int) -> Batch:
    """Return part ``index`` of ``count`` parts of a batch and of its regions: consecutive rows, sizes differ by 1.

    Raises:
        ValueError: the batch has fewer regions than parts.
    """
    if count == 1:
        return batch

    def part(whole: S, rows: int) -> S:
        return whole.rows(slice(index * rows // count, (index + 1) * rows // count))

    images, regions = dataclasses.replace(batch, regions=None), batch.regions
    if regions is not None and len(regions.images) < count:
        problem = f"cannot be cut into {count} parts (ranks, train.gradcache_chunks)"
        raise ValueError(f"a batch of {len(regions.images)} regions {problem}")
    cut = regions and part(regions, len(regions.images))
    return dataclasses.replace(part(images, len(batch.images)), regions=cut)


@dataclass(frozen=True)
class StepBatches(Dataset[Batch]):
    """Part ``part`` of ``parts`` of the batches ``first`` to ``last`` - 1.

    Each batch is a pure function of its number, so that workers, ranks and resuming do not change it.
    """

    data: Data
    size: int
    seed: int
    batch_fields: frozenset[str]
    first: int
    last: int
    part: int = 0
    parts: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle through ``patchbay`` where it is loaded, so that a spawned worker finds this core and no other."""
        values = tuple(getattr(self, field.name) for field in dataclasses.fields(self))
        rebuild = getattr(sys.modules.get("patchbay"), "rebuild", None)
        return (rebuild, (StepBatches, values)) if rebuild else (StepBatches, values)

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Batch:
        whole = self.data.batch(self.first + index, size=self.size, seed=self.seed, reads=self.batch_fields)
        return split_batch(whole, self.part, self.parts)


def load(batches: StepBatches, workers: int, pinned: bool) -> Iterator[Batch]:
    """Yield the batches in order.

    Raises:
        ValueError: the data raised it; the same message, without a worker's traceback, which is in the cause.
    """
    try:
        yield from DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_exit_with_parent,
            prefetch_factor=4 if workers else None,
            pin_memory=pinned,
            generator=torch.Generator(),  # not the global one, which each step seeds
        )
    except ValueError as err:
        raise ValueError(re.split(r"^[\w.]*Error: ", str(err), flags=re.MULTILINE)[-1].strip()) from err


def _exit_with_parent(worker: int) -> None:
    """End a data worker with its run: the process that torch watches may be a fork server."""

    def watch() -> None:
        if run := multiprocessing.parent_process():
            run.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
