"""Beam search.

Letters: B images, K beams, R = B K rows, T generated tokens, C candidates of a row, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plugins.generation.settings import GeneratedText, Generation


class Beams:
    """The unfinished texts' scores, and each image's best finished text.

    As in Sutskever et al. 2014: of all continuations of an image's texts the K likeliest are kept. A finished text
    reduces the width of its image's beam by one, so that a beam of width 1 is greedy search. Unfinished texts are
    ranked by log-probability, finished ones (end token or greatest length) by log-probability / length **
    length_penalty. An image's search stops when none of its unfinished texts can exceed its best.
    """

    def __init__(self, images: int, settings: Generation, end: int, device: torch.device):
        self.settings, self.end, self.length = settings, end, 0
        self.totals = torch.full((images, settings.beams), -torch.inf, dtype=torch.float64, device=device)  # (B, K)
        self.totals[:, 0] = 0  # the other rows start as copies
        self.widths = torch.full((images,), settings.beams, device=device)  # (B,), less the finished texts
        self.best_scores = torch.full((images,), -torch.inf, dtype=torch.float64, device=device)
        self.texts: list[tuple[int, ...]] = [()] * images

    @property
    def alive(self) -> Tensor:
        """Mask of the rows with an unfinished text, (B, K)."""
        return self.totals.isfinite()

    def grow(self, scores: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Append a token to each text.

        Args:
            scores: (R, V) log-probabilities of the next token.
            written: (R, T) the texts so far.

        Returns:
            For each new row the row that it continues (R,) and its token (R,).
        """
        count, width = self.totals.shape
        best, likely = scores.topk(min(width, int(scores.shape[1])))  # (R, V) -> (R, C): at most K of a row are needed
        choices = int(best.shape[1])
        joint = self.totals[..., None] + best.double().view(count, width, choices)  # (B, K, C)
        totals, chosen = joint.flatten(1).topk(width)  # (B, K), likeliest first
        words = likely.view(count, -1).gather(1, chosen)  # (B, K)
        origin = chosen // choices + width * torch.arange(count, device=chosen.device)[:, None]  # (B, K), of R
        self.length += 1
        ranks = torch.arange(width, device=chosen.device)
        kept = (ranks < self.widths[:, None]) & totals.isfinite()
        ended = kept & ((words == self.end) | (self.length == self.settings.max_length))
        self._end(totals.masked_fill(~ended, -torch.inf), origin, words, written)
        self.widths = self.widths - ended.sum(1)
        self.totals = totals.masked_fill(~kept | ended, -torch.inf)
        self.totals[self.best_scores >= self._bound()] = -torch.inf
        return origin.flatten(), words.flatten()

    def _end(self, totals: Tensor, origin: Tensor, words: Tensor, written: Tensor) -> None:
        """Record the texts that end now, where ``totals`` (B, K) is finite; ``origin``, ``words`` (B, K)."""
        score, rank = (totals / self.length**self.settings.length_penalty).max(1)  # (B,)
        for image in (score > self.best_scores).nonzero().flatten().tolist():
            beam = rank[image]
            last = int(words[image, beam])
            text = tuple(written[origin[image, beam]].tolist())
            self.texts[image] = text if last == self.end else (*text, last)
        self.best_scores = torch.maximum(score, self.best_scores)

    def _bound(self) -> Tensor:
        """Bound the scores of unfinished texts, (B,): log-probabilities only fall, lengths only grow."""
        penalty = self.settings.length_penalty
        length = self.settings.max_length if penalty > 0 else self.length + 1
        bound: Tensor = self.totals.amax(1) / length**penalty
        return bound

    def best(self) -> list[GeneratedText]:
        """Return each image's best text."""
        return [GeneratedText(text, float(score)) for text, score in zip(self.texts, self.best_scores, strict=True)]
