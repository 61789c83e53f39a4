"""Ranks, device and precision of a run, and the capabilities of the processor, queried once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from registry import terminal

logger = logging.getLogger("patchbay")
T = TypeVar("T")


def _cpu_has_bf16() -> bool:
    # cpuid alone would miss ONEDNN_MAX_CPU_ISA; oneDNN alone also accepts AVX512 without BF16, where it emulates
    try:
        return bool(torch.cpu._is_avx512_bf16_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # another architecture, or a torch without oneDNN
        return False


CPU_HAS_BF16 = _cpu_has_bf16()  # at import, because torch.jit.trace, used for counting MACs, cannot trace the call


def has_native_bf16(device: torch.device) -> bool:
    """Return True if ``device`` multiplies bf16 with instructions of its own, hence faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and CPU_HAS_BF16


def pick_device(name: str) -> torch.device:
    """Pick a device by name; ``auto`` is the accelerator if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.autocast(torch.empty(0, device=name).device.type, enabled=False)  # fails where nothing can be trained
        return torch.device(name)
    except (RuntimeError, AssertionError) as err:  # a torch built without CUDA asserts
        raise ValueError(f"run.device: {name!r} is no device here: {str(err).splitlines()[0]}") from None


def pick_precision(name: str, device: torch.device) -> str:
    """Pick "fp32" or "bf16" by name; ``auto`` is bf16 if the device multiplies it natively, else fp32."""
    if name == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    if name == "bf16" and device.type == "cpu" and not has_native_bf16(device):
        _warn_of_emulation()
    return name


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bf16 for precision "bf16"; none for "fp32", also inside another autocast."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@cache
def _warn_of_emulation() -> None:
    logger.warning("precision bf16: this CPU has no bf16 instructions, so products are emulated, much slower than fp32")


def init_distributed() -> None:
    """Join the ranks that torchrun started, each on its own GPU if there are GPUs; rank 0 alone prints."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group()  # gloo for tensors on the CPU, NCCL for those on a GPU
        if rank():
            terminal.discard_stdout()


def destroy_distributed() -> None:
    if world_size() > 1:
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; rank 0 writes, logs and evaluates."""
    return dist.get_rank() if world_size() > 1 else 0


def broadcast(compute: Callable[[], T]) -> T:
    """Compute a value on rank 0 alone and send it to the other ranks."""
    values: list[Any] = [compute() if rank() == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    value: T = values[0]
    return value


def all_reduce_sum(numbers: list[float]) -> list[float]:
    """Sum each number over ranks; on the CPU, so that no rank waits for a GPU."""
    sums = torch.tensor(numbers, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(sums)
    return sums.tolist()


def all_reduce_mean(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average each scalar over ranks."""
    if world_size() == 1 or not named:
        return named
    sums = torch.stack([scalar.float() for scalar in named.values()])
    dist.all_reduce(sums)
    return dict(zip(named, (sums / world_size()).unbind(), strict=True))
