"""A recipe's model, batch and training step on fake tensors, which have shapes and types and take no memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor

from core.loading import build_model, check_split, with_start_vocabulary
from core.model import Model, ModelSpec
from core.objectives import Objectives, Step
from core.recipe import Recipe
from core.run import assemble
from core.runtime import autocast, pick_device, pick_precision
from core.training.gradients import contrastive_losses, pooled_features
from core.training.optimizer import freeze
from core.types import Batch, DataSpec, Masked, Prefixed, Regions, Text
from plugins.compute import memory, torch_macs
from plugins.compute.fvcore_macs import MacCount, PairInference

Context = AbstractContextManager[Any]


def data_spec(recipe: Recipe) -> DataSpec:
    """Sizes of the recipe's data, with the batch fields that its objectives read.

    Raises:
        PartError, ValueError: the data's settings or files, or ``evaluate.split``, are wrong; says how.
    """
    with suppress(ValueError):  # no weights in the folder: ``check`` reports it as a note
        recipe = with_start_vocabulary(recipe) if recipe.train.init_from else recipe
    reads = frozenset(part for slot in recipe.objectives.values() if slot.weight for part in slot.part.cls.batch_fields)
    try:
        spec = recipe.data.cls.spec(recipe.data.settings, reads)
    except Exception as err:
        raise recipe.data.fault(err) from err
    if spec.splits:
        check_split(spec.splits, recipe.evaluate.split)
    return spec


def full(sizes: DataSpec, size: int, device: torch.device | str = "cpu") -> tuple[Tensor, Text]:
    """Black images (B, 3, H, W) or clips (B, T, 3, H, W), and texts (B, L) of full length; B = ``size``."""
    side, frames = sizes.image_size, (sizes.frames,) if sizes.frames else ()
    images = torch.zeros(size, *frames, 3, side, side, dtype=torch.uint8, device=device)
    ids = torch.zeros(size, sizes.text_length, dtype=torch.long, device=device)
    return images, Text(ids, torch.ones_like(ids, dtype=torch.bool))


@dataclass(frozen=True)
class Cost:
    """MACs of the forward and the backward pass over one batch."""

    forward: int
    backward: int


@dataclass(frozen=True)
class DryRun:
    """A recipe's objectives on fake tensors of the run's device and precision."""

    recipe: Recipe
    sizes: DataSpec
    objectives: Objectives
    device: torch.device
    precision: str
    mode: fake_tensor.FakeTensorMode

    @property
    def model(self) -> Model:
        return self.objectives.model

    @contextmanager
    def fake_mode(self) -> Iterator[None]:
        """Context in which new tensors are fake; shape errors are raised without being logged too."""
        logger = logging.getLogger(fake_tensor.__name__)
        disabled, logger.disabled = logger.disabled, True
        try:
            with self.mode:
                yield
        finally:
            logger.disabled = disabled

    def inputs(self, size: int) -> tuple[Tensor, Text]:
        """Images (B, 3, H, W) and texts (B, L) of ``full`` on the run's device; inside ``fake_mode`` only."""
        return full(self.sizes, size, self.device)

    def batch(self, chunks: int = 1) -> Batch:
        """One chunk of a training batch, all texts, prefixes and suffixes of full length; inside ``fake_mode`` only."""
        size, hidden, device = self.recipe.train.batch // chunks, self.sizes.masked, self.device
        regions = self.sizes.regions // chunks
        images, text = self.inputs(size)
        region_images, region_text = self.inputs(regions)
        places = torch.empty(size, hidden, dtype=torch.long, device=device)
        reads = self.objectives.batch_fields
        absent = torch.zeros(regions, dtype=torch.bool, device=device)
        boxes = torch.empty(regions, 1, 4, device=device)
        return Batch(
            images,
            text,
            Masked(text, places, places, torch.ones(size, hidden, device=device)) if "masked" in reads else None,
            Prefixed(text, text) if "prefixed" in reads else None,
            Regions(region_images, region_text, boxes, absent) if "regions" in reads else None,
            torch.ones(size, len(self.sizes.classes), device=device) if "labels" in reads else None,
            torch.zeros(size, 2, size * chunks, dtype=torch.uint8, device=device) if "truths" in reads else None,
        )

    def pair(self, pruned: bool = True) -> MacCount:
        """MACs of PairInference (fvcore_macs) for one image and one text of full length, by torch's counter."""
        with self.fake_mode():
            if pruned:
                return PairInference(self.model).count(*self.inputs(1), by=torch_macs.count)
            with self.model.unpruned():
                return PairInference(self.model).count(*self.inputs(1), by=torch_macs.count)

    def step(self) -> int:
        """Run all objectives forward and backward, and their hooks after a step, to check shapes.

        Returns:
            bytes kept for the backward pass without parameters: of one of ``train.gradcache_chunks``, or of the
            contrastive losses of all chunks if that is more.
        """
        saved = memory.SavedTensors(self.objectives)
        with self.fake_mode():
            self._pass(self._all, saved.hooks(), nullcontext(), self.recipe.train.gradcache_chunks)
            for _, objective in self.objectives.items():
                objective.after_step(self.model)
            contrasts = self._contrasts() if self.recipe.train.gradcache_chunks > 1 else 0
        return max(saved.bytes, contrasts)

    def _contrasts(self) -> int:
        """Bytes kept by the contrastive losses, computed of all chunks' features together: core.training.gradients."""
        if not any(objective.is_contrastive for _, objective in self.objectives.items()):
            return 0
        saved = memory.SavedTensors(self.objectives)
        batch = self.batch(self.recipe.train.gradcache_chunks)
        with autocast(self.device, self.precision):
            features = pooled_features(Step(self.model, batch))
            image, text = (x.new_empty(self.recipe.train.batch, x.shape[1]).requires_grad_() for x in features)
            with saved.hooks():
                contrastive_losses(self.objectives, self.batch(), image, text)
        return saved.bytes

    def cost(self) -> Cost:
        """MACs of one batch's forward and backward pass; features that losses share count once."""
        return self._cost(self._all)

    def alone(self) -> dict[str, Cost]:
        """MACs of each objective as the only one; features shared with others count in each."""
        return {
            name: self._cost(lambda batch, part=part: part(Step(self.model, batch)))  # type: ignore[misc]
            for name, part in self.objectives.items()
        }

    def _all(self, batch: Batch) -> Tensor:
        """Total loss of all objectives, a scalar."""
        return self.objectives(batch)[0]

    def _cost(self, loss_of: Callable[[Batch], Tensor]) -> Cost:
        forward, backward = torch_macs.counter(), torch_macs.counter()
        with self.fake_mode():
            self._pass(loss_of, forward, backward)
        return Cost(torch_macs.macs(forward), torch_macs.macs(backward))

    def _pass(self, loss_of: Callable[[Batch], Tensor], forward: Context, backward: Context, chunks: int = 1) -> None:
        if "regions" in self.objectives.batch_fields and self.sizes.regions < chunks:
            raise ValueError(f"{self.sizes.regions} regions cannot be cut into train.gradcache_chunks {chunks}")
        batch = self.batch(chunks)
        self.objectives.train()
        with forward, autocast(self.device, self.precision):
            loss = loss_of(batch)
        with backward:
            loss.backward()

    def memory(self, saved: int) -> dict[str, int]:
        """Bytes of a training step: training_memory of plugins.compute.memory with the running mean as a teacher.

        Args:
            saved: bytes kept for the backward pass.

        Raises:
            ValueError: ``train.groups`` matches no parameter.
        """
        freeze(self.objectives, self.recipe.train)
        parts = memory.training_memory(self.objectives, saved, self.recipe.train.optimizer)
        mean = memory.num_bytes(self.model) if self.recipe.train.ema else 0
        return {**parts, "teacher": parts["teacher"] + mean, "total": parts["total"] + mean}


def build_dry_run(recipe: Recipe, sizes: DataSpec) -> DryRun:
    """Build the recipe's parts on the meta device, then give each parameter a fake tensor of the run's device.

    Raises:
        PartError: a part cannot be built, or an objective needs what the model lacks.
        ValueError: this machine lacks the run's device.
    """
    device = pick_device(recipe.run.device)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loaded weights are compared in shape and not copied
            objectives = assemble(recipe, build_model(recipe.model, ModelSpec.of(sizes)))
    except Exception:  # a true error is raised again; a part that reads values when built gets real ones
        objectives = assemble(recipe, build_model(recipe.model, ModelSpec.of(sizes)))
    mode = fake_tensor.FakeTensorMode()
    with mode:
        _replace(objectives, lambda old: torch.empty(old.shape, dtype=old.dtype, device=device))
    return DryRun(recipe, sizes, objectives, device, pick_precision(recipe.train.precision, device), mode)


def zero_model(recipe: Recipe, sizes: DataSpec, folder: str = "") -> Model:
    """The recipe's model on the CPU with expanded zeros for weights; those of ``folder`` are compared in shape."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build_model(recipe.model, ModelSpec.of(sizes), folder)
    except Exception:
        return build_model(recipe.model, ModelSpec.of(sizes), folder)
    _replace(model, lambda old: torch.zeros((), dtype=old.dtype).expand(old.shape))
    return model


def _replace(module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replace every parameter and buffer, of any shape, by ``make`` of it; shared tensors stay shared."""
    replaced: dict[Tensor, Any] = {}

    def new(old: Tensor) -> Any:
        if old not in replaced:
            tensor = make(old)
            replaced[old] = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        return replaced[old]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            tensors.update({name: new(tensor) for name, tensor in tensors.items() if tensor is not None})


def macs(run: DryRun) -> dict[str, Any]:
    """``{total, unpruned, parts, unpruned_parts}`` of one image with one text, by torch's counter."""
    pruned, whole = run.pair(), run.pair(pruned=False)
    return {"total": pruned.total, "unpruned": whole.total, "parts": pruned.parts, "unpruned_parts": whole.parts}
