"""One pass over a batch as lazily made features. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from torch import Tensor

from core.types import Batch, Fused, Tokens

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


if TYPE_CHECKING:
    from core.model import Model

Rows = Tensor | slice


class Step:
    """One pass over one batch. Each feature is computed when first asked for, and once."""

    def __init__(self, model: Model, batch: Batch):
        self.model, self.batch = model, batch

    @once
    def labelled(self) -> int:
        """How many words of the captions are to be predicted, [CLS] is not; all places where the host cannot see it.

        A trainer, which has the batch on the host first, sets it: to ask the device would wait for it.
        """
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
        return self.model.read(self.batch.text)

    @once
    def words(self) -> Tokens:
        """The whole captions as the decoder's lower half reads them: the same pass where it is the text encoder."""
        assert self.model.decoder is not None
        return self.text if self.model.text is None else self.model.decoder.read(self.batch.text)

    @once
    def image(self) -> Tokens:
        """The pictures as ITC sees them: guided by the whole caption (paper) or by nothing (leak_free)."""
        whole = self.model.guided and self.model.policy == "paper"
        return self.model.look(self.trunk, self.text.pooled if whole else None)

    def view(self, rows: Rows, words: Tokens) -> Tokens:
        """Pictures ``rows`` as one sees them who may read ``words``; a pass of the later blocks under leak_free."""
        if not self.model.guided or self.model.policy == "paper":
            return self.image.rows(rows)
        return self.model.look(self.trunk.rows(rows), words.pooled)

    def fuse(self, rows: Rows, words: Tokens) -> Fused:
        """Pictures ``rows`` fused with ``words``, row by row."""
        assert self.model.fusion is not None
        fused: Fused = self.model.fusion(words, self.view(rows, words))
        return fused
