"""From logits to the next word: pure functions. Letters: R texts under way, V words, k words to draw from."""

from __future__ import annotations

import torch
from torch import Tensor

HEAD = 256  # likeliest words among which a nucleus is looked for before all are sorted


def penalise(logits: Tensor, ids: Tensor, mask: Tensor, penalty: float) -> Tensor:
    """CTRL's repetition penalty (Keskar et al. 2019, section 4.1), keeping signs apart.

    Args:
        logits: (R, V).
        ids: (R, S) what the texts hold; those outside ``mask`` (R, S) do not count.
        penalty: above 1 makes repetition rarer.
    """
    held = torch.zeros_like(logits).scatter_add_(1, ids, mask.to(logits.dtype)) > 0  # (R, V)
    return torch.where(held, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def ban(logits: Tensor, word: int) -> Tensor:
    """The same with one word impossible."""
    return logits.index_fill(1, torch.tensor([word], device=logits.device), -torch.inf)


def draw(logits: Tensor, numbers: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """A word for each row by the inverse of its cumulative distribution.

    Args:
        logits: (R, V).
        numbers: (R,) from [0, 1): a row's word depends on its own number alone.
        temperature, top_k, top_p: as in ``Generation``, in this order.

    Returns:
        (R,) int64.
    """
    logits = logits / temperature
    if top_k:
        values, order = logits.topk(min(top_k, int(logits.shape[1])))  # (R, k), likeliest first
        return _pick(values.softmax(1), order, numbers, top_p)
    shares = logits.softmax(1)
    if top_p == 1:
        order = torch.arange(int(shares.shape[1]), device=shares.device).expand_as(shares)
        return _pick(shares, order, numbers, top_p)
    values, order = shares.topk(min(HEAD, int(shares.shape[1])))
    words = _pick(values, order, numbers, top_p)
    short = (values.sum(1) < top_p).nonzero().flatten()  # rows whose nucleus is larger
    if len(short):
        values, order = shares[short].sort(dim=1, descending=True, stable=True)
        words[short] = _pick(values, order, numbers[short], top_p)
    return words


def _pick(shares: Tensor, order: Tensor, numbers: Tensor, top_p: float) -> Tensor:
    """One of the words ``order`` (R, k) with probabilities ``shares`` (R, k), the fewest first that hold ``top_p``."""
    if top_p < 1:
        shares = shares.masked_fill(shares.cumsum(1) - shares >= top_p, 0)
    steps = shares.cumsum(1)
    chosen = torch.searchsorted(steps, (numbers.to(steps) * steps[:, -1])[:, None], right=True)
    last = (shares > 0).int().cumsum(1).argmax(1, keepdim=True)  # where rounding leads past the end
    return order.gather(1, chosen.minimum(last)).squeeze(1)
