"""A worker's side of a benchmark between processes. Runs in the peer's environment too: torch and nothing of ours."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def serve(**verbs: Callable[..., dict[str, Any]]) -> None:
    """Answer requests, a JSON object a line, until there are no more: ``{"verb": NAME, ...its arguments}``."""
    said, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(verbs[request.pop("verb")](**request)), file=said, flush=True)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returned."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def measured(step: Callable[[], float]) -> dict[str, Any]:
    """One step: seconds, loss, and the most bytes resident meanwhile (VmHWM, counted anew; Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    seconds, loss = timed(step)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return {"seconds": seconds, "loss": loss, "peak": int(found[1]) * 1024}


def training_step(
    loss_of: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, bf16: bool
) -> Callable[[], float]:
    """One call: forward, losses, backward, optimizer; gives the loss."""

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step
