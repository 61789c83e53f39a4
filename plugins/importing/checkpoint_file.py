"""Checkpoints of others: read without running any code of theirs, and taken over tensor by tensor."""

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
    """A file's tensors, and which of them were taken."""

    def __init__(self, file: str, tensors: Mapping[str, Tensor]):
        self.file, self.tensors = file, tensors
        self.left = dict.fromkeys(tensors)  # what nobody has asked for yet, in the file's order

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """How large a tensor is.

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
        """A tensor in full precision.

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
        """How many layers ``prefix.0``, ``prefix.1``, ... there are.

        Raises:
            ValueError: none, or some between them are absent.
        """
        found = {int(m[1]) for name in self.tensors if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
        if not found or max(found) + 1 != len(found):
            held = ", ".join(map(str, sorted(found))) or "none"
            raise ValueError(f"{self.file}: expected layers {prefix}.0, {prefix}.1, ...; it has: {held}")
        return len(found)

    def refuse_left(self, what: str, *harmless: str) -> None:
        """Hold that all was taken, but for names that match one of ``harmless``.

        Raises:
            ValueError: there are others, which might change what the model computes; names them.
        """
        left = [name for name in self.left if not any(re.fullmatch(pattern, name) for pattern in harmless)]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise ValueError(f"{self.file}: has what {what} does not compute: {', '.join(left[:3])}{more}")


def read_tensors(file: str) -> ForeignCheckpoint:
    """A checkpoint's tensors: of a .safetensors file, or of torch's own format with ``weights_only=True``.

    Of {"state_dict": ...}, as trainers write, that part is taken; prefixes of wrappers are stripped.

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
    except Exception as err:  # of many classes, whatever the bytes are taken for
        found = re.search(r"(?:GLOBAL|global) (\S+)", str(err)) if isinstance(err, pickle.UnpicklingError) else None
        if found:
            raise ValueError(f"{file}: refused: it asks for code ({found[1]}), not for tensors alone") from err
        raise ValueError(f"{file}: cannot be read as a checkpoint of torch; is it one, and whole?") from err
