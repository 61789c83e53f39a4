"""BLEU, ROUGE-L and CIDEr of generated captions, equal to pycocoevalcap's but in Python alone.

A caption is a sequence of tokens. ``candidates`` has one for each image, ``references`` the captions that people wrote
for it, in the same order. The COCO server ran pycocoevalcap, whose tokenizer needs Java; ``tokenise`` does not.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plugins.metrics.caption_tokens import tokenise as tokenise

Caption = Sequence[str]
Gram = tuple[str, ...]

ORDER = 4  # CIDEr's longest n-gram
SIGMA = 6.0  # of CIDEr's Gaussian penalty on a difference in length, in bigrams
BETA = 1.2  # weight of recall relative to precision in ROUGE-L


def bleu(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]], n: int = 4) -> float:
    """BLEU-n of the whole collection (Papineni et al. 2002), from 0 to 1.

    A candidate's length is compared with that of its closest reference, the shorter of two. A precision of 0 counts as
    1e-15 over the n-grams, as in pycocoevalcap, so that no common 4-gram anywhere gives about 1e-4, not 0.

    Raises:
        ValueError: no images, one without references, or not one candidate for each; or captions not cut into tokens.
    """
    _check(candidates, references)
    right, guessed = [0] * n, [0] * n
    length = closest = 0
    for candidate, people in zip(candidates, references, strict=True):
        most: Counter[Gram] = Counter()
        for reference in people:
            most |= _grams(reference, n)
        for gram, count in (_grams(candidate, n) & most).items():
            right[len(gram) - 1] += count
        for k in range(n):
            guessed[k] += max(0, len(candidate) - k)
        length += len(candidate)
        closest += min((abs(len(reference) - len(candidate)), len(reference)) for reference in people)[1]
    if length == 0:
        return 0.0
    precision = math.prod((r + 1e-15) / (g + 1e-9) for r, g in zip(right, guessed, strict=True))
    return math.exp(min(0.0, 1 - closest / length)) * precision ** (1 / n)


def rouge_l(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> float:
    """Mean over images of ROUGE-L (Lin 2004), from 0 to 1: F measure of the longest common subsequence.

    Precision and recall are each the best over an image's references, not of the same one, as in pycocoevalcap.

    Raises:
        ValueError: as ``bleu``.
    """
    _check(candidates, references)
    return math.fsum(map(_rouge_l, candidates, references)) / len(candidates)


def _rouge_l(candidate: Caption, people: Sequence[Caption]) -> float:
    common = [(_common(candidate, reference), len(reference)) for reference in people]
    precision = max(shared for shared, _ in common) / max(len(candidate), 1)
    recall = max(shared / max(length, 1) for shared, length in common)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def _common(one: Caption, two: Caption) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(two) + 1)  # with the words of ``one`` so far, and the first j of ``two``
    for word in one:
        before = 0
        for j, other in enumerate(two, 1):
            before, best[j] = best[j], before + 1 if word == other else max(best[j], best[j - 1])
    return best[-1]


def cider(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> float:
    """Mean over images of CIDEr (Vedantam et al. 2015), from 0 to 10, equal to pycocoevalcap's ``Cider``.

    That is the paper's CIDEr-D, as on the COCO server: cosine of tf-idf weights, those of the candidate clipped to the
    reference's, with a Gaussian penalty on lengths; mean over n from 1 to 4 and over references, times 10. An n-gram's
    document frequency is the number of images with it in a reference, so scores compare only on the same references.
    Papers print it times 100.

    Raises:
        ValueError: as ``bleu``; or a single image, for which all weights are 0 (pycocoevalcap gives 0).
    """
    _check(candidates, references)
    rarity = _Rarity.of(references)
    scores = []
    for candidate, people in zip(candidates, references, strict=True):
        weighed = rarity.weigh(candidate)
        scores.append(math.fsum(_similarity(weighed, rarity.weigh(reference)) for reference in people) / len(people))
    return math.fsum(scores) / len(scores)


def best_constant(references: Sequence[Sequence[Caption]]) -> Caption:
    """Return the reference with the highest CIDEr as the candidate for every image.

    A captioner that ignores the image can reach this score; it is chosen on the references that it is scored on. One
    pass over the references sums up each n-gram's part in all similarities, so the time is linear in their number.

    Raises:
        ValueError: fewer than two images, or one without references.
    """
    _check_references(references)
    rarity = _Rarity.of(references)
    # of each n-gram, by length and weight of the references with it: the sum of weight / norm, an image counting 1
    sums: dict[Gram, dict[tuple[int, float], float]] = defaultdict(lambda: defaultdict(float))
    for people in references:
        for reference in map(rarity.weigh, people):
            for gram, weight in reference.weights.items():
                sums[gram][reference.length, weight] += weight / reference.norms[len(gram)] / len(people)

    known: dict[tuple[Gram, float, int], float] = {}  # the same for every caption of that length and weight

    def part(gram: Gram, weight: float, length: int) -> float:
        key = gram, weight, length
        if key not in known:
            known[key] = math.fsum(
                min(weight, other) * share * _closeness(length, other_length)
                for (other_length, other), share in sums[gram].items()
            )
        return known[key]

    def total(caption: Caption) -> float:
        weighed = rarity.weigh(caption)
        return math.fsum(
            part(gram, w, weighed.length) / weighed.norms[len(gram)] for gram, w in weighed.weights.items()
        )

    return max(sorted({tuple(reference) for people in references for reference in people}), key=total)


@dataclass(frozen=True)
class _Weighed:
    """The n-grams of a caption with their non-zero tf-idf weights; norms by n; length in bigrams."""

    weights: Mapping[Gram, float]
    norms: Mapping[int, float]
    length: int


@dataclass(frozen=True)
class _Rarity:
    """Document frequencies: number of images in whose references each n-gram occurs."""

    images: int
    frequency: Mapping[Gram, int]

    @classmethod
    def of(cls, references: Sequence[Sequence[Caption]]) -> _Rarity:
        if len(references) < 2:
            raise ValueError(f"CIDEr weights words by how few images have them: needs 2 or more, got {len(references)}")
        frequency: Counter[Gram] = Counter()
        for people in references:
            frequency.update({gram for reference in people for gram in _grams(reference, ORDER)})
        return cls(len(references), frequency)

    def weigh(self, caption: Caption) -> _Weighed:
        weights: dict[Gram, float] = {}
        squares: dict[int, float] = defaultdict(float)
        for gram, count in _grams(caption, ORDER).items():
            weight = count * (math.log(self.images) - math.log(self.frequency.get(gram, 1)))
            if weight:
                weights[gram] = weight
                squares[len(gram)] += weight**2
        norms = {k: math.sqrt(square) for k, square in squares.items()}
        return _Weighed(weights, norms, max(0, len(caption) - 1))


def _similarity(candidate: _Weighed, reference: _Weighed) -> float:
    """From 0 to 10, mean over n."""
    total = math.fsum(
        min(weight, reference.weights[gram])
        * reference.weights[gram]
        / (candidate.norms[len(gram)] * reference.norms[len(gram)])
        for gram, weight in candidate.weights.items()
        if gram in reference.weights
    )
    return 10 / ORDER * total * _closeness(candidate.length, reference.length)


def _closeness(one: int, two: int) -> float:
    return math.exp(-((one - two) ** 2) / (2 * SIGMA**2))


def _grams(caption: Caption, n: int) -> Counter[Gram]:
    """Count all n-grams of 1 to ``n`` tokens."""
    return Counter(tuple(caption[i : i + k]) for k in range(1, n + 1) for i in range(len(caption) - k + 1))


def _check(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> None:
    if len(candidates) != len(references):
        raise ValueError(
            f"{len(candidates)} candidates for the references of {len(references)} images: must be one for each"
        )
    _check_references(references)
    _check_tokens(candidates)


def _check_references(references: Sequence[Sequence[Caption]]) -> None:
    if not references:
        raise ValueError("references of 0 images: must be at least 1")
    for place, people in enumerate(references):
        if not people:
            raise ValueError(f"image {place} of {len(references)} (from 0) has 0 references: must be at least 1")
        _check_tokens(people)


def _check_tokens(captions: Sequence[Caption]) -> None:
    """A text is a sequence of strings too, of its letters: its scores would look right and be wrong."""
    for caption in captions:
        if isinstance(caption, str):
            raise ValueError(f"caption {caption!r} is text, must be its tokens: call tokenise on it first")
