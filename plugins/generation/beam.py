"""Beam search over next-word scores. Letters: B pictures, K beams, R = B K rows, T words written, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from plugins.generation.settings import Generation, Written


class Beams:
    """The best texts found, and the scores of those under way.

    As in Sutskever et al. 2014: of all continuations of a picture's texts the K likeliest are kept; one that ends takes
    its place out of the beam for good, so that a beam of width 1 is the greedy search. Texts are compared by
    log-probability while under way, and by log-probability over length ** length_penalty once they have ended or
    reached the greatest length. A picture's search stops when none of its texts can still beat its best.
    """

    def __init__(self, pictures: int, settings: Generation, end: int, device: torch.device):
        self.settings, self.end, self.length = settings, end, 0
        self.totals = torch.full((pictures, settings.beams), -torch.inf, dtype=torch.float64, device=device)
        self.totals[:, 0] = 0  # the other rows start as copies
        self.places = torch.full((pictures,), settings.beams, device=device)  # of the beam, not yet taken by an end
        self.best_scores = torch.full((pictures,), -torch.inf, dtype=torch.float64, device=device)
        self.texts: list[tuple[int, ...]] = [()] * pictures

    @property
    def alive(self) -> Tensor:
        """(B, K): which rows hold a text under way."""
        return self.totals.isfinite()

    def grow(self, scores: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """One word more.

        Args:
            scores: (R, V) log-probabilities of the next words.
            written: (R, T) the texts so far.

        Returns:
            The rows (R,) that the texts now under way go on from, and the words (R,) that they go on with.
        """
        pictures, width = self.totals.shape
        best, likely = scores.topk(min(width, int(scores.shape[1])))  # (R, V) -> (R, C): no row gives more than K
        choices = int(best.shape[1])
        joint = self.totals[..., None] + best.double().view(pictures, width, choices)  # (B, K, C)
        totals, chosen = joint.flatten(1).topk(width)  # (B, K), the likeliest first
        words = likely.view(pictures, -1).gather(1, chosen)  # (B, K)
        origin = chosen // choices + width * torch.arange(pictures, device=chosen.device)[:, None]  # (B, K), of R
        self.length += 1
        ranks = torch.arange(width, device=chosen.device)
        kept = (ranks < self.places[:, None]) & totals.isfinite()
        ended = kept & ((words == self.end) | (self.length == self.settings.max_length))
        self._end(totals.masked_fill(~ended, -torch.inf), origin, words, written)
        self.places = self.places - ended.sum(1)
        self.totals = totals.masked_fill(~kept | ended, -torch.inf)
        self.totals[self.best_scores >= self._bound()] = -torch.inf
        return origin.flatten(), words.flatten()

    def _end(self, totals: Tensor, origin: Tensor, words: Tensor, written: Tensor) -> None:
        """Texts that end now, where ``totals`` (B, K) is finite."""
        score, rank = (totals / self.length**self.settings.length_penalty).max(1)
        for picture in (score > self.best_scores).nonzero().flatten().tolist():
            beam = rank[picture]
            last = int(words[picture, beam])
            text = tuple(written[origin[picture, beam]].tolist())
            self.texts[picture] = text if last == self.end else (*text, last)
        self.best_scores = torch.maximum(score, self.best_scores)

    def _bound(self) -> Tensor:
        """(B,) what the texts under way may reach: log-probabilities only fall, lengths only grow."""
        penalty = self.settings.length_penalty
        length = self.settings.max_length if penalty > 0 else self.length + 1
        bound: Tensor = self.totals.amax(1) / length**penalty
        return bound

    def best(self) -> list[Written]:
        """Each picture's best text."""
        return [Written(text, float(score)) for text, score in zip(self.texts, self.best_scores, strict=True)]
