"""One pass over a batch as lazily made features. Letters as in core.types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from core.types import Batch, Fused, Tokens
from registry.part import PartError

if TYPE_CHECKING:
    from core.model import Model


T = TypeVar("T")


class once(Generic[T]):  # noqa: N801  (reads as a decorator)
    """A feature made when first read, then kept: cached_property without the lock that stops torch.compile."""

    def __init__(self, compute: Callable[[Any], T]):
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    @overload
    def __get__(self, owner: None, cls: Any) -> once[T]: ...
    @overload
    def __get__(self, owner: object, cls: Any) -> T: ...
    def __get__(self, owner: object | None, cls: Any = None) -> Any:
        if owner is None:
            return self
        value = self.compute(owner)
        setattr(owner, self.name, value)  # a non-data descriptor: the next read never comes here
        return value


Rows = Tensor | slice


class Step:
    """One pass over one batch. Each feature is computed when first read, and once.

    Args:
        image, text: features computed elsewhere, which replace this step's own.
        num_target_tokens: counted by a caller with the batch on the host, because reading it from a GPU would wait.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        *,
        image: Tokens | None = None,
        text: Tokens | None = None,
        num_target_tokens: int | None = None,
    ):
        self.model, self.batch = model, batch
        if image is not None:
            self.image = image
        if text is not None:
            self.text = text
        if num_target_tokens is not None:
            self.num_target_tokens = num_target_tokens

    @once
    def num_target_tokens(self) -> int:
        """Number of caption tokens to predict, without [CLS]; padding included if the batch is not on the host."""
        mask = self.batch.text.mask[:, 1:]  # (B, L - 1)
        on_host = type(mask) is Tensor and mask.device.type == "cpu"  # fake tensors are of another type
        return int(mask.sum()) if on_host else mask.numel()

    @once
    def trunk(self) -> Tokens:
        """Blocks before the first pruner: independent of the text, shared by all guides."""
        return self.model.trunk(self.batch.images)

    @once
    def text(self) -> Tokens:
        """The whole captions, encoded."""
        return self.model.encode_text(self.batch.text)

    @once
    def decoder_text(self) -> Tokens:
        """The whole captions as the decoder's lower half reads them: the same pass where it is the text encoder."""
        assert self.model.decoder is not None
        return self.text if self.model.text is None else self.model.decoder.encode_text(self.batch.text)

    @once
    def image(self) -> Tokens:
        """The pictures as ITC sees them: guided by the whole caption (paper) or by nothing (leak_free)."""
        whole = self.model.guided and self.model.policy == "paper"
        return self.model.encode_image(self.trunk, self.text.pooled if whole else None)

    def image_for(self, rows: Rows, words: Tokens) -> Tokens:
        """Pictures ``rows`` as one sees them who may read ``words``; a pass of the later blocks under leak_free."""
        if not self.model.guided or self.model.policy == "paper":
            return self.image.rows(rows)
        return self.model.encode_image(self.trunk.rows(rows), words.pooled)

    def fuse(self, rows: Rows, words: Tokens) -> Fused:
        """Pictures ``rows`` fused with ``words``, row by row."""
        assert self.model.fusion is not None
        fused: Fused = self.model.fusion(words, self.image_for(rows, words))
        return fused


class Objective(nn.Module, ABC):
    """One loss. Reads the features that it needs from the step and knows nothing of other objectives."""

    origin: str = ""
    batch_fields: ClassVar[tuple[str, ...]] = ()  # parts of the batch: "masked", "prefixed", "regions", "labels"
    is_contrastive: ClassVar[bool] = (
        False  # True: reads step.image.pooled and step.text.pooled alone, and all rows of them
    )

    def needs(self) -> tuple[str, ...]:
        """Slots of the model: "text", "fusion", "decoder", "heads.match", "scores" (a pruner that scores patches)."""
        return ()

    def loss_denominator(self, batch: Batch) -> float:
        """How many equal things the loss is a mean over, by which parts of a batch weigh: rows. On the host."""
        return len(batch.images)

    def on_model_built(self, model: Model) -> None:
        """Called once after assembly, for an objective that holds a teacher."""

    def after_step(self, model: Model) -> None:
        """Called after each optimizer step, for a teacher that follows the model."""

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""


class Objectives(nn.Module):
    """The losses of a recipe. An objective of weight 0 is left out, so that it costs nothing.

    Raises:
        PartError: an objective needs a slot that the model lacks; all such faults at once.
    """

    ema_model: AveragedModel | None  # running mean of the weights, set by a trainer: saved with all else

    def __init__(self, model: Model, objectives: Mapping[str, Objective], weights: Mapping[str, float]):
        super().__init__()
        self.model = model
        self.weights = {name: weights[name] for name in objectives if weights[name] != 0}
        self.parts = nn.ModuleDict({name: objectives[name] for name in self.weights})
        faults = [
            f"objectives.{name}: {part.origin} needs {_slot(slot)}, which this model lacks"
            for name, part in self.items()
            for slot in part.needs()
            if model.lacks(slot)
        ]
        if faults:
            raise PartError("\n".join(faults))
        for _, part in self.items():
            part.on_model_built(model)

    def items(self) -> list[tuple[str, Objective]]:
        return [(name, part) for name, part in self.parts.items() if isinstance(part, Objective)]

    @property
    def batch_fields(self) -> frozenset[str]:
        """The parts of a batch that these objectives need made."""
        return frozenset(part for _, objective in self.items() for part in objective.batch_fields)

    def forward(
        self, batch: Batch | Step, scales: Mapping[str, float] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses, and each loss unweighted and detached; all scalars.

        Args:
            batch: or a Step that was made of it, with features computed elsewhere.
            scales: factor of each loss; an objective without one is left out. None: 1 for all.
        """
        step = Step(self.model, batch) if isinstance(batch, Batch) else batch
        factors = dict.fromkeys(self.parts, 1.0) if scales is None else scales
        losses = {name: factors[name] * objective(step) for name, objective in self.items() if name in factors}
        total = torch.zeros((), device=step.batch.images.device)
        for name, loss in losses.items():
            total = total + self.weights[name] * loss
        return total, {name: loss.detach() for name, loss in losses.items()}


def _slot(slot: str) -> str:
    return "a pruner that scores patches" if slot == "scores" else f"model.{slot}"
