"""A folder that holds a model, as a run leaves it and an import makes it: the model out of it, without any data."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from core import discovery
from core.files import paths, read_text, write_json
from core.kinds import Data, Tokenizer
from core.model import Model
from core.part import Part
from core.recipe import Recipe, read_model
from core.runtime import pick_device, pick_precision
from core.training import checkpoint

RECIPE, SIZES = "recipe.yaml", "sizes.json"
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Sizes:
    """What a model was built to fit, beside its recipe: the content of sizes.json."""

    image_size: int
    text_length: int
    vocabulary: int
    classes: tuple[str, ...] = ()  # names of what a head "classify" tells apart
    crop: bool = True  # False: pictures are squeezed to the square, as training's held-out ones; True: cropped to it

    @classmethod
    def of(cls, data: Data) -> Sizes:
        words, classes = data.tokenizer.vocabulary, tuple(data.classes)
        return cls(data.image_size, data.text_length, words, classes, crop=False)

    @classmethod
    def read(cls, folder: str) -> Sizes:
        """As ``write`` left it; keys of others are passed over.

        Raises:
            ValueError: the file is missing or lacks a number; names it.
        """
        file = os.path.join(folder, SIZES)
        if not paths.isfile(file):
            raise ValueError(f"{file}: no such file. An older run gets it by: patchbay evaluate {folder}")
        try:
            held = json.loads(read_text(file))
            numbers = [held[name] for name in ("image_size", "text_length", "vocabulary")]
            if not all(isinstance(number, int) and number > 0 for number in numbers):
                raise ValueError(f"expected whole numbers above 0, got {numbers}")
            classes, crop = tuple(map(str, held.get("classes", ()))), bool(held.get("crop", True))
            return cls(numbers[0], numbers[1], numbers[2], classes, crop)
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            said = f"lacks {err}" if isinstance(err, KeyError) else f"not the sizes of a model: {err}"
            raise ValueError(f"{file}: {said}") from err

    def write(self, folder: str) -> None:
        write_json(os.path.join(folder, SIZES), dataclasses.asdict(self))

    def build(self, model: Part[Model]) -> Model:
        """The model of these sizes, new."""
        return model(
            vocabulary=self.vocabulary,
            text_length=self.text_length,
            image_size=self.image_size,
            classes=len(self.classes),
        )


@dataclass(frozen=True)
class Held:
    """A model out of its folder, in eval mode on ``device``, with what its use takes."""

    model: Model
    tokenizer: Tokenizer
    sizes: Sizes
    device: torch.device
    precision: str  # "fp32" or "bf16"


def load(folder: str | os.PathLike[str], device: str = "auto", precision: str = "auto") -> Any:
    """The model in a folder, ready for use: what the plugins' ``use`` hook makes of it
    (plugins.inference.predictor.Loaded).

    The folder is all that is read: recipe.yaml's model, sizes.json, the vocabulary, model.safetensors. Files that the
    recipe's parts were started from (their setting ``weights``) and the data may be gone.

    Args:
        folder: of a run or an import.
        device: as torch names it; auto: the accelerator where there is one.
        precision: auto, fp32 or bf16; auto: bf16 where the machine multiplies it faster.

    Raises:
        RecipeErrors, PartError, ValueError: the folder holds no whole model, or one that cannot be built here.
    """
    folder = os.fspath(folder)
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}")
    try:
        place = pick_device(device)
    except ValueError as err:
        raise ValueError(str(err).removeprefix("run.")) from None
    catalog = discovery.load()
    part = read_model(recipe_in(folder), catalog)
    sizes = Sizes.read(folder)
    tokenizer = catalog.hooks.hook.read_tokenizer(folder=folder, length=sizes.text_length)
    model = sizes.build(without_weights(part))
    checkpoint.load_weights(model, folder)
    held = Held(model.eval().to(place), tokenizer, sizes, place, pick_precision(precision, place))
    return catalog.hooks.hook.use(held=held)


def recipe_in(folder: str) -> str:
    """The path of the recipe in a folder.

    Raises:
        ValueError: there is none.
    """
    file = os.path.join(folder, RECIPE)
    if not paths.isfile(file):
        raise ValueError(f"{folder}: holds no run: there is no {RECIPE} in it")
    return file


def reading(recipe: Recipe, folder: str) -> Recipe:
    """The recipe with the vocabulary that lies in a folder, whatever its data would make today."""
    if "vocabulary" not in recipe.data.settings:
        return recipe
    settings = {**recipe.data.settings, "vocabulary": folder}
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, settings=settings))


def beginning(recipe: Recipe) -> Recipe:
    """The recipe with the vocabulary of the folder that it starts from, unless it names one.

    Raises:
        ValueError: there are no weights in the folder.
    """
    own = weights_in(recipe.train.start) and recipe.data.settings.get("vocabulary") == ""
    return reading(recipe, recipe.train.start) if own else recipe


def without_weights(value: Any) -> Any:
    """A part, or what holds parts, whose settings ``weights`` name no file: its tensors come from the folder."""
    if isinstance(value, Part):
        settings = {key: without_weights(setting) for key, setting in value.settings.items()}
        return dataclasses.replace(value, settings=settings | ({"weights": ""} if "weights" in settings else {}))
    if isinstance(value, dict):
        return {key: without_weights(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_weights, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{f.name: without_weights(getattr(value, f.name)) for f in _init(value)})
    return value


def _init(value: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(value) if field.init]


def weights_in(folder: str) -> str:
    """The path of the weights in a folder to start from.

    Raises:
        ValueError: there are none.
    """
    file = os.path.join(folder, checkpoint.WEIGHTS)
    if not paths.isfile(file):
        raise ValueError(f"train.start: {file}: no such file; name the folder of a finished run or an import")
    return file


@torch.no_grad()
def start(model: Model, folder: str) -> str:
    """Take over a folder's tensors of equal name and shape; nothing is resized. Says in words what was not.

    Raises:
        ValueError: there are no weights, or none that fits.
    """
    file = weights_in(folder)
    try:
        held = load_file(file)
    except Exception as err:
        raise ValueError(f"train.start: {file}: cannot be read: {err}") from err
    own, names = model.state_dict(), list(held)
    same = [name for name in names if name in own and held[name].shape == own[name].shape]
    for name in same:
        own[name].copy_(held[name])
    taken = {own[name].data_ptr() for name in same}  # tied tensors are in the file under one of their names
    if not any(held[name].ndim for name in same):  # a scalar fits anywhere
        raise ValueError(f"train.start: {file}: none of its {len(names)} tensors has a name and shape of this model's")
    new = [name for name, tensor in own.items() if tensor.data_ptr() not in taken]
    lines = [f"Started from {folder}: {len(own) - len(new)} of {len(own)} tensors taken over; new: {_counted(new)}"]
    if left := [name for name in names if name not in own]:
        lines.append(f"  in that folder, not in this model: {_counted(left)}")
    if other := [name for name in names if name in own and name not in same]:
        first = f"{other[0]} is {_shape(held[other[0]])} there, {_shape(own[other[0]])} here"
        lines.append(f"  of another shape, so new, for nothing is resized: {_counted(other)}; {first}")
    return "\n".join(lines)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _counted(names: Iterable[str]) -> str:
    """By their first two components: ``decoder.multimodal 12, heads.match 2``."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
