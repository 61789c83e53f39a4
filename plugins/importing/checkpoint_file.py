"""Checkpoints of other libraries: read without running their code, converted tensor by tensor."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.files import paths, read_safetensors

PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel, of torch.compile


class ForeignCheckpoint:
    """The tensors of a file, and the names of those not taken yet."""

    def __init__(self, file: str, tensors: Mapping[str, Tensor]):
        self.file, self.tensors = file, tensors
        self.left = dict.fromkeys(tensors)  # names not taken yet, in the file's order

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            ValueError: it is absent, or has another number of axes; names file and tensor.
        """
        if name not in self.tensors:
            raise ValueError(f"{self.file}: has no tensor {name!r}")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != axes:
            raise ValueError(f"{self.file}: {name!r} has the shape {shape}; expected {axes} axes")
        return shape

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of ``shape`` (any shape) in float32 and mark it as taken.

        Raises:
            ValueError: it is absent, or of another shape; names file, tensor and the shape wanted.
        """
        if name not in self.tensors:
            raise ValueError(f"{self.file}: has no tensor {name!r}; wanted is one of shape {shape}")
        tensor = self.tensors[name]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{self.file}: {name!r} has the shape {tuple(tensor.shape)}; wanted is {shape}")
        self.left.pop(name, None)
        return tensor.float().contiguous()

    def layers(self, prefix: str) -> int:
        """Count the layers ``prefix.0``, ``prefix.1``, ...

        Raises:
            ValueError: there are none, or some are missing.
        """
        numbers = {int(m[1]) for name in self.tensors if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
        if not numbers or max(numbers) + 1 != len(numbers):
            present = ", ".join(map(str, sorted(numbers))) or "none"
            raise ValueError(f"{self.file}: expected layers {prefix}.0, {prefix}.1, ...; it has: {present}")
        return len(numbers)

    def refuse_left(self, what: str, *harmless: str) -> None:
        """Check that all tensors were taken, except those whose names match one of ``harmless``.

        Raises:
            ValueError: there are others, which may change the model's outputs; names them.
        """
        left = [name for name in self.left if not any(re.fullmatch(pattern, name) for pattern in harmless)]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise ValueError(f"{self.file}: has what {what} does not compute: {', '.join(left[:3])}{more}")


def read_tensors(file: str) -> ForeignCheckpoint:
    """Read a checkpoint: a .safetensors file, or torch's format with ``weights_only=True``.

    If it is {"state_dict": ...}, that entry is read; prefixes of wrappers (``PREFIXES``) are removed.

    Raises:
        ValueError: no such file, damaged, or it holds other than tensors; names it.
    """
    if not paths.isfile(file):
        raise ValueError(f"{file}: no such file")
    content = read_safetensors(file) if file.endswith(".safetensors") else _torch(file)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{file}: holds a {type(content).__name__}; expected tensors by name")
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise ValueError(f"{file}: {name!r} is a {kind}; expected tensors by name, or those below 'state_dict'")
        for prefix in PREFIXES:
            name = str(name).removeprefix(prefix)
        tensors[name] = tensor
    return ForeignCheckpoint(file, tensors)


def _torch(file: str) -> Any:
    try:
        return torch.load(paths.get_local_path(file), map_location="cpu", weights_only=True)
    except Exception as err:  # of many classes, by the content of the file
        code = re.search(r"(?:GLOBAL|global) (\S+)", str(err)) if isinstance(err, pickle.UnpicklingError) else None
        if code:
            raise ValueError(f"{file}: refused: it asks for code ({code[1]}), not for tensors alone") from err
        raise ValueError(f"{file}: cannot be read as a checkpoint of torch; is it one, and whole?") from err
