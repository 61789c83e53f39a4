"""Re-ranking of the best candidates of ITC by ITM, in both directions of retrieval.

The score of a candidate is ITC's logit plus w times ITM's log-odds of a match; how much the log-odds spread depends on
the training, so w is fitted. Letters: n images and as many texts, k candidates of a query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.evaluation import Evaluation
from core.types import Tokens
from plugins.metrics.features import match_log_odds
from plugins.metrics.settings import RetrievalSettings

FIT_STEPS = 100
MAX_WEIGHT = 1000.0  # in place of infinity, if ITC's logits do not help


def ranks(scores: Tensor) -> Tensor:
    """Count the wrong candidates before the right one, which is on the diagonal: (n, n) -> (n,)."""
    right = scores.diagonal().unsqueeze(1)  # (n, 1)
    return (scores < right).logical_not().sum(1) - 1


def reranks(scores: Tensor, top: Tensor, new_scores: Tensor) -> Tensor:
    """Ranks (n,) after the k best candidates are re-ranked. A right answer that is not among them keeps its rank.

    Args:
        scores: (n, n) by which ``top`` (n, k) was chosen.
        new_scores: (n, k), by which they are ranked again.
    """
    first = ranks(scores)  # (n,)
    right = top == torch.arange(len(top), device=top.device).unsqueeze(1)  # (n, k), at most one a row
    target = new_scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)  # (n, 1)
    second = (new_scores < target).logical_not().sum(1) - 1  # (n,)
    return torch.where(right.any(1) & (first < top.shape[1]), second, first)


@dataclass(frozen=True)
class Candidates:
    """The k best candidates by ITC of each query, with both scores; images to texts first, then texts to images."""

    similar: Tensor  # (n, n) cosines, images by texts
    top: Tensor  # (2, n, k) int64
    logits: Tensor  # (2, n, k), of ITC
    log_odds: Tensor  # (2, n, k), of ITM

    def ranks(self, weight: float) -> tuple[Tensor, Tensor]:
        """Ranks (n,) of both directions, re-ranked by the logits plus ``weight`` times the log-odds."""
        scores = self.logits + weight * self.log_odds  # (2, n, k)
        similar = self.similar, self.similar.T
        to_text, to_image = map(reranks, similar, self.top, scores)
        return to_text, to_image

    def fit_weight(self) -> float:
        """Fit the weight by maximum likelihood: a softmax over the candidates, for queries whose answer is among them.

        The fit has two factors, of the logits and of the log-odds; it is convex, and the ranks depend on their ratio
        alone. Factors below 0 count as 0. 1.0 without such a query.
        """
        n = len(self.similar)
        right = self.top == torch.arange(n, device=self.top.device).view(1, n, 1)  # (2, n, k), at most one a row
        usable = right.any(-1)  # (2, n)
        if not usable.any():
            return 1.0
        scores = torch.stack([self.logits[usable], self.log_odds[usable]], -1).detach().double()  # (q, k, 2)
        target = right[usable].int().argmax(-1)  # (q,)
        scale = scores.std((0, 1)).clamp_min(1e-6)  # (2,)
        factors = torch.ones(2, dtype=torch.double, device=scores.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([factors], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            penalty = 1e-4 * factors.square().sum()  # finite where all queries are separated
            loss = F.cross_entropy((scores / scale) @ factors, target) + penalty
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        itc, itm = (factors.detach() / scale).clamp_min(0).tolist()
        return min(itm / itc, MAX_WEIGHT) if itc > 0 else MAX_WEIGHT


def find_candidates(evaluation: Evaluation, similar: Tensor, words: Tokens, tokens: Tokens) -> Candidates:
    """Compute ITM's log-odds of the best candidates; a pair that is a candidate in both directions is computed once.

    Args:
        similar: (n, n) cosines, images by texts.
        tokens: the trunk's tokens (n, N, D) if a text guides the pruners, else the backbone's output.
    """
    n = len(similar)
    k = min(evaluation.settings_for(RetrievalSettings).rerank, n)
    top = torch.stack([similar.topk(k, dim=1).indices, similar.T.topk(k, dim=1).indices])  # (2, n, k)
    query = torch.arange(n, device=similar.device).unsqueeze(1)
    pairs, place = torch.cat([query * n + top[0], top[1] * n + query]).flatten().unique(return_inverse=True)
    chunks = pairs.split(evaluation.settings.batch)  # of image * n + text
    odds = torch.cat([match_log_odds(evaluation.model, tokens.rows(c // n), words.rows(c % n)) for c in chunks])
    logits = evaluation.model.heads["temperature"](similar)  # (n, n)
    return Candidates(
        similar,
        top,
        torch.stack([logits.gather(1, top[0]), logits.T.gather(1, top[1])]),  # (2, n, k)
        odds[place].view(2, n, k),
    )
