"""Pure functions from logits to the next token. Letters: R texts, S tokens of a text, V vocabulary, k candidates."""

from __future__ import annotations

import torch
from torch import Tensor

NUCLEUS_TOKENS = 256  # the likeliest tokens, among which a nucleus is searched before all are sorted


def apply_repetition_penalty(logits: Tensor, ids: Tensor, mask: Tensor, penalty: float) -> Tensor:
    """Apply CTRL's repetition penalty (Keskar et al. 2019, section 4.1), with the sign of each logit respected.

    Args:
        logits: (R, V).
        ids: (R, S) tokens of the texts; those outside ``mask`` (R, S) do not count.
        penalty: above 1 makes repetition rarer.

    Returns:
        (R, V): logits of repeated tokens are divided by the penalty if positive, else multiplied by it.
    """
    repeated = torch.zeros_like(logits).scatter_add_(1, ids, mask.to(logits.dtype)) > 0  # (R, V)
    return torch.where(repeated, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def mask_token(logits: Tensor, token: int) -> Tensor:
    """Return logits (R, V) in which one token is impossible."""
    return logits.index_fill(1, torch.tensor([token], device=logits.device), -torch.inf)


def sample_token(logits: Tensor, noise: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Sample a token for each row by the inverse of its cumulative distribution.

    Args:
        logits: (R, V).
        noise: (R,) from [0, 1): a row's token depends on its own number alone.
        temperature, top_k, top_p: as in ``Generation``, applied in this order.

    Returns:
        (R,) int64.
    """
    logits = logits / temperature
    if top_k:
        values, order = logits.topk(min(top_k, int(logits.shape[1])))  # (R, k), likeliest first
        return _pick(values.softmax(1), order, noise, top_p)
    probabilities = logits.softmax(1)  # (R, V)
    if top_p == 1:
        order = torch.arange(int(probabilities.shape[1]), device=probabilities.device).expand_as(probabilities)
        return _pick(probabilities, order, noise, top_p)
    values, order = probabilities.topk(min(NUCLEUS_TOKENS, int(probabilities.shape[1])))  # (R, k)
    tokens = _pick(values, order, noise, top_p)  # (R,)
    larger = (values.sum(1) < top_p).nonzero().flatten()  # rows whose nucleus has more than NUCLEUS_TOKENS
    if len(larger):
        values, order = probabilities[larger].sort(dim=1, descending=True, stable=True)
        tokens[larger] = _pick(values, order, noise[larger], top_p)
    return tokens


def _pick(probabilities: Tensor, order: Tensor, noise: Tensor, top_p: float) -> Tensor:
    """Pick from the tokens ``order`` (R, k), of which the fewest first with a total of ``top_p`` are possible -> (R,).

    Args:
        probabilities: (R, k), of these tokens.
    """
    if top_p < 1:
        probabilities = probabilities.masked_fill(probabilities.cumsum(1) - probabilities >= top_p, 0)
    cumulative = probabilities.cumsum(1)  # (R, k)
    chosen = torch.searchsorted(cumulative, (noise.to(cumulative) * cumulative[:, -1])[:, None], right=True)  # (R, 1)
    last = (probabilities > 0).int().cumsum(1).argmax(1, keepdim=True)  # (R, 1): rounding may lead past the end
    return order.gather(1, chosen.minimum(last)).squeeze(1)  # (R,)
