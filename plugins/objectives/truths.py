"""Captions of other rows that are true of an image, for objectives that leave them out of their negatives."""

from __future__ import annotations

from torch import Tensor

from core.types import Batch


def other_truths(batch: Batch, columns: int) -> Tensor:
    """Mark the pairs of different rows that are true: (b, 2, C) bool, as ``Batch.truths``, without a row's own.

    Args:
        columns: C, either b: those of this slice, or B: those of the whole batch.

    Raises:
        ValueError: the data does not fill ``truths``.
    """
    truths = batch.truths  # (b, 2, B)
    if truths is None:
        raise ValueError("exclude_true: the data part does not fill the batch's field truths; set it to false")
    if columns == len(truths):
        columns_of_rows = truths[:, 0].argmax(1)  # (b,), the column of the row itself: it has the largest value, 2
        truths = truths[:, :, columns_of_rows]  # (b, 2, b)
    return truths == 1
