"""The processes that train one model together, as torchrun starts them; alone, there is one."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


def init_distributed() -> None:
    """Meet the others that torchrun started; each gets its own GPU where there are GPUs, and only the first is heard
    on standard output."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group()  # gloo for tensors on the CPU, NCCL for those on a GPU
        if rank():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def destroy_distributed() -> None:
    if world_size() > 1:
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 is the one that writes, logs and evaluates."""
    return dist.get_rank() if world_size() > 1 else 0


def broadcast_bool(answer: Callable[[], bool]) -> bool:
    """What the first says; the others do not ask."""
    said = [float(answer())] if rank() == 0 else [0.0]
    return bool(all_reduce_sum(said)[0])


def all_reduce_sum(numbers: list[float]) -> list[float]:
    """The sum over ranks of each number; none waits for a GPU."""
    held = torch.tensor(numbers, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(held)
    return held.tolist()


def all_reduce_mean(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over ranks of each scalar."""
    if world_size() == 1 or not named:
        return named
    held = torch.stack([scalar.float() for scalar in named.values()])
    dist.all_reduce(held)
    return dict(zip(named, (held / world_size()).unbind(), strict=True))


def pick_device(name: str) -> torch.device:
    """``auto``: the accelerator where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.autocast(torch.empty(0, device=name).device.type, enabled=False)  # there, and fit to train on
        return torch.device(name)
    except (RuntimeError, AssertionError) as err:  # a torch built without CUDA asserts
        raise ValueError(f"run.device: {name!r} is no device here: {str(err).splitlines()[0]}") from None


def pick_precision(name: str, device: torch.device) -> str:
    """``auto``: bf16 where the machine multiplies it faster than fp32, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"
