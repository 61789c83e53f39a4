"""Checkpoints of other libraries: read without running their code, converted tensor by tensor."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.files import paths, read_safetensors
from plugins.importing.config import read_config

PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel, of torch.compile
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")  # entries of training checkpoints with the tensors
OTHER_FORMATS = (".npz", ".h5", ".msgpack", ".onnx", ".gguf", ".tflite", ".pb")  # of JAX, Keras and others
INDEX = ".index.json"  # ends the name of a list of the files among which tensors are divided
FILES = (  # of weights in a folder
    "model.safetensors",
    "open_clip_model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


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
    """Read a checkpoint: a .safetensors file, torch's format with ``weights_only=True``, an index, or their folder.

    If it is {"state_dict": ...} or another of ``WRAPPERS``, that entry is read; prefixes of wrappers (``PREFIXES``) are
    removed.

    Raises:
        ValueError: no such file, damaged, or it holds other than tensors; names it.
    """
    file = _file_in(file) if paths.isdir(file) else file
    if not paths.isfile(file):
        others = [name for name in FILES if paths.isfile(os.path.join(os.path.dirname(file), name))]
        raise ValueError(f"{file}: no such file{f'; its folder has {others[0]}' if others else ''}")
    _refuse_shard(file)
    content = _unwrap(file, _content(file))
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            below = " or ".join(map(repr, WRAPPERS))
            raise ValueError(f"{file}: {name!r} is a {kind}; expected tensors by name, or those below {below}")
        for prefix in PREFIXES:
            name = str(name).removeprefix(prefix)
        tensors[name] = tensor
    return ForeignCheckpoint(file, tensors)


def _file_in(folder: str) -> str:
    """Return the path of a folder's weights.

    Raises:
        ValueError: there are none; names the files that are read.
    """
    for name in FILES:
        if paths.isfile(file := os.path.join(folder, name)):
            return file
    raise ValueError(f"{folder}: has no weights; no such file in it: {', '.join(FILES)}")


def _refuse_shard(file: str) -> None:
    """Check that a file is not one of several among which an index beside it divides a model.

    Raises:
        ValueError: it is; names the index.
    """
    folder, name = os.path.split(file)
    for index in (os.path.join(folder, other) for other in FILES if other.endswith(INDEX)):
        if paths.isfile(index) and name in _shards(index).values():
            raise ValueError(f"{file}: is one of several files of a model; name the index instead: {index}")


def _shards(index: str) -> dict[str, str]:
    """Return the file name of each tensor in an index.

    Raises:
        ValueError: the file is no index; names it.
    """
    shards = read_config(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index}: weight_map is missing; expected the file of each tensor")
    return shards


def _content(file: str) -> Any:
    """Read a file, or all files of an index.

    Raises:
        ValueError: a file is missing or damaged; names it.
    """
    if not file.endswith(INDEX):
        return read_safetensors(file) if file.endswith(".safetensors") else _torch(file)
    shards = _shards(file)
    content: dict[str, Any] = {}
    for shard in dict.fromkeys(shards.values()):
        if not paths.isfile(part := os.path.join(os.path.dirname(file), shard)):
            raise ValueError(f"{part}: no such file; {os.path.basename(file)} lists it")
        content |= _unwrap(part, _content(part))
    lacking = [name for name in shards if name not in content]
    if lacking:
        raise ValueError(f"{file}: lists what its files have not: {', '.join(lacking[:3])}")
    return content


def _unwrap(file: str, content: Any) -> Mapping[Any, Any]:
    """Return the tensors of a training checkpoint, or the content itself.

    Raises:
        ValueError: it is no mapping.
    """
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return dict(content[name])
    if not isinstance(content, Mapping):
        raise ValueError(f"{file}: holds a {type(content).__name__}; expected tensors by name")
    return content


def _torch(file: str) -> Any:
    try:
        return torch.load(paths.get_local_path(file), map_location="cpu", weights_only=True)
    except Exception as err:  # of many classes, by the content of the file
        code = re.search(r"(?:GLOBAL|global) (\S+)", str(err)) if isinstance(err, pickle.UnpicklingError) else None
        if code:
            raise ValueError(f"{file}: refused: it asks for code ({code[1]}), not for tensors alone") from err
        if "TorchScript" in str(err):
            advice = "its code is not run here. Save its tensors: save_file(torch.jit.load(FILE).state_dict(), ...)"
            raise ValueError(f"{file}: a TorchScript archive, as OpenAI's CLIP files are: {advice}") from err
        ending = os.path.splitext(file)[1]
        if ending in OTHER_FORMATS:
            raise ValueError(f"{file}: {ending} is no format of torch; read are .safetensors and torch's") from err
        raise ValueError(f"{file}: cannot be read as a checkpoint of torch; is it one, and whole?") from err
